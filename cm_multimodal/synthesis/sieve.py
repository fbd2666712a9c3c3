r"""A sieve: samples are left out whose own class a classifier does not find likely.

The classifier is the judge's kind, a support-vector classifier fitted to the real training split; its probabilities are
calibrated by five-fold cross-validation (Platt's sigmoid). A sieved set is easier than the real one, and less diverse.

References:
    | Probabilistic outputs for support vector machines (Platt, 1999)
"""

__all__ = ["Sieve"]

import hashlib
import numpy as np
import torch

from functools import cached_property
from sklearn.calibration import CalibratedClassifierCV
from torch import Tensor

from ..errors import UsageError
from ..evaluation.reference import Reference
from ..judge import machine

FOLDS = 5


class Sieve:
    """Finds samples whose class is in doubt.

    Arguments:
        ground: The real data.
        least: The least probability of a sample's own class.

    Raises:
        UsageError: The data have no classes.
    """

    def __init__(self, ground: Reference, least: float) -> None:
        label = ground.splits.train.label
        if label is None:
            raise UsageError(f"confidence={least} needs classes, and these samples have none.")
        counts = label.unique(return_counts=True)[1]
        if len(counts) < 2 or int(counts.min()) < FOLDS:
            raise UsageError(f"confidence={least} needs two classes at least, of {FOLDS} training samples each.")
        self.ground, self.least = ground, least

    @cached_property
    def fitted(self) -> CalibratedClassifierCV:
        """The classifier."""
        train = self.ground.splits.train
        assert train.label is not None
        return CalibratedClassifierCV(machine(), cv=FOLDS, ensemble=False).fit(
            self.ground.modality.vectors(train.raw), train.label.numpy()
        )

    def confidence(self, raw: Tensor, label: Tensor) -> Tensor:
        """Returns the probability of the own class of each of some samples, with shape (N,)."""
        if not len(raw):
            return torch.zeros(0, dtype=torch.float64)
        found = self.fitted.predict_proba(self.ground.modality.vectors(raw))
        column = {value: index for index, value in enumerate(self.fitted.classes_.tolist())}
        rows = [
            row[column[value]] if value in column else 0.0 for row, value in zip(found, label.tolist(), strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    @cached_property
    def digest(self) -> str:
        """A checksum of what it says of the first real test samples, to four decimals."""
        some = self.ground.modality.vectors(self.ground.splits.test.raw[:64])
        return hashlib.sha256(np.float32(np.round(self.fitted.predict_proba(some), 4)).tobytes()).hexdigest()[:12]
