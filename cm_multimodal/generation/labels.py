r"""Which class each sample is of: sample ids walk through a list of classes, over and over.

Without a wish the list is all classes. Counts or shares make a list as long as there are samples, in which the classes are
spread evenly: the j-th of the k samples of a class stands at (j + 1/2) / k of the way. So any part of a set holds the
classes in about the same shares as the whole.
"""

__all__ = ["Wish", "labels_of", "labels_wanted"]

import torch

from collections.abc import Mapping, Sequence
from torch import Tensor

from ..errors import UsageError, nearest
from ..values import fits

Wish = int | str | Sequence[int | str] | Mapping[str, int | float]
NEAR = 1e-6  # of shares that add up to 1


def labels_of(labels: Tensor | None, ids: Tensor, classes: int) -> Tensor:
    """Returns the classes of sample ids, with shape (B,); without classes, zeros.

    Arguments:
        labels: The classes that ids walk through, with shape (L,); all of them unless given.
        ids: The sample ids, with shape (B,).
        classes: The number of classes.
    """
    return ids % max(classes, 1) if labels is None else labels.to(ids.device)[ids % len(labels)]


def labels_wanted(wish: Wish | None, classes: Sequence[str], n: int) -> Tensor | None:
    """Returns the classes that sample ids walk through, with shape (L,), or nothing where no class is asked for.

    Arguments:
        wish: A class by its name; several, which take turns; or counts or shares by the name of the class.
        classes: The names of all classes.
        n: The number of samples.

    Raises:
        UsageError: There is no such class, or the counts do not add up.
    """
    if wish is None:
        return None
    if not classes:
        raise UsageError(f"label={wish} asks for a class, but this model was trained without classes.")
    if isinstance(wish, Mapping):
        return _spread({_number(name, classes): count for name, count in _counts(wish, n).items()})
    several = wish if isinstance(wish, list | tuple) else [wish]
    if not several:
        raise UsageError("label=[] names no class; give some, or leave it out.")
    return torch.tensor([_number(name, classes) for name in several])


def _number(name: object, classes: Sequence[str]) -> int:
    if str(name) in classes:
        return classes.index(str(name))
    raise UsageError(f"There is no class '{name}'; {nearest(str(name), classes)}")


def _counts(wish: Mapping[str, int | float], n: int) -> dict[str, int]:
    """Returns counts that add up to the number of samples; shares are rounded so that they do."""
    values, words = list(wish.values()), ", ".join(f"{name}: {value}" for name, value in wish.items())
    if not wish or not all(fits(value, float) and value >= 0 for value in values):
        raise UsageError(
            f"label={{{words}}} is not possible; give each class a count, or a share: {{cat: 0.7, dog: 0.3}}."
        )
    if all(type(value) is int for value in values):
        if sum(values) != n:
            raise UsageError(f"The counts of label={{{words}}} add up to {sum(values):,}, and n={n:,}.")
        return {name: int(value) for name, value in wish.items()}
    if abs(sum(values) - 1) > NEAR:
        raise UsageError(f"The shares of label={{{words}}} add up to {sum(values):g}, not to 1.")
    exact = {name: value * n for name, value in wish.items()}
    counts = {name: int(value) for name, value in exact.items()}
    short = sorted(exact, key=lambda name: counts[name] - exact[name])[: n - sum(counts.values())]
    return {name: count + (name in short) for name, count in counts.items()}


def _spread(wanted: Mapping[int, int]) -> Tensor:
    counts = dict(sorted(wanted.items()))
    places = torch.cat([(torch.arange(count, dtype=torch.float64) + 0.5) / count for count in counts.values()])
    labels = torch.cat([torch.full((count,), label) for label, count in counts.items()])
    return labels[torch.sort(places, stable=True).indices]
