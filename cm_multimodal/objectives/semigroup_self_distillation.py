r"""Progressive self-distillation: the triangle, each jump learned from two, at any point between.

The identity is the semigroup one, with \(u\) at a random share of the way from s to t,

.. math:: L = \mathbb{E} \, \lVert u_\theta(x_s, s, t) - \mathrm{sg}[\text{mean velocity of }
    \Psi_{u \to t} \circ \Psi_{s \to u}] \rVert^2,

and flow matching on the diagonal, where the velocity comes from. No sample stands in off the diagonal, so that there is
no bias: the exact map is the only fixed point. Needs two times; no derivative and no second network (the weights that
learn make both jumps, without gradient; the published code switches their dropout off, here all calls share the mask).
It learns what its times are drawn from. Fragile in that errors of short jumps travel to long ones: most samples belong
on the diagonal.

References:
    | How to build a consistency model: Learning flow maps via self-distillation (Boffi et al., 2025), PSD
"""

__all__ = ["SemigroupSelfDistillation"]

from torch import Tensor

from ..losses import Metric, Weight
from ..maps import SolutionMap
from ..random import Draws
from ..times import LogNormal, PairMeasure, TimePair, Triangle, between
from .sources import NoisySample, Source, anchored
from .triangle import MeanVelocityRegression, two_jumps


class SemigroupSelfDistillation(MeanVelocityRegression):
    """Creates the progressive self-distillation objective.

    Arguments:
        times: The measure of (source, target) pairs.
        source: Where the velocity on the diagonal comes from.
        halve: Whether the two jumps have equal lengths.
        weight: The weight on each sample; none unless given.
        metric: The distance; it must be quadratic.
    """

    def __init__(
        self,
        times: PairMeasure = Triangle(LogNormal(0.0, 1.4), off_diagonal=0.25),
        source: Source | None = None,
        halve: bool = False,
        weight: Weight | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(times, source, weight, metric=metric)
        anchored(self.learned)
        self.halve = halve

    def off_diagonal(
        self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, velocity: Tensor, draws: Draws, progress: float
    ) -> Tensor:
        share = 0.5 if self.halve else draws.uniform("split")
        return two_jumps(flow_map, noisy, pair, between(flow_map.path, pair, share))
