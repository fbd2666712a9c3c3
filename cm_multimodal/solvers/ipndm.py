r"""iPNDM: Adams-Bashforth with the weights of equal steps, on DDIM's increment, from lower orders at the start.

.. math:: y_b = y_a + (\rho_b - \rho_a) \sum_j w_j \hat\varepsilon_j

The noise ratio never goes in equal steps, so that the order is 2 at best, whatever the number of points.

References:
    | Fast Sampling of Diffusion Models with Exponential Integrator (Zhang & Chen, 2022), appendix H.3
    | Pseudo Numerical Methods for Diffusion Models on Manifolds (Liu et al., 2022)
"""

__all__ = ["IPNDM"]

import torch

from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor

from ..paths import Path
from .base import Linear
from .multistep import Multistep

WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


@dataclass(frozen=True)
class IPNDM(Multistep):
    """One call a step.

    Arguments:
        points: The predictions that a step uses, from 1 to 4.
    """

    points: int = 4
    noise = True

    def step(self, path: Path, nodes: Sequence[Tensor], t: Tensor) -> Linear:
        move = path.noise_ratio(t) - path.noise_ratio(nodes[0])
        return Linear(torch.ones_like(move), [move * weight for weight in WEIGHTS[len(nodes) - 1]])
