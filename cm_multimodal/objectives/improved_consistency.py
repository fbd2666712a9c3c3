r"""Improved consistency training: the edge on a grid that doubles, without an averaged target.

The identity and the bias of a finite step are those of :mod:`.edge`. Against the first publication: the target has the
online weights, without gradient; steps are drawn as often as a log-normal noise ratio falls into them and weighted by
\(1 / (\rho_i - \rho_{i+1})\); the number of steps doubles in stages, to 1,280; the distance is the pseudo-Huber one,
\(\sqrt{\lVert d \rVert^2 + c^2} - c\) over the whole sample with \(c = 0.00054 \sqrt D\). Needs one time; no derivative
and no second network; the dropout mask is shared. It learns the edge. As the distance is not quadratic, the conditional
step is a heuristic here: the minimiser is nearer to a median than to the mean. Fragile where the network cannot tell
neighbouring times apart (half precision, above a thousand steps) and where its time embedding has high frequencies. No
code was published.

References:
    | Improved Techniques for Training Consistency Models (Song & Dhariwal, 2023), section 3
"""

__all__ = ["ImprovedConsistency"]

from ..curricula import Doubling, GridCurriculum, Rungs, log_normal_rungs
from ..losses import Metric, PseudoHuber
from ..random import Draws
from .edge import FiniteConsistency
from .sources import Source


class ImprovedConsistency(FiniteConsistency):
    """Creates the improved consistency-training objective.

    Arguments:
        curriculum: The grid, as training goes on.
        mean: The mean of the logarithm of the noise ratio.
        std: Its standard deviation.
        metric: The distance between two clean end points.
        source: What carries a state down to the lower ratio.
    """

    def __init__(
        self,
        curriculum: GridCurriculum = Doubling(),
        mean: float = -1.1,
        std: float = 2.0,
        metric: Metric | None = None,
        source: Source | None = None,
    ) -> None:
        super().__init__(source, metric=metric or PseudoHuber())
        self.curriculum, self.mean, self.std = curriculum, mean, std

    def rungs(self, draws: Draws, progress: float) -> Rungs:
        return log_normal_rungs(self.curriculum.ratios(progress), draws.uniform("times"), self.mean, self.std)
