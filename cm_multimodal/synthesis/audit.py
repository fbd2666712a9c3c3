r"""Looking through a synthetic data set for copies: of training samples, and of one another.

Distances are those of what the judge sees. Usual is the median distance of a real test sample to its nearest training
sample; a generated one that lies nearer than half of it to a training sample counts as memorised, and nearer than that to
another generated one as a duplicate; where the usual distance is nothing, only what is equal does. At most 2,000 samples are
looked at, taken evenly.
"""

__all__ = ["MOST", "Audit", "audit", "audited"]

import torch

from dataclasses import dataclass
from torch import Tensor

from ..evaluation.measures import near, nearest
from ..evaluation.reference import Reference
from ..modality import Dataset

MOST = 2000
SHOWN = 8


@dataclass(frozen=True)
class Audit:
    """What was found.

    Arguments:
        looked_at: The number of samples that were looked at.
        memorised: The share that are near-copies of training samples.
        memorised_real: The same share of real test samples.
        duplicates: The share that are near-copies of others of the set.
        usual: The usual distance.
        closest: The samples nearest to training samples: their number, that of the training sample, and the distance as a
            share of the usual one, if that is not nothing.
    """

    looked_at: int
    memorised: float
    memorised_real: float
    duplicates: float
    usual: float
    closest: tuple[tuple[int, int, float], ...]


def audited(n: int) -> Tensor:
    """Returns the numbers of the samples that are looked at, of n."""
    return torch.linspace(0, n - 1, min(n, MOST), dtype=torch.float64).round().long()


def audit(ground: Reference, raw: Tensor, ids: Tensor) -> Audit:
    """Looks through samples.

    Arguments:
        ground: The real data.
        raw: The samples, with shape (N, *).
        ids: Their numbers, with shape (N,).
    """
    x = ground.vectors_of(Dataset(raw))
    train, test = ground.vectors
    real = nearest(test, train).values
    usual = float(real.median())
    found = nearest(x, train)
    order = found.values.argsort()[:SHOWN]
    rows = [(int(ids[i]), int(found.indices[i]), round(float(found.values[i]) / (usual or 1), 4)) for i in order]
    among = nearest(x, x, other=True).values
    copied, real_copied, repeated = (_share(near(values, usual)) for values in (found.values, real, among))
    return Audit(len(x), copied, real_copied, repeated, round(usual, 6), tuple(rows))


def _share(which: Tensor) -> float:
    return round(float(which.double().mean()), 6)
