r"""Terminal velocity matching: the triangle, by the derivative at the target, judged by an averaged diagonal.

The identity is that of :mod:`.lagrangian_self_distillation`. Each sample gives two terms at independent times: the end
of a jump has to move with the velocity of the averaged weights there, and the diagonal is learned by flow matching,

.. math:: L = \mathbb{E} \, \lVert \partial_t \Psi_\theta(x_s, s, t)
    - v_{\theta^-}(\mathrm{sg} \Psi_\theta(x_s, s, t), t) \rVert^2 + \mathbb{E} \, \lVert v_\theta(x_{s'}, s') - v \rVert^2 .

The first bounds the distance between the distributions of generated and real samples. Needs two times, a target network
and a derivative by time with its graph, at about twice the cost of mean flow. The length of a jump and its target are
logit-normal. It learns everything. A path and scaling without a velocity at t = 0 will not do. Fragile in half
precision, as the gradient goes through the derivative, which is computed in float32.

References:
    | Terminal Velocity Matching (Zhou et al., 2025)
"""

__all__ = ["TerminalVelocity"]

from ..batch import Batch
from ..derivatives import Derivative, ForwardMode
from ..losses import L2, Loss, Metric
from ..maps import SolutionMap
from ..random import Draws
from ..times import Gaps, LogitNormal, PairMeasure, TimeMeasure
from .base import Objective
from .flow_matching import FlowMatching
from .lagrangian_self_distillation import lagrangian_residual
from .mean_flow import directional
from .selves import check_diagonal_at_zero
from .sources import Source, noisy_sample
from .targets import Averaged, Target


class TerminalVelocity(Objective):
    """Creates the terminal-velocity objective.

    Arguments:
        times: The measure of (source, target) pairs.
        diagonal: The measure of the times on the diagonal.
        source: Where the velocity on the diagonal comes from.
        derivative: How the derivative is computed.
        target: Whose weights are the velocity at the end of a jump.
        metric: The distance between velocities; it must be quadratic.
    """

    learned = frozenset({"diagonal", "edge", "triangle"})
    two_times = True

    def __init__(
        self,
        times: PairMeasure = Gaps(edge=0.1),
        diagonal: TimeMeasure = LogitNormal(-0.4, 1.0),
        source: Source | None = None,
        derivative: Derivative | None = None,
        target: Target | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(target or Averaged(0.99))
        if metric and not metric.quadratic:
            raise ValueError(
                "it needs a quadratic metric: the velocity on the diagonal is a noisy sample of the true one"
            )
        self.times, self.derivative, self.metric = times, derivative or ForwardMode(), metric or L2()
        self.diagonal = FlowMatching(diagonal, self.metric, source)

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        pair = self.times.pairs(draws, flow_map.path)
        noisy = noisy_sample(flow_map, batch, draws, pair.s)
        judge = self.target.map(flow_map)
        distance = lagrangian_residual(flow_map, judge, noisy, pair, self.derivative, self.metric)
        velocity = self.diagonal.loss(flow_map, batch, draws.named("diagonal"), progress)
        per_sample = distance.detach() + velocity.per_sample
        return Loss(distance.mean() + velocity.value, per_sample, flow_map.path.noise_ratio(pair.s))

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        lines = super().self_check(flow_map, batch)
        check_diagonal_at_zero(flow_map)
        self.derivative, more = directional(self.derivative, flow_map, batch)
        return [*lines, *more]
