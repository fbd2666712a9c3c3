r"""Improved mean flow: the triangle, as a regression of the velocity that does not chase its own goal.

The identity is that of :mod:`.mean_flow`, solved for the velocity. The network's

.. math:: V_\theta = u_\theta(x_s, s, t) + (s - t) \, \mathrm{sg}[\tfrac{d}{ds} u_\theta], \qquad
    L = \mathbb{E} \, w \, \lVert V_\theta - v \rVert^2,

is compared with a velocity that does not depend on the network, the conditional one, while the derivative follows the
model's own velocity on its diagonal: both sides of the tangent are then functions of the noisy state alone, which takes
the conditional noise out of the derivative. Its gradient is linear in the conditional velocity but for the adaptive
weight. Needs two times and one
directional derivative, at the price of one more call without gradient; the published network has a second head for that
velocity instead. It learns what its times are drawn from. As the two velocities belong to different ends of a jump, its
loss off the diagonal changes with the path, unlike that of mean flow (the minimiser does not). Fragile as mean flow is;
the published loss spikes late in training at high noise, which the adaptive weight tames.

References:
    | Improved Mean Flows: On the Challenges of Fastforward Generative Models (Geng et al., 2025)
"""

__all__ = ["ImprovedMeanFlow"]

from torch import Tensor

from ..derivatives import Derivative, ForwardMode
from ..losses import AdaptiveWeight, Metric, Weight
from ..maps import SolutionMap
from ..random import Draws
from ..tensors import expand_right
from ..times import LogNormal, PairMeasure, TimePair, Triangle
from .mean_flow import MeanFlow
from .sources import ModelDiagonal, NoisySample, Source


class ImprovedMeanFlow(MeanFlow):
    """Creates the improved mean-flow objective.

    Arguments:
        times: The measure of (source, target) pairs.
        source: Where the velocity that is regressed on comes from.
        direction: Where the velocity that the derivative follows comes from.
        derivative: How the total derivative is computed.
        weight: The weight on each sample.
        metric: The distance; it must be quadratic.
    """

    def __init__(
        self,
        times: PairMeasure = Triangle(LogNormal(-0.4, 1.0), off_diagonal=0.5),
        source: Source | None = None,
        direction: Source | None = None,
        derivative: Derivative = ForwardMode(),
        weight: Weight | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(times, source, derivative, weight or AdaptiveWeight(1.0, 1e-2), metric)
        self.direction = direction or ModelDiagonal()
        if self.direction.asks_diagonal and "diagonal" not in self.learned:
            raise ValueError(
                "the derivative follows the diagonal, which these times never draw; off_diagonal is below 1"
            )

    def off_diagonal(
        self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, velocity: Tensor, draws: Draws, progress: float
    ) -> Tensor:
        slope = self.slope(flow_map, noisy, pair, self.direction.velocity(flow_map, noisy))
        return velocity - expand_right(pair.s - pair.t, slope).to(slope.dtype) * slope
