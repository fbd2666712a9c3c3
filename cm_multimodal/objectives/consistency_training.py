r"""Consistency training as first published: the edge on a grid of noise ratios that grows finer, with an averaged target.

The identity and the bias of a finite step are those of :mod:`.edge`, with equal weights and all steps of the grid
equally likely. The target network is an average of the online one, \(\theta^- = \mu \theta^- + (1 - \mu) \theta\), slow
at first:

.. math:: \mu(p) = \exp(s_0 \ln \mu_0 / N(p)), \qquad N(p) = \text{the number of steps at progress } p .

Needs one time and a target network; no derivative. It learns the edge. The average makes the limit of many steps wrong,
and the fixed point follows late: :mod:`.improved_consistency` drops it. The published runs measured distances by LPIPS;
the published commands for ImageNet and LSUN start from a diffusion model.

References:
    | Consistency Models (Song et al., 2023), algorithm 3 and appendix C
"""

__all__ = ["ConsistencyTraining"]

import math
import torch

from torch import Tensor

from ..curricula import GridCurriculum, Rungs, SquareRoot, uniform_rungs
from ..losses import Metric
from ..maps import SolutionMap
from ..random import Draws
from .edge import FiniteConsistency
from .sources import Source
from .targets import Averaged


class ConsistencyTraining(FiniteConsistency):
    r"""Creates the consistency-training objective.

    Arguments:
        curriculum: The grid, as training goes on.
        keep: The share \\(\\mu_0\\) of the old average that an update keeps at first.
        metric: The distance between two clean end points.
        source: What carries a state down to the lower ratio.
    """

    def __init__(
        self,
        curriculum: GridCurriculum = SquareRoot(),
        keep: float = 0.9,
        metric: Metric | None = None,
        source: Source | None = None,
    ) -> None:
        if not 0 < keep <= 1:
            raise ValueError("keep is a share between 0 and 1")
        super().__init__(source, Averaged(keep), metric)
        self.curriculum, self.keep = curriculum, keep

    def rungs(self, draws: Draws, progress: float) -> Rungs:
        return uniform_rungs(self.curriculum.ratios(progress), draws.uniform("times"))

    def weigh(self, rungs: Rungs) -> Tensor:
        return torch.ones_like(rungs.upper)

    def updated(self, flow_map: SolutionMap, progress: float) -> None:
        share = self.curriculum.steps(0.0) / self.curriculum.steps(progress)
        self.target.follow(flow_map, math.exp(share * math.log(self.keep)))
