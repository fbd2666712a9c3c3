r"""Consistency trajectory: the triangle, compared in clean space, learned by oneself.

The identity is the semigroup one, on a grid of noise ratios \(s \ge u \ge t\). A few solver steps of the model's own
diagonal carry the state from s to u, and both jumps to t are compared where the averaged map \(\theta^-\) takes them
next, in clean data,

.. math:: L = \mathbb{E} \, d\big(\Psi_{\theta^-, t \to 0} \Psi_\theta(x_s, s, t), \;
    \Psi_{\theta^-, t \to 0} \Psi_{\mathrm{sg}\theta}(x_u, u, t)\big) + \lambda \, L_{denoising} .

The denoising term is :mod:`.denoising` on the same weights: without a teacher it is where the flow comes from. Needs
two times and a target network; no derivative. It learns all three parts. Against the publication: the distance is in
the model's space instead of LPIPS, \(\lambda\) is constant instead of a ratio of gradient norms, the denoising term's
times are log-normal only, the number of grid steps from s to u is uniform instead of proportional to itself, and there
is no discriminator, which is what the published scores rest on. The bias is that of the solver's steps: the published ones
are as many as the grid's between s and u, here one spans up to `longest` of them unless `source.steps` says more.
Fragile at first, when the diagonal that leads from s to u is still wrong.

References:
    | Consistency Trajectory Models (Kim et al., 2023), equations 9-11 and 17
"""

__all__ = ["ConsistencyTrajectory"]

import torch

from torch import Tensor

from ..batch import Batch
from ..losses import L2, Loss, Metric
from ..maps import SolutionMap
from ..random import Draws
from ..solvers.heun import Heun
from ..times import LogNormal, TimeMeasure, karras_ratios
from .base import Objective
from .denoising import Denoising
from .sources import ModelDiagonal, Source, check_probabilities, noisy_sample
from .targets import Averaged, Online, Target


class ConsistencyTrajectory(Objective):
    """Creates the consistency-trajectory objective.

    Arguments:
        points: The points of the grid; the last one counts as clean.
        source: What carries a state from s to u.
        longest: The most grid steps between s and u.
        denoising: The weight of the denoising term.
        times: The measure of the source time of that term.
        target: Whose weights jump to clean data.
        metric: The distance between two clean end points.
    """

    two_times = True

    def __init__(
        self,
        points: int = 18,
        source: Source | None = None,
        longest: int = 1,
        denoising: float = 1.0,
        times: TimeMeasure = LogNormal(-1.2, 1.2),
        target: Target | None = None,
        metric: Metric | None = None,
    ) -> None:
        if not (points >= 3 and 1 <= longest < points):
            raise ValueError("points is at least 3, and longest smaller")
        super().__init__(target or Averaged(0.999))
        if isinstance(target, Online):
            raise ValueError("the jumps to clean data are not to be learned from here; target is averaged")
        if not denoising and isinstance(source, ModelDiagonal | None):
            raise ValueError("without its denoising term it needs a teacher for source")
        self.learned = frozenset({"diagonal", "edge", "triangle"} if denoising else {"edge", "triangle"})
        self.points, self.longest, self.denoising = points, longest, denoising
        self.source, self.metric = source or ModelDiagonal(Heun()), metric or L2()
        self.diagonal = Denoising(times)

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        check_probabilities(flow_map, batch, self.metric)
        return super().self_check(flow_map, batch)

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        s, u, t = self._times(flow_map, draws)
        noisy, outer, zero = noisy_sample(flow_map, batch, draws, s), self.target.map(flow_map), torch.zeros_like(s)
        estimate = outer.jump(flow_map.jump(noisy.x_s, s, t, noisy.cond), t, zero, noisy.cond)
        with torch.no_grad():
            x_u = self.source.step(flow_map, noisy, u)
            goal = outer.jump(flow_map.jump(x_u, u, t, noisy.cond), t, zero, noisy.cond)
        distance = self.metric(estimate, goal, noisy.cond.mask)
        value, per_sample = distance.mean(), distance.detach()
        if self.denoising:
            term = self.diagonal.loss(flow_map, batch, draws.named("diagonal"), progress)
            value, per_sample = value + self.denoising * term.value, per_sample + term.per_sample
        return Loss(value, per_sample, flow_map.path.noise_ratio(s))

    def _times(self, flow_map: SolutionMap, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        grid = karras_ratios(self.points).to(draws.ids.device)
        times = flow_map.path.time_of(torch.cat([grid[:-1], grid.new_zeros(1)]))
        a, b, c = draws.uniform("times", (3,)).unbind(dim=1)
        last = self.points - 1
        source = (a * last).long()
        middle = torch.minimum(source + 1 + (b * self.longest).long(), torch.full_like(source, last))
        target = middle + (c * (last - middle + 1)).long()
        return times[source], times[middle], times[target]
