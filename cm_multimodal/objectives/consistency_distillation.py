r"""Consistency distillation: the edge, along the trajectories of a teacher.

The identity is that of :mod:`.edge`, with the lower state of a step made by a solver on the teacher's diagonal, so that
no conditional sample stands in and any distance is right. The bias is the solver's error and the grid's. The published
code for CIFAR-10 takes the online weights, without gradient, as target. Needs one time and a teacher that learned its
diagonal (`source.teacher=`: a run or a bundle); no derivative. It learns the edge. Fragile where the teacher is wrong.

References:
    | Consistency Models (Song et al., 2023), algorithm 2
"""

__all__ = ["ConsistencyDistillation"]

import torch

from torch import Tensor

from ..curricula import Doubling, GridCurriculum, Rungs, uniform_rungs
from ..losses import Metric
from ..random import Draws
from .edge import FiniteConsistency
from .sources import Teacher


class ConsistencyDistillation(FiniteConsistency):
    """Creates the consistency-distillation objective.

    Arguments:
        source: The teacher, and what follows it over a step.
        curriculum: The grid, as training goes on; it stays the same unless given.
        metric: The distance between two clean end points.
    """

    def __init__(
        self, source: Teacher, curriculum: GridCurriculum = Doubling(17, 17), metric: Metric | None = None
    ) -> None:
        super().__init__(source, metric=metric)
        self.curriculum = curriculum

    def rungs(self, draws: Draws, progress: float) -> Rungs:
        return uniform_rungs(self.curriculum.ratios(progress), draws.uniform("times"))

    def weigh(self, rungs: Rungs) -> Tensor:
        return torch.ones_like(rungs.upper)
