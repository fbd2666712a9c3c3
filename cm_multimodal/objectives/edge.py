r"""The edge t = 0 of the solution map, learned in finite steps: what consistency objectives share.

The identity is the Eulerian one: the clean end point is the same from everywhere along a trajectory. With \(f = \Psi_{s
\to 0}\), a noise ratio \(\rho\) and a lower one r of the same trajectory,

.. math:: L = \mathbb{E} \, w(\rho, r) \, d(f_\theta(x_\rho), \mathrm{sg} f_{\theta^-}(x_r)),

with \(x_r\) itself as target where r = 0. A source gives \(x_r\): the same sample with the same noise, whose mean given
\(x_\rho\) is one DDIM step, or a teacher's step. With a quadratic distance and affine f the conditional step leaves the
minimiser where the DDIM step would put it; with another distance it is a heuristic. A finite step leaves a bias: on
Gaussian data of variance c^2 the fixed point of one step multiplies the slope of f by \(1 - (\rho - r) \rho / (c^2 +
\rho^2)\). Both calls of the network see the same dropout mask, which is a function of the sample's number.
"""

__all__ = ["FiniteConsistency"]

import torch

from abc import abstractmethod
from torch import Tensor

from ..batch import Batch
from ..curricula import Rungs
from ..losses import L2, Loss, Metric
from ..maps import SolutionMap
from ..random import Draws
from ..tensors import where_rows
from .base import Objective
from .sources import NoisySample, Source, check_probabilities, noisy_sample, settled
from .targets import Target


class FiniteConsistency(Objective):
    """Compares the end points of two states of a trajectory.

    Arguments:
        source: What carries a state down to the lower ratio.
        target: Whose weights compute the end point of the lower one.
        metric: The distance between two clean end points.
    """

    learned = frozenset({"edge"})
    two_times = False

    def __init__(
        self, source: Source | None = None, target: Target | None = None, metric: Metric | None = None
    ) -> None:
        super().__init__(target)
        self.source, self.metric = settled(source, self.learned), metric or L2()

    @abstractmethod
    def rungs(self, draws: Draws, progress: float) -> Rungs:
        """Draws the two ends of a step for every sample."""

    def weigh(self, rungs: Rungs) -> Tensor:
        r"""Returns the weight of each sample, with shape (B,): \\(1 / (\\rho - r)\\) unless an objective says otherwise."""
        return (rungs.upper - rungs.lower).reciprocal()

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        check_probabilities(flow_map, batch, self.metric)
        return super().self_check(flow_map, batch)

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        rungs = self.rungs(draws, progress)
        noisy = noisy_sample(flow_map, batch, draws, flow_map.path.time_of(rungs.upper))
        prediction = flow_map.jump(noisy.x_s, noisy.s, torch.zeros_like(noisy.s), noisy.cond)
        distance = self.metric(prediction, self.end_point(flow_map, noisy, rungs.lower, progress), noisy.cond.mask)
        weight = self.weigh(rungs).to(distance.dtype)
        return Loss((distance * weight).mean(), distance.detach(), rungs.upper)

    @torch.no_grad()
    def end_point(self, flow_map: SolutionMap, noisy: NoisySample, lower: Tensor, progress: float) -> Tensor:
        """Returns the target, with shape (B, *): the end point of the trajectory's state at the lower ratio."""
        clean = lower == 0
        x_0 = self.source.step(flow_map, noisy, torch.zeros_like(lower)) if clean.any() else noisy.x
        if clean.all():
            return x_0
        r = flow_map.path.time_of(torch.where(clean, 1.0, lower))
        x_r = self.source.step(flow_map, noisy, r)
        return where_rows(clean, x_0, self.jump_down(flow_map, x_r, r, noisy, progress))

    def jump_down(self, flow_map: SolutionMap, x_r: Tensor, r: Tensor, noisy: NoisySample, progress: float) -> Tensor:
        """Returns the end points, with shape (B, *), that the target's weights give to states at times r."""
        return self.target.map(flow_map).jump(x_r, r, torch.zeros_like(r), noisy.cond)
