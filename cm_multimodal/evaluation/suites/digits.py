r"""Digits: the same network, trained by every objective for the same time, scored as `cmm evaluate` does.

How many samples an objective sees in the time is measured first, on a short training of its own that passes through the
whole of its schedule. The best ones are trained again with other seeds. A teacher is the suite's own flow matching, whose
training comes first and is not counted.
"""

__all__ = ["Digits"]

import dataclasses
import json
import statistics
import tempfile

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from matplotlib.figure import Figure
from pathlib import Path
from typing import Any

from ...model import Model
from ...training.records import read_config
from ...training.run import train
from ..benchmark import Case, Compose, Row, Suite
from ..runner import evaluate, real_row, reference
from .base import grouped, markdown, notes, objective_names

SCORES = {"accuracy": 4, "frechet": 3, "precision": 3, "recall": 3}
TEACHER, PROBE = "flow_matching", 6400  # samples of the short training


@dataclass(frozen=True)
class Settings:
    """The settings of the suite.

    Arguments:
        experiment: The experiment whose network and data are used.
        seconds: How long each training lasts.
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
    steps: tuple[int, ...] = (1, 2, 4, 8)
    seeds: tuple[int, ...] = (0, 1, 2)
    again: int = 5
    training_seeds: tuple[int, ...] = (0, 1, 2)
    runs: str = "runs/benchmark"
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Digits(Suite):
    """The suite of real digits.

    Arguments:
        settings: Its settings.
        compose: The way to configurations.
        only: The objectives; all unless given.
    """

    name = "digits"
    kind = Settings

    def __init__(self, settings: Settings, compose: Compose, only: Sequence[str] | None = None) -> None:
        self.settings, self.compose = settings, compose
        names = objective_names(only)
        self.names = sorted(names, key=lambda name: name != TEACHER)

    def cases(self) -> list[Case]:
        return [self._case(name, self.settings.training_seeds[0]) for name in self.names]

    def more(self, rows: Sequence[Row]) -> list[Case]:
        best = sorted(rows, key=rank)[: self.settings.again]
        return [self._case(row.key["objective"], seed) for row in best for seed in self.settings.training_seeds[1:]]

    def measure(self, case: Case) -> dict[str, Any]:
        config = case.config["train"]
        folder = self._train(case)
        model = Model.load(folder)
        ground = reference(model.bundle, config["data"], {**config["evaluation"], "seeds": list(self.settings.seeds)})
        scores: dict[str, dict[str, list[float]]] = {}
        for row in evaluate(model, ground, self.settings.steps):
            place = scores.setdefault(str(row.steps), {"calls": [], **{name: [] for name in SCORES}})
            for name in place:
                place[name].append(getattr(row, name))
        return {
            "learned": sorted(model.bundle.card.learned), "samples": model.bundle.card.samples_seen,
            "seconds": _seconds(folder),
            "scores": scores, "real": dataclasses.asdict(real_row(model, ground)),
        }  # fmt: skip

    def _train(self, case: Case) -> Path:
        """Trains a case, and before it its teacher if that is not there (any more), and returns its run."""
        config = case.config["train"]
        folder = Path(self.settings.runs) / config["name"]
        source = config["objective"].get("source", {})
        if source.get("name") == "teacher" and not Path(source["teacher"]).exists():
            self._train(self._case(TEACHER, self.settings.training_seeds[0]))
        samples = _samples(config, folder, case.config["seconds"])
        train({**config, "train": {**config["train"], "samples": samples}}, folder, lambda line: None)
        return folder

    def protocol(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    def table(self, rows: Sequence[Row]) -> str:
        head = ["objective", "learns", "samples", *(f"{n} step{'s' * (n > 1)}" for n in self.settings.steps)]
        order = sorted(grouped(rows, "objective").items(), key=lambda item: min(map(rank, item[1])))
        parts = []
        for score, digits in SCORES.items():
            body = [self._line(name, group, score, digits) for (name,), group in order]
            real = rows[0].values["real"][score]
            parts += [f"**{WORDS[score]}** (real digits: {real:.{digits}f})", "", markdown(head, body), ""]
        return "\n".join([*parts, self._how(), "", notes(self.settings.remarks)]).rstrip()

    def plot(self, rows: Sequence[Row]) -> Figure:
        figure = Figure(figsize=(12, 5.5), layout="constrained")
        order = sorted(grouped(rows, "objective").items(), key=lambda item: min(map(rank, item[1])))
        for place, score in enumerate(("frechet", "accuracy"), 1):
            axes = figure.add_subplot(1, 2, place, xscale="log", xlabel="steps", ylabel=WORDS[score])
            if score == "frechet":
                axes.set_yscale("log")
            for index, ((name,), group) in enumerate(order):
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
        config = self.compose("train", words)
        if config["objective"].get("source", {}).get("name") == "teacher":
            teacher = Path(self.settings.runs) / f"{TEACHER}-{self.settings.training_seeds[0]}"
            config["objective"]["source"]["teacher"] = str(teacher)
        kept = {"train": config, "seconds": self.settings.seconds, "steps": list(self.settings.steps)}
        return Case({"objective": name, "training seed": seed}, {**kept, "seeds": list(self.settings.seeds)})

    def _line(self, name: str, rows: Sequence[Row], score: str, digits: int) -> list[str]:
        learned = rows[0].values["learned"]
        whole = "triangle" if "triangle" in learned else learned[0]
        seen = f"{statistics.fmean(row.values['samples'] for row in rows):,.0f}"
        return [f"`{name}`", whole, seen, *(_cell(rows, str(n), score, digits) for n in self.settings.steps)]

    def _how(self) -> str:
        settings = self.settings
        return (
            f"`{settings.experiment}`, {settings.seconds:g} seconds of training each, sampling seeds "
            f"{list(settings.seeds)}; the best {settings.again} by Fréchet distance in 1 and 2 steps with training seeds "
            f"{list(settings.training_seeds)}, the others with the first: mean ± half the range over all of them."
        )


WORDS = {"accuracy": "Accuracy score", "frechet": "Fréchet distance", "precision": "Precision", "recall": "Recall"}


def rank(row: Row) -> float:
    """Returns what a row is ordered by: its Fréchet distance in one and two steps."""
    return statistics.fmean(statistics.fmean(row.values["scores"][steps]["frechet"]) for steps in ("1", "2"))


def _samples(config: Mapping[str, Any], folder: Path, seconds: float) -> int:
    """Returns how many samples a training sees in a time, from a short one; a run that was begun keeps its number."""
    if (folder / "config.yaml").exists():
        return int(read_config(folder)["train"]["samples"])
    never = {"checkpoint_every": 10**9, "preview_every": 10**9, "log_every": 10}
    short = {**config, "train": {**config["train"], **never, "samples": PROBE}}
    with tempfile.TemporaryDirectory() as place:
        train(short, Path(place) / "probe", lambda line: None)
        rate = statistics.median(row["samples_per_s"] for row in _speed(Path(place) / "probe"))
    batch = config["train"]["batch"]
    return max(round(rate * seconds / batch), 1) * batch


def _speed(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "speed.jsonl").read_text().splitlines()]


def _seconds(folder: Path) -> float | None:
    """Returns how long a training took, from its log of speeds; nothing where it was too short to have one."""
    if not (folder / "speed.jsonl").exists():
        return None
    rows = _speed(folder)
    counts = [row["samples"] for row in rows]
    steps = [b - a for a, b in zip([0, *counts[:-1]], counts, strict=True)]
    return sum(step / row["samples_per_s"] for step, row in zip(steps, rows, strict=True))


def _mean(rows: Sequence[Row], steps: str, score: str) -> float:
    return statistics.fmean(value for row in rows for value in row.values["scores"][steps][score])


def _cell(rows: Sequence[Row], steps: str, score: str, digits: int) -> str:
    values = [value for row in rows for value in row.values["scores"][steps][score]]
    return f"{statistics.fmean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"
