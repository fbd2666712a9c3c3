r"""Mean flow: the whole triangle of the solution map, by a derivative.

The identity is the Eulerian one, \(\frac{d}{ds} \Psi_{s \to t}(x_s) = 0\) along a trajectory. For the mean velocity
\(u = (x_s - \Psi) / (s - t)\) it reads

.. math:: u(x_s, s, t) = v(x_s, s) - (s - t) \frac{d}{ds} u(x_s, s, t),

and the loss regresses \(u_\theta\) on the right-hand side with its derivative stopped,

.. math::

    L = \mathbb{E} \, w \, \lVert u_\theta - \mathrm{sg}[v - (s - t) \tfrac{d}{ds} u_\theta] \rVert^2,
    \qquad w = (\lVert \cdot \rVert^2 + c)^{-p} .

On the diagonal this is flow matching, and the derivative is taken for the other samples only. The gradient is linear in
the velocity, so that the conditional one may stand in for the true one. Needs two times and one directional derivative;
no target network. Fragile where the derivative is wrong (the start-up self-test) or half precision rounds it (it is
computed in float32), and late in training at high noise, which the adaptive weight tames.

References:
    | Mean Flows for One-step Generative Modeling (Geng et al., 2025), equations 6 and 8-11
"""

__all__ = ["MeanFlow"]

import torch

from torch import Tensor

from ..batch import Batch
from ..derivatives import Derivative, ForwardMode, perturbed, working
from ..losses import L2, AdaptiveWeight, Loss, Metric
from ..maps import SolutionMap
from ..random import Draws
from ..tensors import expand_right
from ..times import LogNormal, TimePair, Triangle
from .base import Objective
from .sources import Conditional, NoisySample, Source, noisy_sample


class MeanFlow(Objective):
    """Creates the mean-flow objective.

    Arguments:
        times: The measure of (source, target) pairs.
        source: Where the velocity comes from.
        derivative: How the total derivative is computed.
        weight: The adaptive weight on each sample.
        metric: The distance; it must be quadratic while the velocity is the conditional one.
    """

    two_times = True

    def __init__(
        self,
        times: Triangle = Triangle(LogNormal(-0.4, 1.0)),
        source: Source = Conditional(),
        derivative: Derivative = ForwardMode(),
        weight: AdaptiveWeight = AdaptiveWeight(0.75, 1e-3),
        metric: Metric = L2(),
    ) -> None:
        super().__init__()
        if not metric.quadratic:
            raise ValueError("mean flow needs a quadratic metric: its target is a noisy sample of the true one")
        self.learned = times.learned()
        self.times, self.source, self.derivative, self.weight, self.metric = times, source, derivative, weight, metric

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        pair = self.times.pairs(draws, flow_map.path)
        eps = draws.noise("noise", tuple(batch.x.shape[1:]), batch.x.dtype)
        noisy = noisy_sample(flow_map, batch.x, eps, pair.s, batch.cond)
        prediction = flow_map.mean_velocity(noisy.x_s, pair.s, pair.t, batch.cond)
        target = self.target(flow_map, noisy, pair)
        distance = self.metric(prediction, target, batch.cond.mask)
        return Loss(self.weight(distance).mean(), distance.detach(), flow_map.path.noise_ratio(pair.s))

    def target(self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair) -> Tensor:
        """Returns the right-hand side of the identity, with shape (B, *), without gradient."""
        target = self.source(flow_map, noisy)
        off = (pair.t < pair.s).nonzero()[:, 0]
        if len(off) == 0:
            return target
        t, cond, precise = pair.t[off], noisy.cond.take(off), flow_map.precise()

        def mean_velocity(x_s: Tensor, s: Tensor) -> Tensor:
            return precise.mean_velocity(x_s, s, t, cond)

        slope = self.derivative(mean_velocity, noisy.x_s[off], pair.s[off], target[off])
        gap = expand_right(pair.s[off] - t, slope).to(slope.dtype)
        return torch.index_put(target, (off,), target[off] - gap * slope)

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        """Holds the derivative against a finite difference, in float64, on a copy of the map with perturbed weights.

        One that fails is replaced by one that does not, and the log says so.
        """
        probe = perturbed(flow_map)  # type: ignore[type-var]
        draws = Draws(0, torch.arange(len(batch.x), device=batch.x.device))
        x, v = (draws.noise(name, tuple(batch.x.shape[1:]), torch.float64) for name in ("state", "tangent"))
        s, cond = flow_map.path.time_of(torch.exp(draws.uniform("times") - 0.5)), batch.cond

        def mean_velocity(a: Tensor, b: Tensor) -> Tensor:
            return probe.mean_velocity(a, b, 0.3 * s, cond)

        self.derivative, lines = working(self.derivative, mean_velocity, x, s, v)
        return lines
