r"""Alpha flow: the triangle, from trajectory flow matching to mean flow by shortening a first step.

The identity is the semigroup one. A first step goes a share \(\alpha\) of the way, to \(s' = s - \alpha (s - t)\), by
the source; the map jumps the rest,

.. math:: g = \alpha \, \tilde v + (1 - \alpha) \, \mathrm{sg}[u_\theta(x_s - \alpha (s - t) \tilde v, s', t)] .

At \(\alpha = 1\) this is flow matching along whole trajectories, at 1/2 with the model's own velocity it would be a
shortcut, and the limit \(\alpha \to 0\) is :mod:`.mean_flow`, which takes over where \(\alpha < 0.005\). The share falls
along a sigmoid as training goes on. With a step along the true trajectory the identity is exact; with the conditional one,
whose mean is straight, it has a bias of order \(\alpha^2\), gone at the end of the schedule. The step is a share by the
clock of the straight path, where it is the published one. Needs two times and, at the end, one directional derivative.
It learns what its times are drawn from. The weight of a jump is multiplied by \(\alpha\) while that is not zero; that of
the diagonal is not. The published code also clips goals to \(\pm 4\), which is left out here. Fragile as mean flow is,
later.

References:
    | AlphaFlow: Understanding and Improving MeanFlow Models (Zhang et al., 2025)
"""

__all__ = ["AlphaFlow"]

import math

from torch import Tensor

from ..derivatives import Derivative, ForwardMode
from ..losses import AdaptiveWeight, Metric, Weight
from ..maps import SolutionMap
from ..random import Draws
from ..times import LogNormal, PairMeasure, TimePair, Triangle, between
from .mean_flow import MeanFlow
from .sources import NoisySample, Source
from .triangle import secant

CUT = 0.005


class AlphaFlow(MeanFlow):
    """Creates the alpha-flow objective.

    Arguments:
        times: The measure of (source, target) pairs.
        start: The share of the training at which alpha begins to fall.
        end: That at which it has fallen.
        steepness: How steeply it falls in between.
        source: What makes the first step.
        derivative: How the total derivative is computed once alpha is zero.
        weight: The weight on each sample.
        metric: The distance; it must be quadratic.
    """

    def __init__(
        self,
        times: PairMeasure = Triangle(LogNormal(-0.4, 1.0)),
        start: float = 0.0,
        end: float = 0.7,
        steepness: float = 25.0,
        source: Source | None = None,
        derivative: Derivative = ForwardMode(),
        weight: Weight | None = None,
        metric: Metric | None = None,
    ) -> None:
        if not 0 <= start < end <= 1:
            raise ValueError("start and end are shares of the training, start before end")
        super().__init__(times, source, derivative, weight or AdaptiveWeight(1.0, 1e-3), metric)
        self.start, self.end, self.steepness = start, end, steepness

    def alpha(self, progress: float) -> float:
        """Returns the share of a jump that the source goes, at a progress between 0 and 1."""
        middle = (self.start + self.end) / 2
        fall = self.steepness * (progress - middle) / (self.end - self.start)
        alpha = 1 / (1 + math.exp(min(fall, 700.0)))
        return 0.0 if alpha < CUT else 1.0 if alpha > 1 - CUT else alpha

    def importance(self, progress: float) -> float:
        return self.alpha(progress) or 1.0

    def off_diagonal(
        self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, velocity: Tensor, draws: Draws, progress: float
    ) -> Tensor:
        alpha = self.alpha(progress)
        if alpha == 0:
            return super().off_diagonal(flow_map, noisy, pair, velocity, draws, progress)
        middle = pair.t if alpha == 1 else between(flow_map.path, pair, alpha)
        first = self.source.step(flow_map, noisy, middle)
        end = first if alpha == 1 else flow_map.jump(first, middle, pair.t, noisy.cond)
        return secant(noisy.x_s, end, pair)
