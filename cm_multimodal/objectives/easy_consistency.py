r"""Easy consistency training: the edge, in steps that begin as denoising and tighten.

The identity and the bias of a finite step are those of :mod:`.edge`. The source time is drawn from a continuous
measure; the lower ratio comes from a curriculum that starts at r = 0 for all but high noise (\(\rho < \ln 7\) with its
usual constants), which is denoising, and shrinks the step in stages. Needs one time, no derivative and no second
network. It learns the edge. Published runs start from a diffusion model; from scratch the first stages, which are
denoising, take its place. Fragile in half precision once the steps are short.

References:
    | Consistency Models Made Easy (Geng et al., 2024), section 3 and algorithm 1
"""

__all__ = ["EasyConsistency"]

from ..curricula import EasyCurriculum, Rungs
from ..losses import Metric
from ..paths import EDM
from ..random import Draws
from ..times import LogNormal, TimeMeasure
from .edge import FiniteConsistency
from .sources import Source


class EasyConsistency(FiniteConsistency):
    """Creates the easy-consistency objective.

    Arguments:
        times: The measure of the source's noise ratio.
        curriculum: The lower noise ratio of a step, as training goes on.
        metric: The distance between two clean end points.
        source: What carries a state down to the lower ratio.
    """

    def __init__(
        self,
        times: TimeMeasure = LogNormal(-1.1, 2.0),
        curriculum: EasyCurriculum = EasyCurriculum(),
        metric: Metric | None = None,
        source: Source | None = None,
    ) -> None:
        super().__init__(source, metric=metric)
        self.times, self.curriculum = times, curriculum

    def rungs(self, draws: Draws, progress: float) -> Rungs:
        upper = self.times.times(draws.uniform("times"), EDM())
        return Rungs(upper, self.curriculum.lower(upper, progress))
