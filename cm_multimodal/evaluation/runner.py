r"""Scores of a model, row by row: steps, calls, seed, and what the samples are worth."""

__all__ = ["Reference", "Row", "evaluate", "real_row", "reference", "roads", "score"]

import torch

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from torch import Tensor
from typing import Any

from ..bundle import Bundle
from ..errors import DataError, UsageError
from ..generation.sampling import make_plan
from ..modality import Dataset, Splits
from ..model import Model
from .frechet import frechet_distance
from .neighbours import precision_recall

MOST = 1400
EULER: Mapping[str, Any] = {"name": "euler"}


@dataclass(frozen=True)
class Reference:
    """What samples are held against.

    Arguments:
        splits: Training and test samples.
        features: The test samples' features, with shape (M, D).
        settings: The `evaluation` group.
        n: The number of samples to generate.
        config: Settings of the features: the group, and where data lies.
    """

    splits: Splits
    features: Tensor
    settings: Mapping[str, Any]
    n: int
    config: Mapping[str, Any]


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

    def sentence(self) -> str:
        """Returns the scores in words."""
        score = "" if self.accuracy is None else f"accuracy score {self.accuracy:.4f}, "
        return f"{score}Fréchet {self.frechet:.3f}, precision {self.precision:.3f}, recall {self.recall:.3f}"


def reference(bundle: Bundle, data: Mapping[str, Any], settings: Mapping[str, Any]) -> Reference:
    """Reads the reference data of a protocol.

    Raises:
        UsageError: The data are not those that the model was trained on, by shape or classes.
    """
    if not data:
        raise UsageError("Say what to compare a bundle with: data.name=digits, or evaluate a run with run=.")
    splits = bundle.modality.dataset(data)
    spec = type(bundle.modality).describe(splits.train, data)
    if (spec.shape, spec.classes) != (bundle.card.spec.shape, bundle.card.spec.classes):
        raise UsageError(
            f"The data have shape {spec.shape} and {len(spec.classes)} classes; the model was trained on others."
        )
    if len(splits.test) == 0:
        raise DataError("There is no test set to score against; set data.test_fraction=0.1.")
    config = {**settings, "root": data.get("root")}
    n = min(len(splits.train), MOST) if settings.get("n") is None else settings["n"]
    return Reference(splits, bundle.modality.features(splits.test.raw, config), settings, n, config)


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
        how: `guidance`, `interval` and `grid`, as in `cmm sample`.

    Raises:
        UsageError: The model cannot do what is asked; before anything is drawn.
    """
    for road, count in roads(model, ground, steps, diagonal, solver, **how):
        method = "map" if road is None else "diagonal"
        for seed in ground.settings.get("seeds", (0,)):
            samples = model.sample(ground.n, count, seed, solver=road, **how)
            generated = Dataset(samples.raw, samples.label if model.bundle.card.spec.classes else None)
            yield score(model.bundle, ground, generated, method, count, samples.calls, seed)


def roads(
    model: Model,
    ground: Reference,
    steps: Sequence[int],
    diagonal: Sequence[int],
    solver: Mapping[str, Any],
    **how: Any,
) -> list[tuple[Mapping[str, Any] | None, int]]:
    """Returns the solver (none: the map's own jumps) and the number of steps of all that `evaluate` draws.

    Raises:
        UsageError: The model cannot do what is asked, or nothing of it needs the solver.
    """
    has_map = bool(set(model.bundle.card.learned) & {"edge", "triangle"})
    if has_map and not diagonal and solver != EULER:
        raise UsageError(f"solver={solver.get('name')} follows the diagonal; say in how many steps: 'diagonal=[5,10]'.")
    wanted = [(None if has_map else solver, count) for count in steps] + [(solver, count) for count in diagonal]
    for road, count in wanted:
        make_plan(model.bundle, ground.n, count, solver=road, **how)
    return wanted


def real_row(model: Model, ground: Reference) -> Row:
    """Returns the row of the real training samples: what a generator as good as more data would reach."""
    train = ground.splits.train
    pick = torch.linspace(0, len(train) - 1, min(len(train), ground.n)).long()
    real = Dataset(train.raw[pick], None if train.label is None else train.label[pick])
    return score(model.bundle, ground, real, "real", 0, 0, 0)


def score(bundle: Bundle, ground: Reference, samples: Dataset, method: str, steps: int, calls: int, seed: int) -> Row:
    """Returns the row of some samples."""
    features = bundle.modality.features(samples.raw, ground.config)
    shares = precision_recall(ground.features, features, ground.settings.get("k", 5))
    accuracy = None
    if samples.label is not None and ground.settings.get("accuracy", True):
        accuracy = bundle.modality.accuracy(samples, ground.splits.test, ground.config)
    distance = frechet_distance(features, ground.features)
    return Row(method, steps, calls, seed, distance, shares.precision, shares.recall, accuracy)
