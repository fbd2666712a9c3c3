r"""The judge: a support-vector classifier on what a modality sees of its samples, fitted to one split and frozen.

Fitted to generated samples and asked about real ones it gives the accuracy score; fitted to the real training split and
asked about generated ones, the recognition accuracy. Its decision values, one for each class, are features that distances
can be measured on: they are the project's own, and so is every distance on them.
"""

__all__ = ["Judge", "machine"]

import hashlib
import numpy as np
import torch

from collections.abc import Callable
from sklearn.svm import SVC
from torch import Tensor

from .errors import UsageError
from .modality import Dataset


class Judge:
    """Fits a classifier (C = 10) to a split.

    Arguments:
        see: Maps raw samples to vectors, with shape (N, D).
        train: The split.

    Raises:
        UsageError: It has no classes, or only one of them.
    """

    def __init__(self, see: Callable[[Tensor], np.ndarray], train: Dataset) -> None:
        label = _labels(train)
        if len(np.unique(label)) < 2:
            raise UsageError("A classifier needs samples of two classes at least, and these are of one.")
        self.see, self.fitted = see, machine().fit(see(train.raw), label)

    def accuracy(self, part: Dataset) -> float:
        """Returns the share of samples whose class it names."""
        return float(self.fitted.score(self.see(part.raw), _labels(part)))

    def features(self, raw: Tensor) -> Tensor:
        """Returns its decision values, with shape (N, classes), in float64."""
        values = torch.from_numpy(self.fitted.decision_function(self.see(raw))).double()
        return values if values.ndim > 1 else values[:, None]

    @property
    def digest(self) -> str:
        """A checksum of the fitted numbers, rounded to four decimals; another processor may give another one."""
        parts = (self.fitted.support_vectors_, self.fitted.dual_coef_, self.fitted.intercept_)
        text = b"".join(np.float32(np.round(part, 4)).tobytes() for part in parts)
        return hashlib.sha256(text).hexdigest()[:12]


def machine() -> SVC:
    """Returns the classifier, not yet fitted."""
    return SVC(C=10)


def _labels(part: Dataset) -> np.ndarray:
    if part.label is None:
        raise UsageError("The accuracy score needs classes, and this data set has none.")
    return part.label.numpy()
