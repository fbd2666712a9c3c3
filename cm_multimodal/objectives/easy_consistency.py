r"""Easy consistency training: the edge t = 0 of the solution map, in finite steps.

The identity is the Eulerian one: the clean end point is the same from everywhere along a trajectory. Two states of the
same sample and the same noise, at ratios \(\rho > r\), approximate two points of one trajectory, and

.. math:: L = \mathbb{E} \, \frac{d(f_\theta(x_\rho), \mathrm{sg} f_\theta(x_r))}{\rho - r}, \qquad f = \Psi_{s \to 0},

with the sample itself as target where r = 0. The step shrinks by a curriculum: training starts as denoising (r = 0) and
tightens towards the consistency condition. Needs one time, no derivative and no second network; the dropout mask is
shared. It learns the edge. A finite step leaves a bias: on Gaussian data of variance c^2 the fixed point of one step
multiplies the slope by \(1 - (\rho - r) \rho / (c^2 + \rho^2)\). Published runs start from a diffusion model; from scratch
the first stages, which are denoising, take its place.

References:
    | Consistency Models Made Easy (Geng et al., 2024), section 3 and algorithm 1
"""

__all__ = ["EasyConsistency"]

import torch

from torch import Tensor

from ..batch import Batch, Conditions
from ..losses import L2, Loss, Metric
from ..maps import SolutionMap
from ..random import Draws
from ..tensors import where_rows
from ..times import EasyCurriculum, LogNormal, TimeMeasure
from .base import Objective


class EasyConsistency(Objective):
    """Creates the easy-consistency objective.

    Arguments:
        times: The measure of the source time.
        curriculum: The lower noise ratio of a pair, as training goes on.
        metric: The distance between two clean end points.
    """

    learned = frozenset({"edge"})
    two_times = False

    def __init__(
        self,
        times: TimeMeasure = LogNormal(-1.1, 2.0),
        curriculum: EasyCurriculum = EasyCurriculum(),
        metric: Metric = L2(),
    ) -> None:
        super().__init__()
        self.times, self.curriculum, self.metric = times, curriculum, metric

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        path, clean = flow_map.path, batch.x
        s = self.times.times(draws.uniform("times"), path)
        ratio = path.noise_ratio(s)
        lower = self.curriculum.lower(ratio, progress)
        eps = draws.noise("noise", tuple(clean.shape[1:]), clean.dtype)
        prediction = flow_map.jump(path.sample(clean, eps, s), s, torch.zeros_like(s), batch.cond)
        target = self._target(flow_map, clean, eps, lower, batch.cond)
        distance = self.metric(prediction, target, batch.cond.mask)
        weight = (ratio - lower).reciprocal().to(distance.dtype)
        return Loss((distance * weight).mean(), distance.detach(), ratio)

    @torch.no_grad()
    def _target(self, flow_map: SolutionMap, x: Tensor, eps: Tensor, lower: Tensor, cond: Conditions) -> Tensor:
        denoising = lower == 0
        if denoising.all():
            return x
        r = flow_map.path.time_of(torch.where(denoising, 1.0, lower))
        earlier = flow_map.jump(flow_map.path.sample(x, eps, r), r, torch.zeros_like(r), cond)
        return where_rows(denoising, x, earlier)
