r"""A sieve: samples are left out whose own class a classifier does not find likely.

The classifier is the judge's kind, a support-vector classifier fitted to real samples of known classes; its probabilities
are calibrated by five-fold cross-validation (Platt's sigmoid). It sees what a modality's own judge sees of samples, or,
where few classes are known, what the generator's own network does (`perception`). A sieved set is easier than the real
one, and less diverse.

References:
    | Probabilistic outputs for support vector machines (Platt, 1999)
"""

__all__ = ["Sieve", "told"]

import numpy as np
import torch

from collections.abc import Callable
from functools import cached_property
from sklearn.calibration import CalibratedClassifierCV
from torch import Tensor

from ..errors import UsageError
from ..judge import machine
from ..labelling import Labelling, labelled, only
from ..modality import Dataset

FOLDS = 5
MOST = 5_000  # real samples, of all classes together; what six fits take grows with their square


def told(train: Dataset, labels: Labelling, least: float) -> Dataset:
    """Returns the real samples that a sieve is told the classes of: at most five thousand, evenly of all classes.

    Arguments:
        train: The real training split.
        labels: Which of its classes are known.
        least: The least probability of a sample's own class.

    Raises:
        UsageError: The data have no classes, or too few samples of one are known.
    """
    if train.label is None:
        raise UsageError(f"confidence={least} needs classes, and these samples have none.")
    most = max(MOST // max(len(train.label.unique()), 1), FOLDS)
    known = only(train, labelled(train.label, labels.share, labels.seed, most))
    counts = _names(known).unique(return_counts=True)[1]
    if len(counts) < 2 or int(counts.min()) < FOLDS:
        raise UsageError(
            f"confidence={least} needs two classes at least, of {FOLDS} training samples each whose class is known: a "
            "larger share of the labels has more."
        )
    return known


class Sieve:
    """Finds samples whose class is in doubt.

    Arguments:
        see: Maps raw samples to vectors, with shape (N, D).
        known: Real samples of known classes (`told`).
        least: The least probability of a sample's own class.
    """

    def __init__(self, see: Callable[[Tensor], np.ndarray], known: Dataset, least: float) -> None:
        self.see, self.known, self.least = see, known, least

    @cached_property
    def fitted(self) -> CalibratedClassifierCV:
        """The classifier."""
        classifier = CalibratedClassifierCV(machine(), cv=FOLDS, ensemble=False)
        return classifier.fit(self.see(self.known.raw), _names(self.known).numpy())

    def confidence(self, seen: np.ndarray, label: Tensor) -> Tensor:
        """Returns the probability of the own class of each of some samples, with shape (N,).

        Arguments:
            seen: What `see` sees of them, with shape (N, D).
            label: Their classes, with shape (N,).
        """
        if not len(seen):
            return torch.zeros(0, dtype=torch.float64)
        found = self.fitted.predict_proba(seen)
        column = {value: index for index, value in enumerate(self.fitted.classes_.tolist())}
        rows = [
            row[column[value]] if value in column else 0.0 for row, value in zip(found, label.tolist(), strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)


def _names(part: Dataset) -> Tensor:
    assert part.label is not None
    return part.label
