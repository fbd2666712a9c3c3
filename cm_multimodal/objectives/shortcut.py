r"""Shortcut models: the triangle on a dyadic lattice, each jump learned from two of half its length.

The identity is the semigroup one. Jumps have the lengths 1, 1/2, ..., 1/128 on the clock of the straight path. The
shortest is anchored to a step of the source; a longer one aims at two of half its length by the averaged weights,

.. math:: g(x_s, s, t) = \text{mean velocity of } \Psi_{\theta^-, u \to t} \circ \Psi_{\theta^-, s \to u}, \qquad
    u \text{ half-way.}

Needs two times and a target network; no derivative. It learns the edge and the triangle, on the lattice: jumps in 1, 2,
4, 8, ... equal steps of the straight grid, and little in between. The anchor with the conditional sample is a straight
step of 1/128, whose bias is of that order: on \(\mathcal{N}(0.3, 0.7^2)\) the map of the whole way is 1.0 % short.
Fragile without the averaged target; published runs report that weight decay keeps them stable, and clip states and goals
to \(\pm 4\), which is left out here.

References:
    | One Step Diffusion via Shortcut Models (Frans et al., 2024), section 3 and algorithm 1
"""

__all__ = ["Shortcut"]

import torch

from torch import Tensor

from ..losses import Metric, Weight
from ..maps import SolutionMap
from ..random import Draws
from ..times import Dyadic, TimePair, between
from .sources import NoisySample, Source
from .targets import Averaged, Target
from .triangle import MeanVelocityRegression, secant, two_jumps


class Shortcut(MeanVelocityRegression):
    """Creates the shortcut objective.

    Arguments:
        times: The lattice, and how often its jumps are longer than the shortest.
        source: What makes the shortest step.
        target: Whose weights make the two halves.
        weight: The weight on each sample; none unless given.
        metric: The distance; it must be quadratic.
    """

    times: Dyadic

    def __init__(
        self,
        times: Dyadic = Dyadic(),
        source: Source | None = None,
        target: Target | None = None,
        weight: Weight | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(times, source, weight, target or Averaged(0.999), metric)

    def off_diagonal(
        self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, velocity: Tensor, draws: Draws, progress: float
    ) -> Tensor:
        short = self.times.shortest(pair, flow_map.path)
        goal = secant(noisy.x_s, self.source.step(flow_map, noisy, pair.t), pair)
        long = (~short).nonzero()[:, 0]
        if len(long) == 0:
            return goal
        jumps, some = pair.take(long), noisy.take(long)
        halves = two_jumps(self.target.map(flow_map), some, jumps, between(flow_map.path, jumps, 0.5))
        return torch.index_put(goal, (long,), halves)
