r"""DEIS by Runge-Kutta: a classical scheme on \(dy / d\rho = \hat\varepsilon\), called \(\rho\)RK.

References:
    | Fast Sampling of Diffusion Models with Exponential Integrator (Zhang & Chen, 2022), section 3.4
"""

__all__ = ["DEISRungeKutta"]

import torch

from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor

from ..paths import Path
from .base import Linear
from .runge_kutta import RungeKutta, Stage

# Each row is a stage: how far along the step it is, and the weights of the slopes before it; the last is the step's end.
SCHEMES = {
    "heun": ((1.0, (1.0,)), (1.0, (1 / 2, 1 / 2))),
    "kutta": ((0.5, (0.5,)), (1.0, (-1.0, 2.0)), (1.0, (1 / 6, 2 / 3, 1 / 6))),
}


@dataclass(frozen=True)
class DEISRungeKutta(RungeKutta):
    """Two or three calls a step, but for one on the last.

    Arguments:
        scheme: 'heun' (second order) or 'kutta' (third).
    """

    scheme: str = "kutta"
    grid = "quadratic"
    noise = True

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme is one of {', '.join(SCHEMES)}")

    @property
    def calls_a_step(self) -> int:
        return len(SCHEMES[self.scheme])

    def stages(self, path: Path, s: Tensor, t: Tensor) -> Sequence[Stage]:
        high = path.noise_ratio(s)
        move, one = path.noise_ratio(t) - high, torch.ones_like(high)
        return [
            Stage(t if far == 1 else path.time_of(high + far * move), Linear(one, [w * move for w in weights]))
            for far, weights in SCHEMES[self.scheme]
        ]
