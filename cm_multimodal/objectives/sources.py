r"""Velocity sources: where an objective takes the velocity of the flow from.

The conditional velocity \(\alpha' x + \sigma' \varepsilon\) is an unbiased sample of the true one given the noisy state.
It may stand in only where the gradient of the loss is linear in it.
"""

__all__ = ["Conditional", "ModelDiagonal", "NoisySample", "Source", "Teacher", "noisy_sample"]

import torch

from abc import ABC, abstractmethod
from dataclasses import dataclass
from torch import Tensor

from ..batch import Conditions
from ..maps import SolutionMap


@dataclass(frozen=True)
class NoisySample:
    """A clean sample, the noise added to it, the time and the noisy state; x, eps and x_s have shape (B, *)."""

    x: Tensor
    eps: Tensor
    s: Tensor
    x_s: Tensor
    cond: Conditions


class Source(ABC):
    """Gives the velocity at a noisy state, without gradient."""

    @abstractmethod
    def __call__(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        """Returns the velocity, with shape (B, *)."""


class Conditional(Source):
    """The velocity of the one pair of sample and noise that made the state."""

    def __call__(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        return flow_map.path.velocity(noisy.x, noisy.eps, noisy.s)


class ModelDiagonal(Source):
    """The velocity that the learning map itself holds on its diagonal."""

    def __call__(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        with torch.no_grad():
            return flow_map.velocity(noisy.x_s, noisy.s, noisy.cond)


@dataclass(frozen=True)
class Teacher(Source):
    """The velocity of another map: an exact one, or one trained before.

    Arguments:
        teacher: A map on the same path.
    """

    teacher: SolutionMap

    def __call__(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        with torch.no_grad():
            return self.teacher.velocity(noisy.x_s, noisy.s, noisy.cond)


def noisy_sample(flow_map: SolutionMap, x: Tensor, eps: Tensor, s: Tensor, cond: Conditions) -> NoisySample:
    """Adds noise to clean samples, on the map's path."""
    return NoisySample(x, eps, s, flow_map.path.sample(x, eps, s), cond)
