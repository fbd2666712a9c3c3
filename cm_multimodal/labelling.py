r"""Data of which only some classes are known.

Of each class a share of its samples, at least one, is labelled: those that come first in a permutation which is a function
of the seed. The others are seen without a class ("none"), or not at all. Where they are seen, the labelled ones are repeated
until they make up a share of what is seen: by their numbers alone a network would hardly ever be told a class.
"""

__all__ = ["Labelling", "labelled", "only"]

import math
import torch

from dataclasses import dataclass, replace
from torch import Tensor

from .errors import UsageError
from .modality import Dataset
from .random import permutation


@dataclass(frozen=True)
class Labelling:
    """The `labels` group.

    Arguments:
        share: The share of the samples of each class whose class is known.
        seed: Which they are.
        rest: Whether the others are seen, without their class.
        weight: The share of labelled samples among those that are seen, where others are.
    """

    share: float = 1.0
    seed: int = 0
    rest: bool = True
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"labels.share={self.share} is not possible; it is above 0, and at most 1.")
        if not 0 < self.weight < 1:
            raise UsageError(f"labels.weight={self.weight} is not possible; it lies between 0 and 1.")

    @property
    def partial(self) -> bool:
        """Whether there are samples that are seen without their class."""
        return self.share < 1 and self.rest

    def drop(self, drop_label: float) -> float:
        """Returns how often a network is told no class, if that of a labelled sample is dropped so often."""
        return 1 - self.weight * (1 - drop_label) if self.partial else drop_label

    def of(self, dataset: Dataset) -> Dataset:
        """Returns the samples that are seen, with the classes that are known.

        Raises:
            UsageError: The samples have no classes.
        """
        if self.share == 1:
            return dataset
        if dataset.label is None:
            raise UsageError(
                f"labels.share={self.share} is a share of classes, and these data have none (sub-folders)."
            )
        known = labelled(dataset.label, self.share, self.seed)
        if not self.rest:
            return only(dataset, known)
        unknown = torch.ones(len(dataset), dtype=torch.bool)
        unknown[known] = False
        others = torch.arange(len(dataset))[unknown]
        times = max(1, round(self.weight / (1 - self.weight) * len(others) / len(known)))
        label = torch.where(unknown, len(dataset.classes), dataset.label)
        return only(replace(dataset, label=label), torch.cat([others, known.repeat(times)]))


def labelled(label: Tensor, share: float, seed: int = 0, most: int | None = None) -> Tensor:
    """Returns which samples are labelled, in their order.

    Arguments:
        label: The classes, with shape (N,).
        share: The share of each class, of which at least one sample is labelled.
        seed: Which they are; of two shares with the same seed, the larger one holds the smaller.
        most: How many of each class at most, those that come first.
    """
    order = permutation(seed, "labelled", len(label))
    parts = [order[label[order] == value] for value in label.unique()]
    counts = [max(1, math.ceil(share * len(part) - 1e-9)) for part in parts]
    return torch.cat([part[:count][:most] for part, count in zip(parts, counts, strict=True)]).sort().values


def only(dataset: Dataset, rows: Tensor) -> Dataset:
    """Returns some of the samples of a data set, by their places."""
    label, mask = (None if part is None else part[rows] for part in (dataset.label, dataset.mask))
    return replace(dataset, raw=dataset.raw[rows], label=label, mask=mask)
