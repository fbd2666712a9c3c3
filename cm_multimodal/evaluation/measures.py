r"""Measures of generated samples beside those that every table has; `evaluation.also` names the ones that are wanted.

    recognition  the share whose class the judge names, which is fitted to the real training split
    kernel       the squared maximum mean discrepancy to the test samples' features, by the cubic kernel, without bias
    diversity    the mean distance of two samples of one class in features, as a share of that of the test samples
    memorised    the share that lies nearer to a training sample than half of what is usual for a test sample, by what the
                 judge sees of them
    seconds      what it took to draw a thousand samples; cpu_seconds: of all CPU threads
    memory       the most memory in use while they were drawn, in MiB: the GPU's, or on a CPU that of the process
    real_time    what it took to draw samples, as a share of how long they last

A modality may have more of its own. A collapsed generator shows in `diversity`, one that repeats what it was shown in
`memorised`, and both may have perfect accuracy.

References:
    | Demystifying MMD GANs (Bińkowski et al., 2018): the kernel distance
"""

__all__ = [
    "MEASURES", "NEAR", "Drawn", "Nearest", "check_names", "diversity", "kernel_distance", "measure", "memorised", "near",
    "nearest",
]  # fmt: skip

import math
import torch

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from ..errors import DataError, UsageError
from ..errors import nearest as closest
from ..machine import Cost
from ..modality import Dataset, Modality
from .reference import Reference

NEAR = 0.5
CHUNK = 1024
MOST = 2000  # samples of a class


@dataclass(frozen=True)
class Drawn:
    """Samples, their features, with shape (N * K, D), and what drawing them took, where they were drawn."""

    samples: Dataset
    features: Tensor
    cost: Cost = field(default_factory=Cost)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Returns the unbiased squared distance of two sets of features, with shapes (N, D) and (M, D); it may be negative.

    Raises:
        DataError: A set holds fewer than two samples, or values that are not finite.
    """
    if min(len(a), len(b)) < 2 or not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise DataError("A kernel distance needs at least two samples on each side, and features that are finite.")
    return float(poly_mmd(*_same_size(a.double(), b.double())))


def _same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    n = min(len(a), len(b))
    return _evenly(a, n), _evenly(b, n)


def _evenly(x: Tensor, most: int) -> Tensor:
    return x[torch.linspace(0, len(x) - 1, min(len(x), most)).long()]


def diversity(features: Tensor, label: Tensor | None) -> float:
    """Returns the mean distance between two samples of one class, the mean over the classes that have two.

    There is no such number where no class has; of a class, so many are looked at as `MOST` says, taken evenly.

    Arguments:
        features: With shape (N, D), or (N * K, D), if a sample has K rows.
        label: The classes, with shape (N,); none: all are of one.
    """
    label = torch.zeros(len(features)) if label is None else label.repeat_interleave(len(features) // len(label))
    classes = [_evenly(features[label == value].double(), MOST) for value in label.unique()]
    distances = [torch.pdist(part).mean() for part in classes if len(part) > 1]
    return float(torch.stack(distances).mean()) if distances else math.nan


def memorised(x: Tensor, train: Tensor, test: Tensor) -> float:
    """Returns the share of vectors, with shape (N, D), that lie nearer to one of `train` than half the median of `test`.

    Where that is nothing, most of `test` being in `train` too, those count that are equal to one of `train`.

    Raises:
        DataError: There are values that are not finite.
    """
    return float(near(nearest(x, train).values, float(nearest(test, train).values.median())).double().mean())


def near(distances: Tensor, usual: float) -> Tensor:
    """Says which of some distances to training samples are those of copies, by the usual one of real test samples."""
    return distances < NEAR * usual if usual else distances == 0


@dataclass(frozen=True)
class Nearest:
    """Distances to the nearest of other points, and which those are, with shape (N,)."""

    values: Tensor
    indices: Tensor


def nearest(points: Tensor, others: Tensor, other: bool = False) -> Nearest:
    """Finds the nearest of others for each of some points, with shapes (N, D) and (M, D).

    Arguments:
        points: The points.
        others: What they are held against.
        other: Whether both are the same points, of which none is its own neighbour.

    Raises:
        DataError: There are values that are not finite.
    """
    if not (torch.isfinite(points).all() and torch.isfinite(others).all()):
        raise DataError("The features hold values that are not finite: no neighbours and no copies can be found.")
    parts: list[Nearest] = []
    for index, part in enumerate(points.split(CHUNK)):
        distances = torch.cdist(part, others)
        if other:
            rows = torch.arange(len(part))
            distances[rows, index * CHUNK + rows] = math.inf
        least, which = distances.min(dim=1)
        exact = torch.linalg.vector_norm(part - others[which], dim=1)  # 0 of copies, which cdist does not always say
        parts.append(Nearest(torch.where(least.isinf(), least, exact), which))
    return Nearest(torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts]))


def _diversity(ground: Reference, drawn: Drawn) -> float:
    label = drawn.samples.label
    real = diversity(ground.features, None if label is None else ground.real.label)
    return diversity(drawn.features, label) / (real or math.nan)


def _memorised(ground: Reference, drawn: Drawn) -> float:
    return memorised(ground.vectors_of(drawn.samples), *ground.vectors)


MEASURES: dict[str, Callable[[Reference, Drawn], float]] = {
    "recognition": lambda ground, drawn: ground.judge.accuracy(drawn.samples),
    "kernel": lambda ground, drawn: kernel_distance(drawn.features, ground.features),
    "diversity": _diversity,
    "memorised": _memorised,
    "seconds": lambda ground, drawn: 1000 * drawn.cost.seconds / len(drawn.samples),
    "cpu_seconds": lambda ground, drawn: 1000 * drawn.cost.cpu_seconds / len(drawn.samples),
    "memory": lambda ground, drawn: drawn.cost.memory,
    "real_time": lambda ground, drawn: (
        drawn.cost.seconds / len(drawn.samples) / (ground.modality.duration() or math.nan)
    ),
}


def check_names(modality: Modality, names: Iterable[str]) -> None:
    """Says which measure does not exist.

    Raises:
        UsageError: One of the names is none.
    """
    known = [*MEASURES, *modality.measures]
    if isinstance(names, str):
        raise UsageError(f"evaluation.also={names} is no list: 'also=[{names}]'.")
    for name in names:
        if name not in known:
            raise UsageError(f"There is no measure '{name}' for evaluation.also; {closest(str(name), known)}")


def measure(ground: Reference, name: str, drawn: Drawn) -> float:
    """Returns a measure of samples, by its name; no finite number where it does not apply."""
    if name in MEASURES:
        return MEASURES[name](ground, drawn)
    return ground.modality.measure(name, drawn.samples, ground.splits, ground.settings)
