"""Puts the measured figures into the README: the digits table, from the evaluations of two runs.

    python benchmarks/digits_table.py [ROOT]

It reads ROOT/runs/quickstart and ROOT/runs/flow (the README names the commands that make them), writes
ROOT/benchmarks/results/quickstart.json, and rewrites ROOT/README.md between the markers of the table. Each score is
[mean, half the range] over the sampling seeds.
"""

import json
import re
import sys

from cm_multimodal.errors import DataError, UsageError, UserError
from cm_multimodal.evaluation.report import DIGITS, SCORES, Summary, summaries
from cm_multimodal.evaluation.runner import Row
from cm_multimodal.training.records import RunRecord
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUNS = {"quickstart": "improved_mean_flow", "flow": "flow_matching"}  # and what they have to be trained with
FEW, MANY = (1, 2, 4, 8), (1, 2, 4, 8, 100)
WANTED = {"map": FEW, "diagonal": MANY, "flow_matching": MANY, "real": (0,)}
TITLES = {
    "map": "the map",
    "diagonal": "its diagonal, Euler",
    "flow_matching": "flow matching alone, Euler",
    "real": "real digits",
}
SHARED = ("n", "seeds", "reference", "features", "k", "classifier", "data", "samples_seen")
MARKED = re.compile(r"(<!-- table: digits -->\n).*?(<!-- end -->)", re.DOTALL)

Entry = dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """A run's protocol record, the summaries of its rows, and the minutes and threads that its training took."""

    protocol: Mapping[str, Any]
    rows: Sequence[Summary]
    minutes: float
    threads: int

    def method(self, name: str) -> list[Entry]:
        """The rows of a method."""
        return [_entry(row) for row in self.rows if row.method == name]


def main(root: Path = ROOT) -> None:
    """Writes the figures and the table."""
    quickstart, flow = (read(root / "runs" / name, objective) for name, objective in RUNS.items())
    differing = [key for key in SHARED if quickstart.protocol[key] != flow.protocol[key]]
    if differing:
        raise UsageError(f"The two evaluations cannot share a table: they differ in {', '.join(differing)}.")
    figures = {"map": quickstart.method("map"), "diagonal": quickstart.method("diagonal")}
    figures |= {"flow_matching": flow.method("diagonal"), "real": quickstart.method("real")}
    check(figures)
    runs = {name: {"minutes": run.minutes, **run.protocol} for name, run in zip(RUNS, (quickstart, flow), strict=True)}
    out = root / "benchmarks" / "results" / "quickstart.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**figures, "runs": runs}, indent=1, ensure_ascii=False) + "\n")
    rewrite(root / "README.md", f"{table(figures)}\n\n{caption(quickstart, flow)}\n")
    print(f"{out}, {root / 'README.md'}")


def read(folder: Path, objective: str) -> Evaluated:
    """Reads the evaluation of a run, and what its log says of the time."""
    file = folder / "evaluation" / "metrics.json"
    if not file.exists():
        raise UsageError(f"There is no '{file}'; the README names the commands that make it.")
    record = json.loads(file.read_text())
    if record["protocol"]["objective"] != objective:
        raise DataError(f"'{folder}' was trained with {record['protocol']['objective']}, not with {objective}.")
    return Evaluated(
        record["protocol"], summaries([Row(**row) for row in record["rows"]]), minutes(folder), threads(folder)
    )


def minutes(folder: Path) -> float:
    """Returns how long a training took, previews and checkpoints included, from the speeds in its log."""
    log = [json.loads(line) for line in (folder / "speed.jsonl").read_text().splitlines()]
    rows = [{"samples": 0}, *log]
    seconds = [(b["samples"] - a["samples"]) / b["samples_per_s"] for a, b in pairwise(rows)]
    return round(sum(seconds) / 60, 1)


def threads(folder: Path) -> int:
    """Returns the number of CPU threads that a training ran on."""
    return RunRecord(folder).threads() or 0


def check(figures: Mapping[str, list[Entry]]) -> None:
    """Makes sure that every row of the table was measured."""
    for method, steps in WANTED.items():
        missing = set(steps) - {entry["steps"] for entry in figures[method]}
        if missing:
            raise DataError(f"'{TITLES[method]}' was not evaluated at {sorted(missing)} steps; see the README.")


def table(figures: Mapping[str, list[Entry]]) -> str:
    """Returns the table in Markdown."""
    names = ["", "steps", "calls", *SCORES.values()]
    lines = [f"| {' | '.join(names)} |", f"|---|{'--:|' * (len(names) - 1)}"]
    for method, entries in figures.items():
        for entry in entries:
            counts = ["", ""] if method == "real" else [str(entry["steps"]), str(entry["calls"])]
            cells = [TITLES[method], *counts, *(cell(entry, name, method == "real") for name in SCORES)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(entry: Entry, name: str, alone: bool) -> str:
    """Returns a score as the table shows it."""
    mean, spread = (f"{value:.{DIGITS[name]}f}" for value in entry[name])
    return mean if alone else f"{mean} ± {spread}"


def caption(quickstart: Evaluated, flow: Evaluated) -> str:
    """Returns what was measured, on what, as one line."""
    protocol = quickstart.protocol
    return (
        f"Measured at commit {protocol['commit'][:10] or 'unknown'} on {protocol['hardware']} "
        f"({protocol['versions']}); {protocol['samples_seen']:,} training samples each, which took improved mean flow "
        f"{quickstart.minutes} minutes on {quickstart.threads} threads and flow matching {flow.minutes} minutes on "
        f"{flow.threads}."
    )


def rewrite(readme: Path, content: str) -> None:
    """Puts new content between the markers."""
    text = readme.read_text()
    if len(MARKED.findall(text)) != 1:
        raise DataError(
            f"'{readme}' has no place for the table, or several: '<!-- table: digits -->' to '<!-- end -->'."
        )
    readme.write_text(MARKED.sub(lambda found: f"{found[1]}\n{content}\n{found[2]}", text))


def _entry(row: Summary) -> Entry:
    scores = {name: [row.means[name], row.spreads[name]] for name in SCORES}
    return {"steps": row.steps, "calls": row.calls, **scores}


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:2]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
