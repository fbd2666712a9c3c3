r"""Mean flow: the whole triangle of the solution map, by a derivative.

The identity is the Eulerian one, \(\frac{d}{ds} \Psi_{s \to t}(x_s) = 0\) along a trajectory. For the mean velocity \(u
= (x_s - \Psi) / (s - t)\) it reads

.. math:: u(x_s, s, t) = v(x_s, s) - (s - t) \frac{d}{ds} u(x_s, s, t),

and the loss regresses \(u_\theta\) on the right-hand side with its derivative stopped,

.. math::

    L = \mathbb{E} \, w \, \lVert u_\theta - \mathrm{sg}[v - (s - t) \tfrac{d}{ds} u_\theta] \rVert^2,
    \qquad w = (\lVert \cdot \rVert^2 + c)^{-p} .

On the diagonal this is flow matching, and the derivative is taken for the other samples only. The gradient is linear in
the velocity, so that the conditional one may stand in for the true one; the adaptive weight w makes that a heuristic.
Needs two times and one directional derivative; no target network. It learns what its times are drawn from: diagonal,
edge and triangle. Fragile where the derivative is wrong (the start-up self-test) or half precision rounds it (it is
computed in float32), and late in training at high noise, which the adaptive weight tames. The norm in the weight is the
mean over a sample's elements where the published code has their sum: here c acts the same on samples of any size.

References:
    | Mean Flows for One-step Generative Modeling (Geng et al., 2025), equations 6 and 8-11
"""

__all__ = ["MeanFlow", "directional"]

import torch

from torch import Tensor

from ..batch import Batch
from ..derivatives import Derivative, ForwardMode, perturbed, working
from ..losses import AdaptiveWeight, Metric, Weight
from ..maps import SolutionMap
from ..random import Draws
from ..tensors import expand_right
from ..times import LogNormal, PairMeasure, TimePair, Triangle
from .sources import NoisySample, Source
from .triangle import MeanVelocityRegression


class MeanFlow(MeanVelocityRegression):
    """Creates the mean-flow objective.

    Arguments:
        times: The measure of (source, target) pairs.
        source: Where the velocity comes from.
        derivative: How the total derivative is computed.
        weight: The weight on each sample.
        metric: The distance; it must be quadratic.
    """

    def __init__(
        self,
        times: PairMeasure = Triangle(LogNormal(-0.4, 1.0)),
        source: Source | None = None,
        derivative: Derivative = ForwardMode(),
        weight: Weight | None = None,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(times, source, weight or AdaptiveWeight(0.75, 1e-3), metric=metric)
        self.derivative = derivative

    def off_diagonal(
        self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, velocity: Tensor, draws: Draws, progress: float
    ) -> Tensor:
        slope = self.slope(flow_map, noisy, pair, velocity)
        return velocity - expand_right(pair.s - pair.t, slope).to(slope.dtype) * slope

    def slope(self, flow_map: SolutionMap, noisy: NoisySample, pair: TimePair, tangent: Tensor) -> Tensor:
        """Returns the total derivative of the mean velocity by s, with shape (B, *), along a tangent of the state."""
        precise = flow_map.precise()

        def mean_velocity(x_s: Tensor, s: Tensor) -> Tensor:
            return precise.mean_velocity(x_s, s, pair.t, noisy.cond)

        return self.derivative(mean_velocity, noisy.x_s, pair.s, tangent)

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        lines = super().self_check(flow_map, batch)
        self.derivative, more = directional(self.derivative, flow_map, batch)
        return [*lines, *more]


def directional(
    derivative: Derivative, flow_map: SolutionMap, batch: Batch, edge: bool = False
) -> tuple[Derivative, list[str]]:
    """Holds a derivative against a finite difference, in float64, on a copy of the map with perturbed weights.

    Returns it, or another that works where it does not, and sentences on it.

    Arguments:
        derivative: The derivative that is wanted.
        flow_map: The map.
        batch: Some samples.
        edge: Whether jumps to clean data are derived instead of mean velocities.
    """
    probe = perturbed(flow_map)  # type: ignore[type-var]
    draws = Draws(0, torch.arange(len(batch.x), device=batch.x.device))
    x, v = (draws.noise(name, tuple(batch.x.shape[1:]), torch.float64) for name in ("state", "tangent"))
    s, cond = flow_map.path.time_of(torch.exp(draws.uniform("times") - 0.5)), batch.cond

    def f(a: Tensor, b: Tensor) -> Tensor:
        return probe.jump(a, b, torch.zeros_like(s), cond) if edge else probe.mean_velocity(a, b, 0.3 * s, cond)

    return working(derivative, f, x, s, v)
