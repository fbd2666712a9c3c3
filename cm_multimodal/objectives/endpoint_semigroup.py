r"""The semigroup in clean end points: the triangle, aiming at a convex mix of two predictions.

The identity is the semigroup one for the end point D of a jump, \(\Psi_{s \to t} = A_{st} x_s + B_{st} D(x_s, s, t)\)
with DDIM's \(A_{st} = \sigma_t / \sigma_s\), \(B_{st} = \alpha_t - \alpha_s A_{st}\). As \(A_{ut} A_{su} = A_{st}\),

.. math:: D(x_s, s, t) = \frac{A_{ut} B_{su}}{B_{st}} D(x_s, s, u) + \frac{B_{ut}}{B_{st}} D(\Psi_{s \to u}(x_s), u, t),

whose weights are not negative and sum to one on every path. So the target of two stopped predictions stays on the
simplex where the state is a vector of probabilities, or a mix of embeddings by such a vector, and the loss is a
cross-entropy with soft targets there; elsewhere it is a squared error weighted as in :mod:`.denoising`, which is the
error of the network's own output under the rotation scaling, for all pairs of times. On the diagonal D is the denoised
state, learned from clean samples. No derivative, so that any network and attention kernel will do, and no second
network unless the two shorter jumps are to be those of averaged weights. Needs two times. It learns what its times are
drawn from. Unbiased; fragile as :mod:`.semigroup_self_distillation` is.

References:
    | Consistency Trajectory Models (Kim et al., 2023), equation 9, for the end point
    | How to build a consistency model: Learning flow maps via self-distillation (Boffi et al., 2025), for the semigroup
"""

__all__ = ["EndpointSemigroup"]

import dataclasses
import torch

from torch import Tensor

from ..batch import Batch, Conditions
from ..losses import L2, Loss, Metric, edm_weight
from ..maps import Endpoint, SolutionMap
from ..random import Draws
from ..tensors import expand_right
from ..times import LogNormal, TimePair, Triangle, between
from .base import Objective
from .sources import NoisySample, Source, anchored, check_shares, clean_state, noisy_sample, settled
from .targets import Target


class EndpointSemigroup(Objective):
    """Creates the endpoint-semigroup objective.

    Arguments:
        times: The measure of (source, target) pairs.
        metric: The distance between two clean end points.
        source: Where the velocity on the diagonal comes from.
        diagonal_first: The share of the training, at its begin, that goes to the diagonal alone: jumps are learned from it.
        target: Whose weights make the two shorter jumps.
    """

    two_times = True

    def __init__(
        self,
        times: Triangle = Triangle(LogNormal(-0.4, 1.4), off_diagonal=0.5),
        metric: Metric | None = None,
        source: Source | None = None,
        diagonal_first: float = 0.0,
        target: Target | None = None,
    ) -> None:
        super().__init__(target)
        if not 0 <= diagonal_first < 1:
            raise ValueError("diagonal_first is a share, at least 0 and below 1")
        self.learned, self.diagonal_first = anchored(times.learned()), diagonal_first
        self.times, self.metric, self.source = times, metric or L2(), settled(source, self.learned)

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        check_shares(flow_map, batch, self.metric, self.source)
        return super().self_check(flow_map, batch)

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        times = dataclasses.replace(self.times, off_diagonal=0.0) if progress < self.diagonal_first else self.times
        pair = times.pairs(draws, flow_map.path)
        noisy, ratio = noisy_sample(flow_map, batch, draws, pair.s), flow_map.path.noise_ratio(pair.s)
        prediction = self._named(flow_map, noisy.x_s, pair.s, pair.t, noisy.cond)
        distance = self.metric(prediction, self._goal(flow_map, noisy, pair, draws), noisy.cond.mask)
        weight = 1.0 if self.metric.simplex else edm_weight(ratio, flow_map.sigma_data).to(distance.dtype)
        return Loss((distance * weight).mean(), distance.detach(), ratio)

    @torch.no_grad()
    def _goal(self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, draws: Draws) -> Tensor:
        clean = clean_state(self.source, flow_map, noisy)
        clean = flow_map.shares_of(clean) if self.metric.simplex else clean
        off = (pair.t < pair.s).nonzero()[:, 0]
        if len(off) == 0:
            return clean
        mix = self._mix(flow_map, noisy.take(off), pair.take(off), draws.take(off))
        return torch.index_put(clean, (off,), mix)

    def _mix(self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, draws: Draws) -> Tensor:
        s, t, u = pair.s, pair.t, between(flow_map.path, pair, draws.uniform("split"))
        first, second, whole = (
            Endpoint().jump(flow_map.path, flow_map.sigma_data, *times) for times in ((s, u), (u, t), (s, t))
        )
        its = self.target.map(flow_map)
        near = self._named(its, noisy.x_s, s, u, noisy.cond)
        reached = first(noisy.x_s, its.mixed(near) if self.metric.simplex else near)
        far = self._named(its, reached, u, t, noisy.cond)
        share = expand_right(second.a * first.b / whole.b, near).to(near.dtype)
        return share * near + (1 - share) * far

    def _named(self, flow_map: SolutionMap, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """Returns the end points of jumps, or what shares they are mixed of where those are compared."""
        return flow_map.shares(x, s, t, cond) if self.metric.simplex else flow_map.endpoint(x, s, t, cond)
