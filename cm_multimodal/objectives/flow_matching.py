r"""Flow matching: the diagonal of the solution map.

The identity is the tangent, \(\partial_t \Psi_{s \to t}|_{t = s} = v(x_s, s)\); regressing the conditional velocity on
the noisy state gives the marginal one,

.. math:: L = \mathbb{E} \, \lVert v_\theta(x_s, s) - (\alpha'_s x + \sigma'_s \varepsilon) \rVert^2 .

Needs one time and no derivative. It learns the diagonal only: sampling follows the field in many small steps. Another
distance than the squared one would make the conditional velocity a heuristic. Where the state is a vector of
probabilities, or a mix of embeddings by such a vector, the metric is a cross-entropy of the denoised state instead, whose
minimiser is the same conditional mean.

References:
    | Flow Matching for Generative Modeling (Lipman et al., 2022), equation 23
    | Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (Esser et al., 2024)
"""

__all__ = ["FlowMatching"]

from ..batch import Batch
from ..losses import L2, Loss, Metric
from ..maps import SolutionMap
from ..random import Draws
from ..times import LogNormal, TimeMeasure
from .base import Objective
from .sources import Source, check_shares, clean_state, noisy_sample, settled


class FlowMatching(Objective):
    """Creates the flow-matching objective.

    Arguments:
        times: The measure of the source time.
        metric: The distance between velocities, or between denoised states on the simplex.
        source: Where the velocity to learn comes from.
    """

    learned = frozenset({"diagonal"})
    two_times = False

    def __init__(
        self, times: TimeMeasure = LogNormal(0.0, 1.0), metric: Metric | None = None, source: Source | None = None
    ) -> None:
        super().__init__()
        self.times, self.metric, self.source = times, metric or L2(), settled(source, self.learned)

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        check_shares(flow_map, batch, self.metric, self.source)
        return super().self_check(flow_map, batch)

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        s = self.times.times(draws.uniform("times"), flow_map.path)
        noisy = noisy_sample(flow_map, batch, draws, s)
        if self.metric.simplex:
            prediction = flow_map.shares(noisy.x_s, s, s, batch.cond)
            target = flow_map.shares_of(clean_state(self.source, flow_map, noisy))
        else:
            prediction, target = flow_map.velocity(noisy.x_s, s, batch.cond), self.source.velocity(flow_map, noisy)
        distance = self.metric(prediction, target, batch.cond.mask)
        return Loss(distance.mean(), distance.detach(), flow_map.path.noise_ratio(s))
