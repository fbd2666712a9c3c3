r"""Heun's method on the noise ratio, as EDM uses it: second order, with fresh noise before each step if asked for.

A step averages the slopes \((y - D) / \rho\) at both of its ends; the last one, to \(\rho = 0\), is Euler's. With churn,
noise first raises the ratio to \(\hat\rho = \rho (1 + \gamma)\), \(\gamma = \min(S_{churn} / N, \sqrt 2 - 1)\) in N steps.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), algorithms 1 and 2
"""

__all__ = ["Heun"]

import math
import torch

from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor

from ..paths import Path
from .base import Linear
from .runge_kutta import RungeKutta, Stage


@dataclass(frozen=True)
class Heun(RungeKutta):
    """Two calls a step, but for one on the last, which ends in clean data.

    Arguments:
        churn: How much noise is added in all, S_churn; 0 is deterministic.
        low: The noise ratio below which none is added.
        high: The noise ratio above which none is added.
        fresh: The standard deviation of fresh noise, S_noise.
    """

    churn: float = 0.0
    low: float = 0.0
    high: float = math.inf
    fresh: float = 1.0
    grid = "karras"
    noise = True

    def __post_init__(self) -> None:
        if not (self.churn >= 0 and 0 <= self.low < self.high and self.fresh >= 0):
            raise ValueError("churn and fresh are not negative, and low is below high")

    @property
    def calls_a_step(self) -> int:
        return 2

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    @property
    def fresh_scale(self) -> float:
        return self.fresh

    def lift(self, ratio: Tensor, steps: int) -> Tensor | None:
        if not self.stochastic:
            return None
        gamma = min(self.churn / steps, math.sqrt(2) - 1)
        return torch.where((ratio >= self.low) & (ratio <= self.high), ratio * (1 + gamma), ratio)

    def stages(self, path: Path, s: Tensor, t: Tensor) -> Sequence[Stage]:
        move = path.noise_ratio(t) - path.noise_ratio(s)
        one = torch.ones_like(move)
        return [Stage(t, Linear(one, [move])), Stage(t, Linear(one, [move / 2, move / 2]))]
