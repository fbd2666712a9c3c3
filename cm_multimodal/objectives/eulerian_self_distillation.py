r"""Eulerian self-distillation: the triangle, by the derivative at the source.

The identity is the Eulerian equation, \(\partial_s \Psi_{s \to t}(x) + \nabla_x \Psi_{s \to t}(x) \cdot v(x, s) = 0\),
with the advective part stopped,

.. math:: L = \mathbb{E} \, \lVert \partial_s \Psi_\theta(x_s, s, t)
    + \mathrm{sg}[\nabla_x \Psi_\theta \cdot v_\theta(x_s, s)] \rVert^2,

and flow matching on the diagonal. The velocity is the model's own diagonal (`velocity`); as the gradient is linear in
it, the conditional one may stand in. Needs two times, one derivative by time with its graph and one along the velocity
without. It learns what its times are drawn from. Fragile: of the three forms this one is reported unstable on pictures,
because the spatial derivative is that of a network that is still wrong.

References:
    | How to build a consistency model: Learning flow maps via self-distillation (Boffi et al., 2025), ESD
"""

__all__ = ["EulerianSelfDistillation"]

from torch import Tensor

from ..derivatives import Derivative
from ..losses import Metric, Weight
from ..maps import SolutionMap
from ..times import LogNormal, PairMeasure, TimePair, Triangle
from .selves import SelfDistillation
from .sources import ModelDiagonal, NoisySample, Source


class EulerianSelfDistillation(SelfDistillation):
    """Creates the Eulerian self-distillation objective.

    Arguments:
        times: The measure of (source, target) pairs.
        source: Where the velocity on the diagonal comes from.
        velocity: Where that off the diagonal comes from.
        derivative: How derivatives are computed.
        weight: The weight on each sample; none unless given.
        metric: The distance between velocities; it must be quadratic.
    """

    def __init__(
        self,
        times: PairMeasure = Triangle(LogNormal(0.0, 1.4), off_diagonal=0.25),
        source: Source | None = None,
        velocity: Source | None = None,
        derivative: Derivative | None = None,
        weight: Weight | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(times, source, derivative, weight, metric=metric)
        self.velocity = velocity or ModelDiagonal()

    def off_diagonal(self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair) -> Tensor:
        precise = flow_map.precise()

        def jump(x: Tensor, s: Tensor) -> Tensor:
            return precise.jump(x, s, pair.t, noisy.cond)

        velocity = self.velocity.velocity(flow_map, noisy)
        by_time = self.derivative(jump, noisy.x_s, pair.s, None, graph=True)
        by_state = self.derivative(jump, noisy.x_s, pair.s, velocity, rate=0.0)
        return self.metric(by_time, -by_state, noisy.cond.mask)
