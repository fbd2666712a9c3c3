r"""Euler's method on the probability-flow ODE, \(x_t = x_s + (t - s) \, v(x_s, s)\): first order."""

__all__ = ["Euler"]

from itertools import pairwise
from torch import Tensor

from ..batch import Conditions
from ..maps import SolutionMap
from ..random import Draws
from ..tensors import expand_right
from .base import Solver


class Euler(Solver):
    """One call a step, on the clock of the map's own path."""

    def __call__(
        self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws | None = None
    ) -> Tensor:
        for s, t in pairwise(times):
            step = expand_right((t - s).expand(len(x)), x).to(x.dtype)
            x = x + step * flow_map.velocity(x, s.expand(len(x)), cond)
        return x
