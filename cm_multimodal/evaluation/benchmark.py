r"""The benchmark runner: a suite is a list of cases, each measured once, kept as a row, and shown in a table and a plot.

Rows are written as they come, with all that they depend on, so that a suite that was stopped goes on where it was. A row
is used again while its case asks for the same.
"""

__all__ = ["Case", "Compose", "Report", "Row", "Suite", "run_suite"]

import concurrent.futures
import dataclasses
import hashlib
import json

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from matplotlib.figure import Figure
from pathlib import Path
from typing import Any

from .. import signals
from ..errors import DataError
from ..files import read_text, write_text
from ..machine import describe_machine
from ..workers import pool
from .page import page
from .protocol import commit

Report = Callable[[str], None]
Compose = Callable[[str, Sequence[str]], dict[str, Any]]  # (verb, overrides) to a whole configuration
LARGEST = 1 << 26
LATER = {"weights": None, "train.shard": False}  # options that are younger than rows, and what their trainings had


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Arguments:
        key: What it is called in the table.
        config: All that its result depends on, as plain data.
    """

    key: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """A checksum of everything that the result depends on but the code."""
        config = {name: _as_before(part) if name == "train" else part for name, part in self.config.items()}
        text = json.dumps({"key": dict(self.key), "config": config}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def run(self, runs: str, *parts: str) -> Path:
        """Returns the folder of the run that it measures, below that of all runs: alike where its training is.

        Arguments:
            runs: The folder of all runs.
            parts: What the training depends on beside `config["train"]`, by its names in `config`.
        """
        depends = {part: self.config[part] for part in ("train", *parts)}
        depends["train"] = {key: value for key, value in depends["train"].items() if key != "evaluation"}
        return Path(runs) / f"{depends['train']['name']}-{Case({}, depends).hash[:8]}"


def _as_before(train: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    return {
        name: _as_before(value, f"{place}{name}.") if isinstance(value, Mapping) else value
        for name, value in train.items()
        if place + name not in LATER or value != LATER[place + name]
    }


@dataclass(frozen=True)
class Row:
    """A case that was measured.

    Arguments:
        key: What it is called.
        hash: The checksum of its case.
        config: All that its case depended on.
        values: What was measured.
        commit: The project's commit.
        hardware: Where.
    """

    key: Mapping[str, Any]
    hash: str
    values: Mapping[str, Any]
    commit: str
    hardware: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Suite(ABC):
    """A list of cases and the way to show them.

    Attributes:
        name: Its name.
        kind: Its settings: a value object.
        workers: How many cases it measures at a time, unless a person says otherwise.
        alone: Whether a case needs the machine to itself.
        kinds: What a person may choose some of: the key of a case that names it.
    """

    name: str
    kind: type[Any]
    workers: int = 1
    alone: bool = False
    kinds: str = "objective"

    @abstractmethod
    def __init__(self, settings: Any, compose: Compose) -> None:
        """Takes settings and the way to configurations."""

    @abstractmethod
    def cases(self) -> list[Case]:
        """Returns what is to be measured, in the order of the table."""

    def choices(self) -> list[str]:
        """Returns the names of all that a person may choose from."""
        return list(dict.fromkeys(case.key[self.kinds] for case in self.cases()))

    def more(self, rows: Sequence[Row]) -> list[Case]:
        """Returns further cases that depend on the rows of the first."""
        return []

    def prepare(self, cases: Sequence[Case], report: Report) -> None:  # noqa: B027
        """Does what has to be done once before some cases are measured."""

    @abstractmethod
    def measure(self, case: Case) -> dict[str, Any]:
        """Measures a case, in a process of its own where several are at work."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Returns how the numbers are made, as plain data."""

    @abstractmethod
    def table(self, rows: Sequence[Row]) -> str:
        """Returns the rows as a table in Markdown, with what a reader must know under it."""

    @abstractmethod
    def plot(self, rows: Sequence[Row]) -> Figure:
        """Returns a picture of the rows."""


def run_suite(
    suite: Suite, out: Path, only: Sequence[str] | None = None, workers: int = 1, report: Report = print
) -> list[Row]:
    """Measures what was not measured before, and writes `SUITE.json`, `SUITE.md`, `SUITE.png` and `SUITE.html`.

    Arguments:
        suite: The suite.
        out: Where results lie; rows that are there stay there.
        only: What is measured, of the suite's choices; all unless given. What is known of the others is shown too.
        workers: How many cases are measured at a time, each in a process of its own.
        report: Takes lines for a person.

    Raises:
        Interrupted: A signal to stop came; the rows that were finished are written.
        DataError: The results that are there cannot be read.
    """
    file = out / f"{suite.name}.json"
    out.mkdir(parents=True, exist_ok=True)
    first = suite.cases()
    known = _complete(suite, _chosen(suite, first, only), file, workers, report)
    more = suite.more(_found(first, known))
    known = _complete(suite, _chosen(suite, more, only), file, workers, report)
    rows = _found([*first, *more], known)
    table, figure = suite.table(rows), suite.plot(rows)
    _write(suite, list(_read(file).values()), file)
    write_text(out / f"{suite.name}.md", table + "\n")
    figure.savefig(out / f"{suite.name}.png", dpi=120)
    write_text(out / f"{suite.name}.html", page(f"cmm benchmark suite={suite.name}", table, figure))
    return rows


def _chosen(suite: Suite, cases: Sequence[Case], only: Sequence[str] | None) -> list[Case]:
    return [case for case in cases if only is None or case.key[suite.kinds] in only]


def _found(cases: Sequence[Case], known: Mapping[str, Row]) -> list[Row]:
    return [known[case.hash] for case in cases if case.hash in known]


def _complete(suite: Suite, cases: Sequence[Case], file: Path, workers: int, report: Report) -> dict[str, Row]:
    """Measures the cases that are not known yet, writes each to what is there, and returns all rows by their hash."""
    known = _read(file)
    waiting = [case for case in cases if case.hash not in known]
    if cases:
        report(f"{suite.name}: {len(cases)} cases, {len(waiting)} of them to be measured")
    if waiting:
        suite.prepare(waiting, report)
    for done, row in enumerate(_measure(suite, waiting, workers), 1):
        known = {**_read(file), row.hash: row}
        _write(suite, list(known.values()), file)
        report(f"{done}/{len(waiting)} {', '.join(map(str, row.key.values()))}: {_sentence(row)}")
    return known


def _measure(suite: Suite, cases: Sequence[Case], workers: int) -> Iterator[Row]:
    if workers == 1:
        for case in cases:
            signals.check()
            yield _row(suite, case)
        return
    with pool(workers) as executor:
        jobs = [executor.submit(_row, suite, case) for case in cases]
        for job in concurrent.futures.as_completed(jobs):
            yield job.result()
            signals.check()


def _row(suite: Suite, case: Case) -> Row:
    values, machine = suite.measure(case), describe_machine()
    hardware = ", ".join([machine["processor"], *machine["gpus"]])
    return Row(case.key, case.hash, values, commit(), hardware, case.config)


def _read(file: Path) -> dict[str, Row]:
    try:
        rows = [Row(**row) for row in json.loads(read_text(file, LARGEST))["rows"]] if file.exists() else []
        return {row.hash: row for row in map(_of_today, rows)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"'{file}' does not hold benchmark results: {error}. Remove it to measure anew.") from error


def _of_today(row: Row) -> Row:
    return dataclasses.replace(row, hash=Case(row.key, row.config).hash) if row.config else row


def _write(suite: Suite, rows: Sequence[Row], file: Path) -> None:
    record = {"protocol": suite.protocol(), "rows": [dataclasses.asdict(row) for row in rows]}
    write_text(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _sentence(row: Row) -> str:
    numbers = {name: value for name, value in row.values.items() if isinstance(value, int | float)}
    return row.values.get("failed") or ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
