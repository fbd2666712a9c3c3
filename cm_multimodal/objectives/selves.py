r"""Self-distillation by derivatives: what its Eulerian and Lagrangian forms share.

The diagonal is learned by flow matching; off it the map has to satisfy a differential equation in which its own
diagonal plays the velocity. Gradients flow through the derivative by time, which costs a second pass with its graph on
the samples off the diagonal. All calls share the dropout mask; the published code drops on the diagonal only.

References:
    | How to build a consistency model: Learning flow maps via self-distillation (Boffi et al., 2025)
"""

__all__ = ["SelfDistillation", "check_diagonal_at_zero"]

import torch

from abc import abstractmethod
from torch import Tensor

from ..batch import Batch
from ..derivatives import Derivative, ForwardMode
from ..losses import L2, AdaptiveWeight, Loss, Metric, Weight
from ..maps import FlowMap, SolutionMap
from ..random import Draws
from ..times import PairMeasure, TimePair
from .base import Objective, requires
from .mean_flow import directional
from .sources import NoisySample, Source, anchored, noisy_sample, settled
from .targets import Target


class SelfDistillation(Objective):
    """Learns the diagonal from a source and the rest from the diagonal.

    Arguments:
        times: The measure of (source, target) pairs.
        source: Where the velocity on the diagonal comes from.
        derivative: How derivatives are computed.
        weight: The weight on each sample; none unless given.
        target: Whose weights are the velocity off the diagonal.
        metric: The distance between velocities; it must be quadratic.
    """

    two_times = True

    def __init__(
        self,
        times: PairMeasure,
        source: Source | None = None,
        derivative: Derivative | None = None,
        weight: Weight | None = None,
        target: Target | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(target)
        self.learned, self.weight, self.metric = anchored(times.learned()), weight or AdaptiveWeight(), metric or L2()
        self.times, self.source, self.derivative = times, settled(source, self.learned), derivative or ForwardMode()
        if not self.metric.quadratic:
            raise ValueError(
                "it needs a quadratic metric: the velocity on the diagonal is a noisy sample of the true one"
            )

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        pair = self.times.pairs(draws, flow_map.path)
        noisy = noisy_sample(flow_map, batch, draws, pair.s)
        same = pair.t == pair.s
        distance = torch.zeros_like(pair.s, dtype=batch.x.dtype)
        for rows, part in ((same.nonzero()[:, 0], self.on_diagonal), ((~same).nonzero()[:, 0], self.off_diagonal)):
            if len(rows):
                distance = distance.index_put((rows,), part(flow_map, noisy.take(rows), pair.take(rows)))
        weighted = self.weight(distance, flow_map.clock(pair.s), flow_map.clock(pair.t))
        return Loss(weighted.mean(), distance.detach(), flow_map.path.noise_ratio(pair.s))

    def on_diagonal(self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair) -> Tensor:
        """Returns the distances, with shape (B,), of the velocities of samples with t = s from the source's."""
        velocity = flow_map.velocity(noisy.x_s, noisy.s, noisy.cond)
        return self.metric(velocity, self.source.velocity(flow_map, noisy), noisy.cond.mask)

    @abstractmethod
    def off_diagonal(self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair) -> Tensor:
        """Returns the residuals, with shape (B,), of the differential equation for samples with t < s."""

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        lines = super().self_check(flow_map, batch)
        self.derivative, more = directional(self.derivative, flow_map, batch)
        return [*lines, *more]


def check_diagonal_at_zero(flow_map: SolutionMap) -> None:
    """Raises a UsageError unless a map has a velocity at clean data."""
    zero = torch.zeros(1, dtype=torch.float64)
    if isinstance(flow_map, FlowMap):
        affine = flow_map.scaling.tangent(flow_map.path, flow_map.sigma_data, zero)
        requires(
            bool(torch.isfinite(affine.a).all() and torch.isfinite(affine.b).all()),
            "This objective needs the velocity at clean data (t = 0), which this path and scaling do not have; use "
            "path=linear, edm, trigflow or vp_cosine with objective.scaling=euler or rotation.",
        )
