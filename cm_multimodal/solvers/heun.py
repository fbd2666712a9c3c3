r"""Heun's method on the noise ratio, as EDM uses it: second order.

In the state \(y = x / \alpha\) the flow is \(dy / d\rho = (y - D) / \rho\) on every path. A step averages the slopes at both
of its ends; the last one, to \(\rho = 0\), is Euler's.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), algorithm 1
"""

__all__ = ["Heun"]

from itertools import pairwise
from torch import Tensor

from ..batch import Conditions
from ..maps import SolutionMap
from ..paths import EDM
from ..tensors import expand_right, where_rows
from .base import Solver


class Heun(Solver):
    """Two calls a step, but for one on the last, which ends in clean data."""

    def __call__(self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions) -> Tensor:
        for s, t in pairwise(times):
            x = _step(flow_map, x, s.expand(len(x)), t.expand(len(x)), cond)
        return x


def _step(flow_map: SolutionMap, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
    y, high = flow_map.path.transport(x, s, EDM())
    low = flow_map.path.noise_ratio(t)
    move = expand_right(low - high, x).to(x.dtype)
    slope = (y - flow_map.denoise(x, s, cond)) / expand_right(high, x).to(x.dtype)
    guess = EDM().transport(y + move * slope, low, flow_map.path)[0]
    clean = low == 0
    if clean.all():
        return guess
    end = flow_map.path.time_of(low.clamp_min(1e-9))
    denoised = flow_map.denoise(guess, end, cond)
    second = (y + move * slope - denoised) / expand_right(low.clamp_min(1e-9), x).to(x.dtype)
    better = EDM().transport(y + move * (slope + second) / 2, low, flow_map.path)[0]
    return where_rows(clean, guess, better)
