r"""EDM denoising: the diagonal of the solution map, as the expected clean state.

The identity is the tangent, of which the denoised state \(D(x_s, s) = \mathbb{E}[x | x_s]\) is another form. Every
noise level weighs as much as the network's own output does,

.. math:: L = \mathbb{E} \, \lambda(\rho) \, \lVert D_\theta(x_s, s) - x \rVert^2,
    \qquad \lambda(\rho) = (\rho^2 + \sigma_{data}^2) / (\rho \sigma_{data})^2 .

Needs one time and no derivative. It learns the diagonal only: sampling follows the field in many small steps. The mean
is the minimiser of a quadratic distance only; on the simplex a cross-entropy has the same, and no weight.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), equation 8 and table 1
"""

__all__ = ["Denoising"]

from ..batch import Batch
from ..losses import L2, Loss, Metric, edm_weight
from ..maps import SolutionMap
from ..random import Draws
from ..times import LogNormal, TimeMeasure
from .base import Objective
from .sources import Source, check_shares, clean_state, noisy_sample, settled


class Denoising(Objective):
    """Creates the denoising objective.

    Arguments:
        times: The measure of the source time.
        metric: The distance between denoised states.
        source: Where the velocity that implies the clean state comes from.
    """

    learned = frozenset({"diagonal"})
    two_times = False

    def __init__(
        self,
        times: TimeMeasure = LogNormal(-1.2, 1.2),
        metric: Metric | None = None,
        source: Source | None = None,
    ) -> None:
        super().__init__()
        self.times, self.metric, self.source = times, metric or L2(), settled(source, self.learned)

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        check_shares(flow_map, batch, self.metric, self.source)
        return super().self_check(flow_map, batch)

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        s = self.times.times(draws.uniform("times"), flow_map.path)
        noisy, ratio = noisy_sample(flow_map, batch, draws, s), flow_map.path.noise_ratio(s)
        clean = clean_state(self.source, flow_map, noisy)
        name, goal = flow_map.endpoint, clean
        if self.metric.simplex:
            name, goal = flow_map.shares, flow_map.shares_of(clean)
        distance = self.metric(name(noisy.x_s, s, s, noisy.cond), goal, noisy.cond.mask)
        weight = 1.0 if self.metric.simplex else edm_weight(ratio, flow_map.sigma_data).to(distance.dtype)
        return Loss((distance * weight).mean(), distance.detach(), ratio)
