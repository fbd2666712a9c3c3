r"""Exponential multistep integration in \(\lambda = -\log \rho\): what the DPM-Solver family and UniPC share.

The linear part of the flow is solved exactly, and a polynomial in \(\lambda\) through the last predictions is integrated
against what is left. With \(\tau = \lambda - \lambda_a\), h the step's length, c = 1 for the ODE and 2 for the SDE,

.. math:: y_b = e^{-ch} y_a + \int_0^h c \, e^{-c(h - \tau)} D \, d\tau + \rho_b \sqrt{1 - e^{-2h}} \, z
    \quad \text{or} \quad
    y_b = y_a - \int_0^h c \, \rho_a e^{-\tau} \hat\varepsilon \, d\tau + \sqrt{\rho_a^2 - \rho_b^2} \, z ,

the noise z with c = 2 only. A step to clean data, infinitely long, ends in the newest denoised state.
"""

__all__ = ["Exponential"]

import torch

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor
from typing import ClassVar

from ..paths import Path
from .base import Linear
from .multistep import Multistep, gauss, lagrange_weights


@dataclass(frozen=True)
class Exponential(Multistep):
    """A multistep solver in the logarithm of the noise ratio.

    Attributes:
        sde: Whether it solves the reverse-time SDE.
    """

    sde: ClassVar[bool] = False
    grid = "log_snr"
    tapers = True
    most = 3

    @property
    def stochastic(self) -> bool:
        return self.sde

    def step(self, path: Path, nodes: Sequence[Tensor], t: Tensor) -> Linear:
        high, low = path.noise_ratio(nodes[0]), path.noise_ratio(t)
        clean, speed = low == 0, 1 + self.sde
        end = torch.where(clean, high / 2, low)
        weights = self.weights([-torch.log(path.noise_ratio(node)) for node in nodes], -torch.log(end))
        first = -high if self.noise else torch.ones_like(high)
        weights = [torch.where(clean, first if i == 0 else 0.0, w) for i, w in enumerate(weights)]
        carry = torch.ones_like(low) if self.noise else (low / high) ** speed
        if not self.sde:
            return Linear(carry, weights)
        fresh = torch.sqrt(high**2 - low**2) if self.noise else low * torch.sqrt(1 - (low / high) ** 2)
        return Linear(carry, weights, torch.where(clean, 0.0, fresh))

    @abstractmethod
    def weights(self, nodes: Sequence[Tensor], b: Tensor) -> list[Tensor]:
        """Returns the weights of the predictions in a step from the newest node to b, all as lambda."""

    def exact(self, nodes: Sequence[Tensor], a: Tensor, b: Tensor) -> list[Tensor]:
        """Returns the integrals from a to b of the Lagrange polynomials of the nodes."""
        return lagrange_weights(nodes, *self.kernel(a, b))

    def kernel(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Returns quadrature points between a and b, and the kernel there, times the quadrature's weights."""
        speed = 1 + self.sde
        at, share = gauss(a, b)
        kernel = -speed * torch.exp(-at) if self.noise else speed * torch.exp(-speed * (b - at))
        return at, kernel * share

    def whole(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the integral of the kernel alone: the weight of a prediction that does not change."""
        speed = 1 + self.sde
        return speed * (torch.exp(-b) - torch.exp(-a)) if self.noise else -torch.expm1(-speed * (b - a))

    def midpoint(self, nodes: Sequence[Tensor], b: Tensor) -> list[Tensor]:
        """Returns the published weights of two points: the line's value half-way, for the whole step."""
        whole, half = self.whole(nodes[0], b), (b - nodes[0]) / (nodes[0] - nodes[1]) / 2
        return [whole * (1 + half), -whole * half]
