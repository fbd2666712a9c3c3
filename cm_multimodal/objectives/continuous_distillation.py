r"""Continuous-time consistency distillation: the edge, by a derivative along a teacher's velocity.

Everything is as in :mod:`.continuous_consistency` but for the velocity, which is a teacher's: without the noise of the
conditional one the tangent's normalisation costs nothing, and dropout is best left off. Needs one time, one directional
derivative and a teacher that learned its diagonal (`source.teacher=`: a run or a bundle). It learns the edge. Fragile
where the teacher is wrong.

References:
    | Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models (Lu & Song, 2024), sCD
"""

__all__ = ["ContinuousDistillation"]

from ..derivatives import Derivative, ForwardMode
from ..losses import Weight
from ..times import LogNormal, TimeMeasure
from .continuous_consistency import ContinuousConsistency
from .sources import Teacher


class ContinuousDistillation(ContinuousConsistency):
    """Creates the continuous-time consistency-distillation objective.

    Arguments:
        source: The teacher.
        times: The measure of the source time.
        derivative: How the total derivative is computed.
        warmup: The share of the training over which the derivative's part of the tangent grows.
        normalise: The constant c of the tangent's normalisation; zero leaves the tangent alone.
        weight: The weight on each sample; a learned one unless given.
    """

    def __init__(
        self,
        source: Teacher,
        times: TimeMeasure = LogNormal(-1.0, 1.4),
        derivative: Derivative = ForwardMode(),
        warmup: float = 0.1,
        normalise: float = 0.1,
        weight: Weight | None = None,
    ) -> None:
        super().__init__(times, source, derivative, warmup, normalise, weight)
