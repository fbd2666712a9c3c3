r"""Few-step use of a learned solution map.

Samplers walk a decreasing grid of times \(s_0 > s_1 > \dots > s_n = 0\), one network call a jump, and differ in how they get
from one grid time to the next; `Mean` alone stops at the first one.
"""

__all__ = ["SAMPLERS", "Chain", "Gamma", "Mean", "Renoise", "Sampler"]

import math
import torch

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from torch import Tensor
from typing import ClassVar

from .batch import Conditions
from .maps import SolutionMap
from .paths import Path
from .random import Draws
from .tensors import expand_right


class Sampler(ABC):
    """A way of using the map from noise on.

    Attributes:
        most_steps: The most network calls it makes anything of.
    """

    most_steps: ClassVar[float] = math.inf

    @abstractmethod
    def needs(self, steps: int) -> frozenset[str]:
        """Returns which parts of the map must have been learned for a number of steps."""

    @abstractmethod
    def __call__(self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws) -> Tensor:
        """Returns clean samples, with shape (B, *).

        Arguments:
            flow_map: The map.
            x: States at the first time, with shape (B, *).
            times: The decreasing grid on the map's path, with shape (steps + 1,), ending in 0.
            cond: The conditions.
            draws: Where fresh noise comes from.
        """


class Chain(Sampler):
    """Jumps from each grid time to the next: deterministic."""

    def needs(self, steps: int) -> frozenset[str]:
        return frozenset({"edge"} if steps == 1 else {"triangle"})

    def __call__(self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws) -> Tensor:
        for s, t in pairwise(times):
            x = flow_map.jump(x, rows(s, x), rows(t, x), cond)
        return x


class Renoise(Sampler):
    """Jumps to clean data each time and adds fresh noise for the next jump: all a consistency model needs.

    References:
        | Consistency Models (Song et al., 2023), algorithm 1
    """

    def needs(self, steps: int) -> frozenset[str]:
        return frozenset({"edge"})

    def __call__(self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws) -> Tensor:
        for index, (s, t) in enumerate(pairwise(times)):
            x = flow_map.jump(x, rows(s, x), torch.zeros_like(rows(s, x)), cond)
            if t > 0:
                eps = draws.noise(f"renoise/{index}", tuple(x.shape[1:]), x.dtype)
                x = flow_map.path.sample(x, eps, rows(t, x))
        return x


@dataclass(frozen=True)
class Gamma(Sampler):
    r"""Jumps below the next grid time, to a noise ratio \(\sqrt{1 - \gamma^2} \rho\), and adds noise back up to it.

    Arguments:
        gamma: 0 is the deterministic chain, 1 goes all the way to clean data.

    References:
        | Consistency Trajectory Models (Kim et al., 2023), algorithm 2
    """

    gamma: float = 0.5

    def needs(self, steps: int) -> frozenset[str]:
        return frozenset({"edge"} if steps == 1 or self.gamma == 1 else {"triangle"})

    def __call__(self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws) -> Tensor:
        path = flow_map.path
        for index, (s, t) in enumerate(pairwise(times)):
            below = path.time_of((1 - self.gamma**2) ** 0.5 * path.noise_ratio(t))
            x = flow_map.jump(x, rows(s, x), rows(below, x), cond)
            if t > 0 and self.gamma > 0:
                x = _add_noise(path, x, below, t, draws.noise(f"gamma/{index}", tuple(x.shape[1:]), x.dtype))
        return x


class Mean(Sampler):
    r"""Names the expected clean sample, \(E[x_0 \mid x_s]\) at the first time, in one call: the diagonal of the map.

    From noise alone that is no draw but the mean of all that the conditions allow, blurred where these leave much open: of
    all answers the one with the smallest mean squared error. Of a guided field, or one that was learned from a guided
    source, it is the guided velocity's end, which is no mean.
    """

    most_steps = 1

    def needs(self, steps: int) -> frozenset[str]:
        return frozenset({"diagonal"})

    def __call__(self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws) -> Tensor:
        return flow_map.denoise(x, rows(times[0], x), cond)


SAMPLERS: dict[str, type[Sampler]] = {"chain": Chain, "renoise": Renoise, "gamma": Gamma, "mean": Mean}


def rows(time: Tensor, x: Tensor) -> Tensor:
    """Repeats one time for every sample, with shape (B,)."""
    return time.expand(len(x))


def _add_noise(path: Path, x: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
    """Raises the noise ratio of states, with shape (B, *), from one time to a later one."""
    scale = path.alpha(high) / path.alpha(low)
    fresh = torch.sqrt(path.sigma(high) ** 2 - (scale * path.sigma(low)) ** 2)
    return expand_right(rows(scale, x), x).to(x.dtype) * x + expand_right(rows(fresh, x), x).to(x.dtype) * eps
