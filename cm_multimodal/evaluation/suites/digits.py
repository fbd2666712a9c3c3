r"""Digits: the same network, trained by every objective for the same time, scored as `cmm evaluate` does.

How many samples an objective sees in the time is measured before anything is trained, on a short training of its own that
passes through the whole of its schedule, one objective after the other; what else the machine does during the trainings
then changes nothing. The best ones are trained again with other seeds. A teacher is the suite's own flow matching, whose
training comes first and is not counted.
"""

__all__ = ["Digits"]

import contextlib
import copy
import dataclasses
import functools
import json
import math
import statistics
import tempfile
import torch

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from matplotlib.figure import Figure
from pathlib import Path
from typing import Any

from ... import signals
from ...errors import DataError, Diverged, UsageError
from ...files import read_text, write_text
from ...machine import describe_machine
from ...model import Model
from ...objectives import OBJECTIVES
from ...training.records import RunRecord, read_config, seconds_of, speeds, training_seconds
from ...training.run import train
from ..benchmark import Case, Compose, Report, Row, Suite
from ..reference import reference
from ..runner import evaluate, real_row
from ..tables import grouped, known_objectives, markdown, notes

SCORES = {"accuracy": 4, "frechet": 3, "precision": 3, "recall": 3}
TEACHER, SPEEDS = "flow_matching", "speeds.json"


@dataclass(frozen=True)
class Settings:
    """The settings of the suite.

    Arguments:
        experiment: The experiment whose network and data are used.
        seconds: How long each training lasts.
        probe: The updates of the short training that its speed is measured on.
        steps: Numbers of steps that are scored.
        seeds: Sampling seeds.
        again: How many of the best are trained again.
        training_seeds: The seeds of those; the first is that of all.
        runs: The folder of the runs.
        overrides: Options of `cmm train` that differ from the objective's own, by name.
        remarks: What a reader must know of an objective's row, by name.
    """

    experiment: str = "image/digits"
    seconds: float = 120.0
    probe: int = 100
    steps: tuple[int, ...] = (1, 2, 4, 8)
    seeds: tuple[int, ...] = (0, 1, 2)
    again: int = 5
    training_seeds: tuple[int, ...] = (0, 1, 2)
    runs: str = "runs/benchmark"
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        chosen = (self.steps, self.seeds, self.training_seeds)
        if not (self.seconds > 0 and all(chosen) and self.again >= 0 and self.probe >= 10):
            raise UsageError(
                "settings: seconds is above 0, again not negative, probe at least 10, steps and seeds are not empty."
            )
        known_objectives("settings.overrides", self.overrides)
        known_objectives("settings.remarks", self.remarks)
        for name, words in self.overrides.items():
            if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
                raise UsageError(f"settings.overrides.{name}={words} is not possible; it is a list of KEY=VALUE.")


class Digits(Suite):
    """The suite of real digits.

    Arguments:
        settings: Its settings.
        compose: The way to configurations.
    """

    name = "digits"
    kind = Settings
    alone = True

    def __init__(self, settings: Settings, compose: Compose) -> None:
        self.settings, self.compose = settings, functools.cache(lambda *words: compose("train", words))
        self.seen: dict[str, int] = {}  # the samples that an objective has seen with its first training seed
        self.untaught = ""  # why there is no teacher

    def cases(self) -> list[Case]:
        return [self._case(name, self.settings.training_seeds[0]) for name in OBJECTIVES]

    def more(self, rows: Sequence[Row]) -> list[Case]:
        best = sorted(_worked(rows), key=self._rank)[: self.settings.again]
        self.seen |= {row.key["objective"]: row.values["samples"] for row in best}
        return [self._case(row.key["objective"], seed) for row in best for seed in self.settings.training_seeds[1:]]

    def prepare(self, cases: Sequence[Case], report: Report) -> None:
        """Measures the speeds that are not known, and trains the teacher where one is needed."""
        teacher, taught = self._teacher(), [case for case in cases if _has_teacher(case)]
        alone = [case for case in cases if not _has_teacher(case)]
        for case in [teacher] * bool(taught) + alone:
            self._measure_speed(case, report)
        if taught:
            try:
                self._train(teacher)
            except Diverged as error:
                self.untaught = f"The teacher diverged: {error}"
                return
        for case in taught:
            self._measure_speed(case, report)

    def measure(self, case: Case) -> dict[str, Any]:
        config, failed = case.config["train"], {"learned": [], "samples": 0, "scores": {}}
        if _has_teacher(case) and self.untaught:
            return {"failed": self.untaught, **failed}
        try:
            model = Model.load(self._train(case))
        except Diverged as error:
            return {"failed": str(error), **failed}
        ground = reference(model.bundle, config["data"], {**config["evaluation"], "seeds": list(self.settings.seeds)})
        scores: dict[str, dict[str, list[float]]] = {}
        for row in evaluate(model, ground, self.settings.steps):
            place = scores.setdefault(str(row.steps), {"calls": [], **{name: [] for name in SCORES}})
            for name in place:
                place[name].append(getattr(row, name))
        return {
            "learned": sorted(model.bundle.card.learned), "samples": model.bundle.card.samples_seen,
            "seconds": training_seconds(case.run(self.settings.runs, "seconds")), "scores": scores,
            "real": dataclasses.asdict(real_row(ground)),
        }  # fmt: skip

    def _train(self, case: Case) -> Path:
        """Trains a case, or what is left of it, and returns its run."""
        config, folder = case.config["train"], case.run(self.settings.runs, "seconds")
        free = {"samples": self._samples(case), "threads": torch.get_num_threads()}
        train({**config, "train": {**config["train"], **free}}, folder, lambda line: None)
        return folder

    def _samples(self, case: Case) -> int:
        """Returns how many samples a training sees in its time; one that was begun, and further seeds, keep that number."""
        if RunRecord(case.run(self.settings.runs, "seconds")).exists():
            return int(read_config(case.run(self.settings.runs, "seconds"))["train"]["samples"])
        if case.key["objective"] in self.seen:
            return self.seen[case.key["objective"]]
        batch, speed = case.config["train"]["train"]["batch"], self._speeds()[_work(case)]
        return max(round(speed * case.config["seconds"] / batch), 1) * batch

    def _measure_speed(self, case: Case, report: Report) -> None:
        known = case.key["objective"] in self.seen or _work(case) in self._speeds()
        if known or RunRecord(case.run(self.settings.runs, "seconds")).exists():
            return
        signals.check()
        speed = _samples_a_second(case.config["train"], self.settings.probe)
        report(f"{case.key['objective']}: {speed:.0f} samples a second")
        Path(self.settings.runs).mkdir(parents=True, exist_ok=True)
        write_text(Path(self.settings.runs) / SPEEDS, json.dumps({**self._speeds(), _work(case): speed}, indent=1))

    def _speeds(self) -> dict[str, float]:
        file = Path(self.settings.runs) / SPEEDS
        try:
            return dict(json.loads(read_text(file))) if file.exists() else {}
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"'{file}' cannot be read: {error}. Remove it to measure speeds anew.") from error

    def protocol(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    def table(self, rows: Sequence[Row]) -> str:
        head = ["objective", "learns", "samples", *(f"{n} step{'s' * (n > 1)}" for n in self.settings.steps)]
        parts = []
        for score, digits in SCORES.items():
            body = [self._line(name, group, score, digits) for name, group in self._ordered(rows)]
            real = "".join(f" (real digits: {row.values['real'][score]:.{digits}f})" for row in _worked(rows)[:1])
            parts += [f"**{WORDS[score]}**{real}", "", markdown(head, body), ""]
        return "\n".join([*parts, self._how(rows), "", notes(self.settings.remarks)]).rstrip()

    def plot(self, rows: Sequence[Row]) -> Figure:
        figure = Figure(figsize=(12, 5.5), layout="constrained")
        order = self._ordered(_worked(rows))
        for place, score in enumerate(("frechet", "accuracy"), 1):
            axes = figure.add_subplot(1, 2, place, xscale="log", xlabel="steps", ylabel=WORDS[score])
            if score == "frechet":
                axes.set_yscale("log")
            for index, (name, group) in enumerate(order):
                values = [_mean(group, str(n), score) for n in self.settings.steps]
                style = ("-", "--", ":")[index // 10 % 3]
                axes.plot(self.settings.steps, values, style, marker="o", markersize=3, label=name)
            axes.set_xticks(self.settings.steps, [str(n) for n in self.settings.steps])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
        return figure

    def _case(self, name: str, seed: int) -> Case:
        words = [f"experiment={self.settings.experiment}", f"objective={name}", f"seed={seed}", f"name={name}-{seed}"]
        words += self.settings.overrides.get(name, [])
        config = copy.deepcopy(self.compose(*words))
        if config["objective"].get("source", {}).get("name") == "teacher":
            config["objective"]["source"]["teacher"] = str(self._teacher().run(self.settings.runs, "seconds"))
        kept = {"train": config, "seconds": self.settings.seconds, "steps": list(self.settings.steps)}
        return Case({"objective": name, "training seed": seed}, {**kept, "seeds": list(self.settings.seeds)})

    def _teacher(self) -> Case:
        return self._case(TEACHER, self.settings.training_seeds[0])

    def _rank(self, row: Row) -> float:
        """Returns what a row is ordered by: its mean Fréchet distance in the first two numbers of steps."""
        if "failed" in row.values:
            return math.inf
        return statistics.fmean(
            statistics.fmean(row.values["scores"][str(steps)]["frechet"]) for steps in self.settings.steps[:2]
        )

    def _ordered(self, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
        groups = [(name, group) for (name,), group in grouped(rows, "objective").items()]
        return sorted(groups, key=lambda item: statistics.fmean(map(self._rank, item[1])))

    def _line(self, name: str, rows: Sequence[Row], score: str, digits: int) -> list[str]:
        learned = rows[0].values["learned"] or ["-"]
        whole = "triangle" if "triangle" in learned else learned[0]
        seen = f"{statistics.fmean([row.values['samples'] for row in _worked(rows)] or [0]):,.0f}"
        return [f"`{name}`", whole, seen, *(_cell(rows, str(n), score, digits) for n in self.settings.steps)]

    def _how(self, rows: Sequence[Row]) -> str:
        settings, hardware = self.settings, ", ".join(sorted({row.hardware for row in rows}))
        several = {name: group for name, group in self._ordered(rows) if len(group) > 1}
        again = ", ".join(f"`{name}` with {len(group)} training seeds" for name, group in several.items())
        return (
            f"`{settings.experiment}`; *samples*: those seen in {settings.seconds:g} seconds at the speed of a short "
            f"training beforehand, on {hardware}. Sampling seeds {list(settings.seeds)}, training seed "
            f"{settings.training_seeds[0]}{again and f' ({again})'}: mean ± half the range. In the order of the Fréchet "
            f"distance in {' and '.join(map(str, settings.steps[:2]))} steps."
        )


WORDS = {"accuracy": "Accuracy score", "frechet": "Fréchet distance", "precision": "Precision", "recall": "Recall"}


def _worked(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if "failed" not in row.values]


def _has_teacher(case: Case) -> bool:
    return case.config["train"]["objective"].get("source", {}).get("name") == "teacher"


def _work(case: Case) -> str:
    """Returns a checksum of what the speed of a training depends on."""
    where = {"processor": describe_machine()["processor"], "threads": torch.get_num_threads()}
    return Case(where, {**case.config["train"], "seed": None, "name": None}).hash


def _samples_a_second(config: Mapping[str, Any], updates: int) -> float:
    """Measures a short training, its first updates apart, up to where it diverges if it does."""
    short = {
        "checkpoint_every": 10**9, "preview_every": 10**9, "log_every": 1, "threads": torch.get_num_threads(),
        "samples": updates * config["train"]["batch"],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        with contextlib.suppress(Diverged):
            train({**config, "train": {**config["train"], **short}}, Path(place) / "probe", lambda line: None)
        rows = speeds(Path(place) / "probe")
    return (rows[-1]["samples"] - rows[0]["samples"]) / sum(seconds_of(rows)[1:]) if len(rows) > 1 else 0.0


def _mean(rows: Sequence[Row], steps: str, score: str) -> float:
    return statistics.fmean(value for row in rows for value in row.values["scores"][steps][score])


def _cell(rows: Sequence[Row], steps: str, score: str, digits: int) -> str:
    worked = _worked(rows)
    values = [value for row in worked for value in row.values["scores"][steps][score]]
    if not values:
        return "failed"
    failed = f" ({len(rows) - len(worked)} of {len(rows)} failed)" if len(worked) < len(rows) else ""
    return f"{statistics.fmean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}{failed}"
