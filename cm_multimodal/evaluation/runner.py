r"""Scoring a model's samples: for each number of steps, and each seed, what they are worth."""

__all__ = ["Row", "baselines", "evaluate", "real_row", "roads", "score"]

import math
import torch

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from torch import Tensor
from typing import Any

from ..errors import UsageError
from ..generation.sampling import GAMMA, check_gamma, make_plan
from ..judge import Judge
from ..machine import Cost, metered
from ..modality import Dataset
from ..model import Model
from ..random import Draws
from .frechet import frechet_distance
from .measures import Drawn, check_names, measure
from .neighbours import precision_recall
from .reference import Reference

EULER: Mapping[str, Any] = {"name": "euler"}
OF_MAP = ("sampler", "gamma")


@dataclass(frozen=True)
class Row:
    """One line of a table: a method at a number of steps and a seed, and its scores (absent ones were not asked for)."""

    method: str
    steps: int
    calls: int
    seed: int
    frechet: float
    precision: float
    recall: float
    accuracy: float | None
    also: Mapping[str, float] = field(default_factory=dict)

    def sentence(self) -> str:
        """Returns the scores in words."""
        score = "" if self.accuracy is None else f"accuracy score {self.accuracy:.4f}, "
        also = "".join(f", {name} {value:.3f}" for name, value in self.also.items())
        return f"{score}Fréchet {self.frechet:.3f}, precision {self.precision:.3f}, recall {self.recall:.3f}{also}"


def evaluate(
    model: Model,
    ground: Reference,
    steps: Sequence[int],
    diagonal: Sequence[int] = (),
    solver: Mapping[str, Any] = EULER,
    **how: Any,
) -> Iterator[Row]:
    """Yields a row for every method, number of steps and seed.

    Arguments:
        model: The model.
        ground: What to compare with.
        steps: Numbers of steps of the map (of the solver, where only the diagonal was learned).
        diagonal: Numbers of steps of the solver along the diagonal.
        solver: The solver, by name, and its settings.
        how: `sampler` and `gamma` of the map, `guidance`, `interval` and `grid` of both, as in `cmm sample`.

    Raises:
        UsageError: The model cannot do what is asked; before anything is drawn.
    """
    for road, count in roads(model, ground, steps, diagonal, solver, **how):
        method = "diagonal" if "solver" in road else "map"
        for seed in ground.settings.get("seeds", (0,)):
            with metered(model.device) as cost:
                samples = model.sample(ground.n, count, seed, **road)
            generated = Dataset(samples.raw, samples.label if model.bundle.card.spec.classes else None)
            yield score(ground, generated, method, count, samples.calls, seed, cost=cost)


def roads(
    model: Model,
    ground: Reference,
    steps: Sequence[int],
    diagonal: Sequence[int],
    solver: Mapping[str, Any],
    **how: Any,
) -> list[tuple[Mapping[str, Any], int]]:
    """Returns how, by the solver or the map's own jumps, and in how many steps all is drawn that `evaluate` scores.

    Raises:
        UsageError: The model cannot do what is asked, or nothing of it needs the solver.
    """
    has_map = bool(set(model.bundle.card.learned) & {"edge", "triangle"})
    if has_map and not diagonal and solver != EULER:
        raise UsageError(f"solver={solver.get('name')} follows the diagonal; say in how many steps: 'diagonal=[5,10]'.")
    sampler = how.get("sampler")
    if sampler is not None and not steps:
        raise UsageError(f"sampler={sampler} draws in steps=, and none are scored here: 'steps=[1,2]'.")
    check_gamma(how.get("gamma", GAMMA), sampler)
    common = {key: value for key, value in how.items() if key not in OF_MAP}
    along = {**common, "solver": solver}
    wanted: list[tuple[Mapping[str, Any], int]]
    wanted = [(how if has_map or sampler is not None else along, count) for count in steps] + [
        (along, count) for count in diagonal
    ]
    for road, count in wanted:
        make_plan(model.bundle, ground.n, count, **road)
    check_names(ground.modality, ground.settings.get("also") or ())
    return wanted


def real_row(ground: Reference) -> Row:
    """Returns the row of real samples: what a generator as good as more data would reach.

    They are training samples, or test samples where all are held against the training split; what they are recognised and
    memorised by is that of the test samples.
    """
    return score(ground, ground.others(), "real", 0, 0, 0, ground.splits.test)


def baselines(ground: Reference, parameters: int) -> list[Row]:
    """Returns the rows of other means: each class's mean with its noise, training samples again, and the modality's own.

    Arguments:
        ground: What to compare with.
        parameters: How many parameters the model has that they stand beside.
    """
    some = ground.some()
    pick = torch.randint(len(some), (len(some),), generator=torch.Generator().manual_seed(0))
    again = Dataset(some.raw[pick], None if some.label is None else some.label[pick])
    means = Dataset(_around_means(ground, some), some.label)
    rows = [score(ground, part, name, 0, 0, 0) for name, part in {"mean": means, "memory": again}.items()]
    for name, draw in ground.modality.baselines(ground.splits.train, len(some), parameters).items():
        with metered(torch.device("cpu")) as cost:
            drawn = Dataset(draw())
        rows.append(score(ground, drawn, name, 0, 0, 0, cost=cost))
    return rows


def _around_means(ground: Reference, some: Dataset) -> Tensor:
    """Returns raw samples of normal numbers with the mean and the deviation of each element in each class."""
    x = ground.modality.encode(some.raw)
    label = torch.zeros(len(x)) if some.label is None else some.label
    out = Draws(0, torch.arange(len(x))).noise("baseline", tuple(x.shape[1:]), x.dtype)
    for value in label.unique():
        rows = label == value
        out[rows] = x[rows].mean(dim=0) + x[rows].std(dim=0, correction=0) * out[rows]
    return ground.modality.decode(out)


def score(
    ground: Reference, samples: Dataset, method: str, steps: int, calls: int, seed: int,
    held: Dataset | None = None, cost: Cost = Cost(),
) -> Row:  # fmt: skip
    """Returns the row of some samples, which cost something; of `held`, if given, what the training split judges."""
    features = ground.features_of(samples.raw)
    shares = precision_recall(ground.features, features, ground.settings.get("k", 5))
    accuracy = None
    if samples.label is not None and len(samples.label.unique()) > 1 and ground.settings.get("accuracy", True):
        accuracy = Judge(ground.modality.vectors, samples).accuracy(ground.splits.test)
    also = {}
    for name in ground.settings.get("also") or ():
        others = held is not None and name in ("recognition", "memorised", *ground.modality.by_train)
        drawn = Drawn(held, ground.features) if held is not None and others else Drawn(samples, features, cost)
        value = measure(ground, name, drawn)
        if math.isfinite(value):
            also[name] = value
    distance = frechet_distance(features, ground.features)
    return Row(method, steps, calls, seed, distance, shares.precision, shares.recall, accuracy, also)
