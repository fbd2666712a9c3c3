r"""Truncated consistency training: the noisy part of the edge, once the whole was learned.

The first stage is :mod:`.easy_consistency`. The second freezes the average of its weights and spends all capacity on
noise ratios above \(\tau\): a step that ends below \(\tau\) aims at the frozen network's end point, one that ends above
at the online one's,

.. math:: L = w_B \, \mathbb{E} \, d(f_\theta(x_\tau), f_{frozen}(x_r)) / (\tau - r)
    + \mathbb{E} \, d(f_\theta(x_\rho), \mathrm{sg} f(x_r)) / (\rho - r),
    \qquad f = f_{frozen} \text{ where } r < \tau .

A quarter of the samples sits on the boundary, without which the second term alone has the trivial solution of a
constant. Identity, bias and dropout are those of :mod:`.edge`. Needs one time and a frozen copy; no derivative. It
learns the edge above \(\tau\): what it knew below fades, so that re-noising to ratios below \(\tau\) is not to be
trusted.

References:
    | Truncated Consistency Models (Lee et al., 2024), section 3
"""

__all__ = ["TruncatedConsistency"]

import torch

from torch import Tensor

from ..curricula import EasyCurriculum, Rungs
from ..losses import Metric
from ..maps import SolutionMap
from ..paths import EDM
from ..random import Draws
from ..tensors import where_rows
from ..times import RATIO_MAX, RATIO_MIN, LogNormal, LogStudent, TimeMeasure
from .edge import FiniteConsistency
from .sources import NoisySample, Source
from .targets import Averaged


class TruncatedConsistency(FiniteConsistency):
    """Creates the truncated-consistency objective.

    Arguments:
        times: The measure of the noise ratio in the first stage.
        curriculum: The lower noise ratio of a step, as the first stage goes on; the second keeps its last.
        first: The share of the training that is the first stage.
        boundary: The noise ratio below which the second stage no longer learns.
        on_boundary: The share of samples on the boundary.
        boundary_weight: The weight of those.
        keep: The share of the average of the first stage's weights that an update keeps; the copy is that average.
        metric: The distance between two clean end points.
        source: What carries a state down to the lower ratio.
    """

    def __init__(
        self,
        times: TimeMeasure = LogNormal(-1.1, 2.0),
        curriculum: EasyCurriculum = EasyCurriculum(),
        first: float = 0.5,
        boundary: float = 1.0,
        on_boundary: float = 0.25,
        boundary_weight: float = 0.1,
        keep: float = 0.999,
        metric: Metric | None = None,
        source: Source | None = None,
    ) -> None:
        if not (0 < first < 1 and 0 < on_boundary < 1):
            raise ValueError("first and on_boundary are shares between 0 and 1")
        if not RATIO_MIN < boundary < RATIO_MAX:
            raise ValueError(f"boundary is a noise ratio between {RATIO_MIN:g} and {RATIO_MAX:g}")
        super().__init__(source, Averaged(keep), metric)
        self.times, self.curriculum, self.first = times, curriculum, first
        self.boundary, self.on_boundary, self.boundary_weight = boundary, on_boundary, boundary_weight
        self.upper_times = LogStudent(low=boundary)

    def rungs(self, draws: Draws, progress: float) -> Rungs:
        whole = progress < self.first
        upper = (self.times if whole else self.upper_times).times(draws.uniform("times"), EDM())
        if not whole:
            upper = torch.where(draws.share(self.on_boundary), self.boundary, upper)
        return Rungs(upper, self.curriculum.lower(upper, min(progress / self.first, 1.0)))

    def weigh(self, rungs: Rungs) -> Tensor:
        return torch.where(rungs.upper == self.boundary, self.boundary_weight, 1.0) * super().weigh(rungs)

    def jump_down(self, flow_map: SolutionMap, x_r: Tensor, r: Tensor, noisy: NoisySample, progress: float) -> Tensor:
        zero = torch.zeros_like(r)
        online = flow_map.jump(x_r, r, zero, noisy.cond)
        if progress < self.first:
            return online
        below = flow_map.path.noise_ratio(r) < self.boundary
        return where_rows(below, self.target.map(flow_map).jump(x_r, r, zero, noisy.cond), online)

    def updated(self, flow_map: SolutionMap, progress: float) -> None:
        if progress < self.first:
            self.target.follow(flow_map)
