r"""Worth: what synthetic data add to real data of which few are labelled.

For every task, a data set and the share of its labels that are known, up to four generators are trained with each seed:

    labelled   it saw the labelled part alone
    partly     it saw the rest too, without its classes
    sieved     so did this one, of a training that is chosen for it, and of what it drew some is left out: samples whose
               class is not likely to a classifier that is told the labelled part, and sees what its own network does or
               what can be seen of them (`cmm synth confidence=0.5 perception=true` does the same to a data set)
    whole      it knew all labels (with the first seed alone)

A small classifier is trained on the real samples alone that a generator was told the classes of, with its samples added, and
on its samples alone, and tested on the real test split. The seed says which samples are labelled, and is that of training
and of sampling; runs that are finished are used again while their configuration is the same.
"""

__all__ = ["Worth"]

import copy
import dataclasses
import functools
import torch

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from matplotlib.figure import Figure
from typing import Any

from ...errors import UsageError
from ...generation.perception import Perception
from ...generation.sampling import Samples
from ...generation.sieve import Sieve, told
from ...labelling import Labelling, only
from ...modality import Dataset, find_modality
from ...model import Model
from ...training.run import train
from ...training.settings import read_settings
from ..benchmark import Case, Compose, Row, Suite
from ..downstream import BOTH, REAL, SYNTHETIC, apart, check_source, trials
from ..tables import grouped, markdown, mean_and_spread, spread_of

GENERATORS = ("labelled", "partly", "sieved", "whole")


@dataclass(frozen=True)
class Task:
    """A data set of which few labels are known.

    Arguments:
        experiment: The experiment that trains on it.
        share: The share of its labels.
        amounts: The numbers of generated samples.
        steps: The network calls of a sample.
        overrides: Options of `cmm train`.
        only: Options of the generator that saw the labelled part alone, which may need fewer samples.
        sieved: Options of the generator whose samples are sieved; without any there is none.
        sieved_steps: The network calls of its samples.
        confidence: The least probability of their class.
        perception: Whether the sieve sees what the generator's network does, or what the judging classifier does.
    """

    experiment: str
    share: float
    amounts: tuple[int, ...]
    steps: int = 2
    overrides: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    sieved: tuple[str, ...] = ()
    sieved_steps: int = 10
    confidence: float = 0.5
    perception: bool = True

    def __post_init__(self) -> None:
        steps = min(self.steps, self.sieved_steps)
        if not (0 < self.share < 1 and self.amounts and min(self.amounts) >= 1 and steps >= 1):
            raise UsageError("settings.tasks: share lies between 0 and 1, amounts and steps are whole numbers from 1.")
        if not 0 < self.confidence < 1:
            raise UsageError("settings.tasks: confidence lies between 0 and 1.")


@dataclass(frozen=True)
class Settings:
    """The settings of the suite.

    Arguments:
        tasks: The tasks by name.
        generators: Which generators are trained.
        seeds: The seeds.
        runs: The folder of the runs.
    """

    tasks: Mapping[str, Any]
    generators: tuple[str, ...] = GENERATORS
    seeds: tuple[int, ...] = (0, 1, 2)
    runs: str = "runs/benchmark"

    def __post_init__(self) -> None:
        for name in self.generators:
            if name not in GENERATORS:
                raise UsageError(f"settings.generators: there is no '{name}'; known: {', '.join(GENERATORS)}.")
        if not (self.seeds and self.tasks):
            raise UsageError("settings: tasks and seeds are not empty.")


class Worth(Suite):
    """The suite of synthetic data's worth.

    Arguments:
        settings: Its settings.
        compose: The way to configurations.
    """

    name = "worth"
    kind = Settings
    alone = True
    kinds = "task"

    def __init__(self, settings: Settings, compose: Compose) -> None:
        self.settings, self.compose = settings, functools.cache(lambda *words: compose("train", words))
        self.tasks = {
            name: read_settings(Task, task, f"settings.tasks.{name}") for name, task in settings.tasks.items()
        }

    def cases(self) -> list[Case]:
        settings = self.settings
        return [
            self._case(task, generator, seed)
            for task in self.tasks for generator in settings.generators
            if generator != "sieved" or self.tasks[task].sieved
            for seed in (settings.seeds if generator != "whole" else settings.seeds[:1])
        ]  # fmt: skip

    def measure(self, case: Case) -> dict[str, Any]:
        config, task = case.config["train"], self.tasks[case.key["task"]]
        folder, seed = case.run(self.settings.runs), case.key["seed"]
        found = apart(find_modality(config["modality"]).dataset(config["data"]))
        labels = read_settings(Labelling, config["labels"], "labels")
        known = told(found.splits.train, labels, task.confidence) if case.key["generator"] == "sieved" else None
        train(config, folder, lambda line: None)
        check_source(folder, found.splits.train, labels)
        model = Model.load(folder)

        drawn = model.sample(max(task.amounts), case.config["steps"], seed)
        judged = functools.partial(
            trials, model.bundle.modality, found.splits, shares=[labels.share], seeds=[seed], labels=labels
        )
        rows = list(judged(_first(drawn), amounts=task.amounts if known is None else [max(task.amounts)]))
        values: dict[str, Any] = {
            "samples": model.bundle.card.samples_seen,
            "shared": found.shared,
            "test": len(found.splits.test),
        }
        if known is not None:
            view = Perception(model.bundle, model.device) if task.perception else model.bundle.modality.vectors
            sieve = Sieve(view, known, task.confidence)
            values["unsieved"] = rows[-1].accuracy
            rows = list(judged(_first(drawn, sieve), amounts=task.amounts))
        named = {f"{row.trained_on}, {row.drawn}": row.accuracy for row in rows}
        return {**values, "trials": [dataclasses.asdict(row) for row in rows], **named}

    def protocol(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    def table(self, rows: Sequence[Row]) -> str:
        parts = []
        for (task,), group in grouped(rows, "task").items():
            known = self.tasks.get(task)
            if known is None:
                continue
            kinds = [REAL, *(f"{BOTH}, {n}" for n in known.amounts), *(f"{SYNTHETIC}, {n}" for n in known.amounts)]
            body = [
                [f"`{generator}`", self._share(known, generator), *_made(each), *(_cell(each, kind) for kind in kinds)]
                for (generator,), each in grouped(group, "generator").items()
            ]
            head = ["generator", "labels", "training", "calls", *kinds]
            parts += [
                f"**{task}** (`{known.experiment}`, {group[0].values['test']:,} test samples)",
                "",
                markdown(head, body),
                "",
                *self._sieved(known, group),
            ]
        return "\n".join([*parts, self._how(rows)])

    def plot(self, rows: Sequence[Row]) -> Figure:
        names = [name for name in self.tasks if any(row.key["task"] == name for row in rows)]
        figure = Figure(figsize=(5.5 * max(len(names), 1), 4), layout="constrained")
        for index, name in enumerate(names):
            axes = figure.add_subplot(
                1, len(names), index + 1, xlabel="generated samples added", ylabel="accuracy", title=name
            )
            for (generator,), group in grouped([row for row in rows if row.key["task"] == name], "generator").items():
                amounts = [0, *self.tasks[name].amounts]
                kinds = [REAL, *(f"{BOTH}, {n}" for n in amounts[1:])]
                values = [[_value(row, kind) for row in group] for kind in kinds]
                means = [sum(each) / len(each) for each in values]
                spread = [(max(each) - min(each)) / 2 for each in values]
                axes.errorbar(amounts, means, spread, marker="o", capsize=3, label=generator)
            axes.grid(alpha=0.3)
            axes.legend()
        return figure

    def _how(self, rows: Sequence[Row]) -> str:
        hardware = ", ".join(sorted({row.hardware for row in rows}))
        shared = sum({row.key["task"]: row.values["shared"] for row in rows}.values())
        return (
            "The share of the real test samples that support vectors name after they were trained on what heads the column, "
            f"with the number of generated samples; seeds {list(self.settings.seeds)}: mean ± half the range; in "
            "brackets what the generated ones add, seed by seed. *labels*: the share of the real samples of each class "
            "that generator and classifier are told the class of. `labelled` saw no others, `partly` saw the others without "
            "their class, and so did `sieved`. *training*: samples seen. Test samples that lie in the training split too "
            f"are left out ({shared} of them). On {hardware}."
        )

    @staticmethod
    def _sieved(task: Task, rows: Sequence[Row]) -> list[str]:
        sieved = [row for row in rows if row.key["generator"] == "sieved"]
        if not sieved:
            return []
        view = "its own network does" if task.perception else "the judging one does"
        kept, drawn = (sum(t[name] for row in sieved for t in row.values["trials"]) for name in ("synthetic", "drawn"))
        gains = spread_of([row.values["unsieved"] - _value(row, REAL) for row in sieved], "+.3f")
        text = (
            f"Of what `sieved` drew, {kept / drawn:.0%} are left, to whose class a classifier gives a probability of "
            f"{task.confidence:g} at least, which was told the same classes and sees what {view}; the largest number with "
            f"nothing left out adds {gains}."
        )
        return [text, ""]

    @staticmethod
    def _share(task: Task, generator: str) -> str:
        return "100 %" if generator == "whole" else f"{100 * task.share:g} %"

    def _case(self, name: str, generator: str, seed: int) -> Case:
        task = self.tasks[name]
        words = [f"experiment={task.experiment}", f"seed={seed}", f"name={name}-{generator}-{seed}", *task.overrides]
        if generator != "whole":
            words += [f"labels.share={task.share}", f"labels.seed={seed}", f"labels.rest={generator != 'labelled'}"]
        words += {"labelled": task.only, "sieved": task.sieved}.get(generator, ())
        config = copy.deepcopy(self.compose(*words))
        steps = task.sieved_steps if generator == "sieved" else task.steps
        depends = {"train": config, "amounts": list(task.amounts), "steps": steps, "share": task.share}
        if generator == "sieved":
            depends["confidence"] = task.confidence
        if generator == "sieved" and not task.perception:
            depends["perception"] = False
        return Case({"task": name, "generator": generator, "seed": seed}, depends)


def _first(drawn: Samples, sieve: Sieve | None = None) -> Callable[[int, int], Dataset]:
    """Returns the way to the first so many samples, all of one seed, or to what a sieve leaves of them."""
    kept = torch.ones(len(drawn.raw), dtype=torch.bool)
    if sieve is not None:
        kept = sieve.confidence(sieve.see(drawn.raw), drawn.label) >= sieve.least
    whole = Dataset(drawn.raw, drawn.label)
    return lambda seed, amount: only(whole, kept[:amount].nonzero()[:, 0])


def _made(rows: Sequence[Row]) -> tuple[str, str]:
    """Returns what the training and the drawing took."""
    return f"{rows[0].values['samples']:,}", f"{rows[0].config['steps']}"


def _value(row: Row, kind: str) -> float:
    return float(row.values[_key(kind)])


def _key(kind: str) -> str:
    return f"{REAL}, 0" if kind == REAL else kind


def _cell(rows: Sequence[Row], kind: str) -> str:
    text = mean_and_spread(rows, _key(kind))
    if not kind.startswith(BOTH):
        return text
    return f"{text} ({spread_of([_value(row, kind) - _value(row, REAL) for row in rows], '+.3f')})"
