r"""Inductive moment matching: the triangle, in distribution.

The identity is the semigroup one, asked of laws instead of points: for \(r\) slightly below s, the jumps from s and
from r to the same t have to give the same distribution. Samples go in groups of M that share (s, r, t); within a group
the maximum mean discrepancy with a Laplace kernel compares \(y_i = \Psi_\theta(x_s, s, t)\) with \(y'_i = \mathrm{sg}
\Psi_\theta(x_r, r, t)\),

.. math:: L = \mathbb{E} \, \frac{w(s)}{M^2} \sum_{i, j} k(y_i, y_j) + k(y'_i, y'_j) - 2 k(y_i, y'_j),
    \qquad k(y, y') = \exp(-\lVert y - y' \rVert / (|c_{out}| D)),

where x_r keeps sample and noise of x_s, a DDIM step with the sample itself, and the ratio of r lies \(2^{-k}\) of the
whole range below. Needs two times; no derivative and no second network; the dropout mask is shared. It learns the edge
and the triangle. The pairs i = j, which share their noise, leave a bias of order 1/M; M = 1 is consistency training
with a kernel. Groups are of neighbouring sample numbers, so that batches, and the rows of each process, hold whole
groups. Fragile with small groups and batches. No training code was published: the weight w(s), that of an evidence
bound, is from the paper.

References:
    | Inductive Moment Matching (Zhou et al., 2025), equations 12-14 and appendix C
"""

__all__ = ["MomentMatching"]

import dataclasses
import torch

from einops import rearrange
from torch import Tensor

from ..batch import Batch
from ..losses import Loss
from ..maps import Rotation, SolutionMap
from ..random import Draws
from ..tensors import expand_right, position_mask
from ..times import RATIO_MAX, LogNormal, PairMeasure, TimePair, Triangle, straight_clock
from .base import Objective, requires
from .sources import Source, noisy_sample, settled

NEAREST, SMALLEST = 1e-4, 1e-6


class MomentMatching(Objective):
    """Creates the inductive-moment-matching objective.

    Arguments:
        times: The measure of (source, target) pairs.
        group: The samples M that are compared with each other.
        halvings: How often the range of noise ratios is halved to make a step, k.
        shift: The logarithm of the signal-to-noise ratio above which samples weigh less, b.
        source: What carries a state down to the lower ratio.
    """

    two_times = True

    def __init__(
        self,
        times: PairMeasure = Triangle(LogNormal(-0.4, 1.6), off_diagonal=1.0),
        group: int = 4,
        halvings: int = 12,
        shift: float = 4.0,
        source: Source | None = None,
    ) -> None:
        super().__init__()
        if group < 1 or halvings < 1:
            raise ValueError("group and halvings are at least 1")
        self.learned = times.learned() - {"diagonal"}  # where s = t both sides are one and the same
        self.times, self.group, self.halvings, self.shift = times, group, halvings, shift
        self.source = settled(source, self.learned)

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        self._check_groups(draws)
        pair = self.times.pairs(dataclasses.replace(draws, ids=draws.ids // self.group), flow_map.path)
        noisy, r = noisy_sample(flow_map, batch, draws, pair.s), self._lower(flow_map, pair)
        y = flow_map.jump(noisy.x_s, pair.s, pair.t, noisy.cond)
        with torch.no_grad():
            other = flow_map.jump(self.source.step(flow_map, noisy, r), r, pair.t, noisy.cond)
        distance = self._discrepancy(flow_map, pair, y, other, noisy.cond.mask)
        ratio = flow_map.path.noise_ratio(pair.s)
        weight = self._weight(ratio / flow_map.sigma_data)[:: self.group].to(distance.dtype)
        per_sample = distance.detach().repeat_interleave(self.group)
        return Loss((distance * weight).mean(), per_sample, ratio)

    def _lower(self, flow_map: SolutionMap, pair: TimePair) -> Tensor:
        high, low = (flow_map.path.noise_ratio(time) for time in (pair.s, pair.t))
        below = flow_map.path.time_of((high - RATIO_MAX * 2.0**-self.halvings).clamp_min(0.0))
        return torch.where(high - RATIO_MAX * 2.0**-self.halvings > low, below, pair.t)

    def _discrepancy(
        self, flow_map: SolutionMap, pair: TimePair, y: Tensor, other: Tensor, mask: Tensor | None
    ) -> Tensor:
        if mask is not None:
            y, other = y * position_mask(mask, y), other * position_mask(mask, y)
        scale = Rotation().jump(flow_map.path, flow_map.sigma_data, pair.s, pair.t).b.abs().clamp_min(SMALLEST)
        a, b = (
            rearrange((each / expand_right(scale, each).to(each.dtype)).flatten(1), "(g m) d -> g m d", m=self.group)
            for each in (y, other)
        )
        same, crossed, stopped = (torch.exp(-_distances(*two) / a.shape[-1]) for two in ((a, a), (a, b), (b, b)))
        return (same + stopped - 2 * crossed).mean(dim=(1, 2))

    def _weight(self, ratio: Tensor) -> Tensor:
        r"""Returns the weight w of noise ratios, in units of sigma_data, with their shape.

        With the log-signal-to-noise ratio \(\lambda\) on the straight path it is \(\frac12 \mathrm{sigmoid}(b - \lambda)
        (-\lambda') \alpha / (\alpha^2 + \sigma^2)\).
        """
        time = straight_clock(ratio)
        log_snr = -2 * ratio.log()
        bound = 0.5 * torch.sigmoid(self.shift - log_snr) * 2 / (time * (1 - time))
        return bound * (1 - time) / ((1 - time) ** 2 + time**2)

    def _check_groups(self, draws: Draws) -> None:
        first = draws.ids[:: self.group]
        whole = torch.equal(
            draws.ids, (first[:, None] + torch.arange(self.group).to(first)).flatten()[: len(draws.ids)]
        )
        requires(
            len(draws.ids) % self.group == 0 and whole and bool((first % self.group == 0).all()),
            f"Moment matching compares samples in groups of {self.group}: train.batch and train.micro_batch, and what each "
            "process gets of them, have to be multiples of that.",
        )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Returns the distances, with shape (G, M, M), between the members of groups; those of equals have no gradient."""
    square = (a[:, :, None] - b[:, None, :]).square().sum(dim=-1)
    return square.clamp_min(NEAREST**2).sqrt()
