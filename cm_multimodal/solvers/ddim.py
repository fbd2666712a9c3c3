r"""DDIM: first order, from deterministic to ancestral.

A step keeps the denoised state and scales the noise around it; a part of that is fresh,

.. math:: y_b = D + \sqrt{\rho_b^2 - \eta^2 \varsigma^2} \, \hat\varepsilon + \eta \varsigma z, \qquad
    \varsigma = \rho_b \sqrt{1 - \rho_b^2 / \rho_a^2} .

With \(\eta = 0\) this is DPM-Solver-1 and Euler's method on \(dy / d\rho\); with \(\eta = 1\) it is DDPM's ancestral step.

References:
    | Denoising Diffusion Implicit Models (Song et al., 2021), equations 12 and 16
"""

__all__ = ["DDIM"]

import torch

from collections.abc import Sequence
from dataclasses import dataclass, field
from torch import Tensor

from ..paths import Path
from .base import Linear
from .multistep import Multistep


@dataclass(frozen=True)
class DDIM(Multistep):
    """One call a step.

    Arguments:
        eta: The share of fresh noise: 0 is deterministic, 1 ancestral.
    """

    points: int = field(default=1, init=False)
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError("eta lies between 0 (deterministic) and 1 (ancestral)")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, path: Path, nodes: Sequence[Tensor], t: Tensor) -> Linear:
        high, low = path.noise_ratio(nodes[0]), path.noise_ratio(t)
        fresh = self.eta * low * torch.sqrt(1 - (low / high) ** 2)
        kept = torch.sqrt(low**2 - fresh**2) / high
        return Linear(kept, [1 - kept], fresh if self.stochastic else None)
