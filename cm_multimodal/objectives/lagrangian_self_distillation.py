r"""Lagrangian self-distillation: the triangle, by the derivative at the target.

The identity is the Lagrangian equation: the end of a jump moves, as its target time does, with the velocity there,

.. math:: L = \mathbb{E} \, \lVert \partial_t \Psi_\theta(x_s, s, t)
    - \mathrm{sg}[v_\theta(\Psi_\theta(x_s, s, t), t)] \rVert^2,

and flow matching on the diagonal. The state at t is the map's own, so that no conditional velocity can stand in: it is
the model's diagonal. Needs two times, one derivative by time with its graph and two more calls without; no derivative
by the state and no second network. A path and scaling without a velocity at t = 0 will not do. It learns what its times
are drawn from. Unbiased; of the three forms this one is reported best on pictures. Fragile while the diagonal is wrong:
most samples belong there.

References:
    | How to build a consistency model: Learning flow maps via self-distillation (Boffi et al., 2025), LSD
"""

__all__ = ["LagrangianSelfDistillation", "lagrangian_residual"]

import torch

from torch import Tensor

from ..batch import Batch
from ..derivatives import Derivative
from ..losses import Metric, Weight
from ..maps import SolutionMap
from ..times import LogNormal, PairMeasure, TimePair, Triangle
from .selves import SelfDistillation, check_diagonal_at_zero
from .sources import NoisySample, Source


class LagrangianSelfDistillation(SelfDistillation):
    """Creates the Lagrangian self-distillation objective.

    Arguments:
        times: The measure of (source, target) pairs.
        source: Where the velocity on the diagonal comes from.
        derivative: How the derivative is computed.
        weight: The weight on each sample; none unless given.
        metric: The distance between velocities; it must be quadratic.
    """

    def __init__(
        self,
        times: PairMeasure = Triangle(LogNormal(0.0, 1.4), off_diagonal=0.25),
        source: Source | None = None,
        derivative: Derivative | None = None,
        weight: Weight | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(times, source, derivative, weight, metric=metric)

    def off_diagonal(self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair) -> Tensor:
        return lagrangian_residual(flow_map, flow_map, noisy, pair, self.derivative, self.metric)

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        lines = super().self_check(flow_map, batch)
        check_diagonal_at_zero(flow_map)
        return lines


def lagrangian_residual(
    flow_map: SolutionMap,
    judge: SolutionMap,
    noisy: NoisySample,
    pair: TimePair,
    derivative: Derivative,
    metric: Metric,
) -> Tensor:
    """Returns how far, with shape (B,), the end of a jump moves from the velocity of a map's diagonal there.

    Arguments:
        flow_map: The map that jumps, with gradient.
        judge: The map whose diagonal is the velocity, without.
        noisy: The noisy samples.
        pair: Their times.
        derivative: How the derivative is computed.
        metric: The distance.
    """
    precise = flow_map.precise()

    def jump(x: Tensor, t: Tensor) -> Tensor:
        return precise.jump(x, pair.s, t, noisy.cond)

    with torch.no_grad():
        end = flow_map.jump(noisy.x_s, pair.s, pair.t, noisy.cond)
        velocity = judge.velocity(end, pair.t, noisy.cond)
    return metric(derivative(jump, noisy.x_s, pair.t, None, graph=True), velocity, noisy.cond.mask)
