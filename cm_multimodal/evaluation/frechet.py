r"""The Fréchet distance between two sets of features, each taken as Gaussian.

.. math::

    d^2 = \lVert \mu_a - \mu_b \rVert^2
        + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2})

The square root is taken of a symmetric matrix, so that it is never complex.

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al., 2017)
"""

__all__ = ["frechet_distance"]

import torch

from torch import Tensor

from ..errors import DataError


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Returns the distance of two sets of features, with shapes (N, D) and (M, D).

    Raises:
        DataError: A set holds fewer than two samples, or values that are not finite.
    """
    for features in (a, b):
        if len(features) < 2:
            raise DataError("A Fréchet distance needs at least two samples on each side.")
        if not torch.isfinite(features).all():
            raise DataError("The features hold values that are not finite: no Fréchet distance can be given.")
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    root = _symmetric_root(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    mean = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return max(0.0, float(mean + cov_a.trace() + cov_b.trace() - 2 * cross))


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
