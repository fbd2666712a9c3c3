r"""Precision and recall: fidelity and diversity, told apart by nearest neighbours.

Each set spans a region: balls around its members that reach to their k-th neighbour. Precision is the share of generated
samples in the real region, recall the share of real samples in the generated one.

References:
    | Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019)
"""

__all__ = ["PrecisionRecall", "precision_recall"]

import torch

from dataclasses import dataclass
from torch import Tensor

from ..errors import DataError


@dataclass(frozen=True)
class PrecisionRecall:
    """Both shares, between 0 and 1."""

    precision: float
    recall: float


def precision_recall(real: Tensor, generated: Tensor, k: int = 5) -> PrecisionRecall:
    """Returns precision and recall of features with shapes (N, D) and (M, D).

    Raises:
        DataError: A set holds no more than k samples, or values that are not finite.
    """
    if not (torch.isfinite(real).all() and torch.isfinite(generated).all()):
        raise DataError("The features hold values that are not finite: no precision and recall can be given.")
    if min(len(real), len(generated)) <= k:
        raise DataError(f"Precision and recall with k={k} need more than {k} samples on each side.")
    return PrecisionRecall(_covered(generated, real, k), _covered(real, generated, k))


def _covered(points: Tensor, centres: Tensor, k: int) -> float:
    """Returns the share of points in the region that the centres span."""
    radius = torch.cat([torch.cdist(part, centres).kthvalue(k + 1, dim=1).values for part in centres.split(2048)])
    inside = [(torch.cdist(part, centres) <= radius).any(dim=1) for part in points.split(2048)]
    return torch.cat(inside).double().mean().item()
