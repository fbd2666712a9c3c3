r"""The triangle of the solution map, learned as a mean velocity: what such objectives share.

The mean velocity \(u = (x_s - \Psi_{s \to t}) / (s - t)\) of a jump is regressed on a goal without gradient,

.. math:: L = \mathbb{E} \, w \, \lVert u_\theta(x_s, s, t) - \mathrm{sg}[g(x_s, s, t)] \rVert^2,

which on the diagonal is the velocity of a source and off it what an identity makes of shorter or neighbouring jumps.
The goal is linear in the conditional velocity, so that the quadratic distance leaves the minimiser where the true one
puts it.
"""

__all__ = ["MeanVelocityRegression", "secant", "two_jumps"]

import torch

from abc import abstractmethod
from torch import Tensor

from ..batch import Batch
from ..losses import L2, AdaptiveWeight, Loss, Metric, Weight
from ..maps import SolutionMap
from ..random import Draws
from ..tensors import expand_right
from ..times import PairMeasure, TimePair
from .base import Objective
from .sources import NoisySample, Source, noisy_sample, settled
from .targets import Target


class MeanVelocityRegression(Objective):
    """Regresses the mean velocity.

    Arguments:
        times: The measure of (source, target) pairs.
        source: Where the velocity comes from.
        weight: The weight on each sample; none unless given.
        target: Whose weights compute the goal.
        metric: The distance; it must be quadratic.
    """

    two_times = True

    def __init__(
        self,
        times: PairMeasure,
        source: Source | None = None,
        weight: Weight | None = None,
        target: Target | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(target)
        self.learned, self.metric = times.learned(), metric or L2()
        self.times, self.source, self.weight = times, settled(source, self.learned), weight or AdaptiveWeight()
        if not self.metric.quadratic:
            raise ValueError("it needs a quadratic metric: its goal is a noisy sample of the true one")

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        pair = self.times.pairs(draws, flow_map.path)
        noisy = noisy_sample(flow_map, batch, draws, pair.s)
        prediction = flow_map.mean_velocity(noisy.x_s, pair.s, pair.t, noisy.cond)
        distance = self.metric(prediction, self.goal(flow_map, noisy, pair, draws, progress), noisy.cond.mask)
        weighted = self.weight(distance, flow_map.clock(pair.s), flow_map.clock(pair.t))
        weighted = torch.where(pair.t < pair.s, self.importance(progress), 1.0).to(weighted.dtype) * weighted
        return Loss(weighted.mean(), distance.detach(), flow_map.path.noise_ratio(pair.s))

    def importance(self, progress: float) -> float:
        """Returns what a jump weighs beside a velocity of the diagonal, at a progress between 0 and 1."""
        return 1.0

    @torch.no_grad()
    def goal(self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, draws: Draws, progress: float) -> Tensor:
        """Returns what the mean velocity is regressed on, with shape (B, *)."""
        velocity = self.source.velocity(flow_map, noisy)
        off = (pair.t < pair.s).nonzero()[:, 0]
        if len(off) == 0:
            return velocity
        some, draws = noisy.take(off), draws.take(off)
        jumps = self.off_diagonal(flow_map, some, pair.take(off), velocity[off], draws, progress)
        return torch.index_put(velocity, (off,), jumps)

    @abstractmethod
    def off_diagonal(
        self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, velocity: Tensor, draws: Draws, progress: float
    ) -> Tensor:
        """Returns the goal of the samples with t < s.

        Arguments:
            flow_map: The map that learns.
            noisy: The noisy samples, of which there is at least one.
            pair: Their times.
            velocity: The source's velocity there.
            draws: The samples' random numbers.
            progress: The share of the training that is done.
        """


def two_jumps(flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, u: Tensor) -> Tensor:
    """Returns the mean velocity, with shape (B, *), of a jump to times u and another one on to t."""
    middle = flow_map.jump(noisy.x_s, pair.s, u, noisy.cond)
    end = flow_map.jump(middle, u, pair.t, noisy.cond)
    return secant(noisy.x_s, end, pair)


def secant(x_s: Tensor, x_t: Tensor, pair: TimePair) -> Tensor:
    """Returns the mean velocity, with shape (B, *), between two states."""
    return (x_s - x_t) / expand_right(pair.s - pair.t, x_s).to(x_s.dtype)
