r"""Continuous-time consistency training: the edge, by a derivative.

The identity is the Eulerian one at t = 0, \(\frac{d}{ds} f(x_s, s) = 0\) along a trajectory for \(f = \Psi_{s \to 0}\).
On the spherical path, \(x_n = \cos n \, x + \sigma_{data} \sin n \, \varepsilon\), with \(f = \cos n \, x_n -
\sigma_{data} \sin n \, F\) and a source's velocity \(\dot x\), the tangent is

.. math:: g = \cos n \, \tfrac{df}{dn} = -\cos^2 n \, (\sigma_{data} F - \dot x)
    - r \cos n \sin n \, (x_n + \sigma_{data} \tfrac{dF}{dn}),

r growing from 0 to 1 at first, and normalised to \(g / (\lVert g \rVert + c)\). It drives F,

.. math:: L = \mathbb{E} \, e^{-w_\phi(n)} \lVert F_\theta - \mathrm{sg}[F_\theta + g] \rVert^2 + w_\phi(n),

with a learned weight \(w_\phi\). As n is the clock of every path, states are carried to the spherical one, exactly,
whatever path and scaling the map has. Needs one time and one directional derivative; no second network. It learns the
edge. The gradient is linear in the velocity but for the normalisation, which makes the conditional one a heuristic. The
norm is the root mean square of a sample, so that c does not depend on its size, and there is no prior weight \(1 /
(\sigma_{data} \tan n)\): both as in public code that trains small networks. Fragile at high noise, where the
derivative of a time embedding with high frequencies explodes, and from scratch: published runs start from a diffusion
model.

References:
    | Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models (Lu & Song, 2024), algorithm 1
"""

__all__ = ["ContinuousConsistency"]

import torch

from torch import Tensor

from ..batch import Batch
from ..derivatives import Derivative, ForwardMode
from ..losses import LearnedLogVariance, Loss, Weight, normalise_tangent
from ..maps import SolutionMap, TransportedMap
from ..paths import TrigFlow
from ..random import Draws
from ..tensors import expand_right, masked_mean
from ..times import LogNormal, TimeMeasure
from .base import Objective
from .mean_flow import directional
from .sources import NoisySample, Source, noisy_sample, settled


class ContinuousConsistency(Objective):
    """Creates the continuous-time consistency objective.

    Arguments:
        times: The measure of the source time.
        source: Where the velocity comes from.
        derivative: How the total derivative is computed.
        warmup: The share of the training over which the derivative's part of the tangent grows.
        normalise: The constant c of the tangent's normalisation; zero leaves the tangent alone.
        weight: The weight on each sample; a learned one unless given.
    """

    learned = frozenset({"edge"})
    two_times = False

    def __init__(
        self,
        times: TimeMeasure = LogNormal(-1.0, 1.4),
        source: Source | None = None,
        derivative: Derivative = ForwardMode(),
        warmup: float = 0.1,
        normalise: float = 0.1,
        weight: Weight | None = None,
    ) -> None:
        super().__init__()
        if not (0 <= warmup <= 1 and normalise >= 0):
            raise ValueError("warmup is a share of the training, and normalise not negative")
        if isinstance(weight, LearnedLogVariance) and weight.times != 1:
            raise ValueError("its weight depends on one time; times is 1")
        self.times, self.source, self.derivative = times, settled(source, self.learned), derivative
        self.warmup, self.normalise, self.weight = warmup, normalise, weight or LearnedLogVariance()

    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        sphere = TransportedMap(flow_map, TrigFlow(flow_map.sigma_data))
        n = self.times.times(draws.uniform("times"), sphere.path)
        noisy = noisy_sample(sphere, batch, draws, n)
        output = _output(sphere, noisy.x_s, n, noisy)
        tangent = self.tangent(sphere, noisy, output.detach(), progress)
        move = normalise_tangent(tangent, self.normalise, noisy.cond.mask) if self.normalise else tangent
        distance = masked_mean((output - output.detach() - move).square(), noisy.cond.mask)
        per_sample = masked_mean(tangent.square(), noisy.cond.mask)
        return Loss(self.weight(distance, n).mean(), per_sample, sphere.path.noise_ratio(n))

    @torch.no_grad()
    def tangent(self, sphere: SolutionMap, noisy: NoisySample, output: Tensor, progress: float) -> Tensor:
        """Returns g, with shape (B, *), at states of the spherical path, given the network's output there."""
        precise, sigma_data = sphere.precise(), sphere.sigma_data
        velocity = self.source.velocity(sphere, noisy)

        def f(x: Tensor, n: Tensor) -> Tensor:
            return _output(precise, x, n, noisy)

        slope = self.derivative(f, noisy.x_s, noisy.s, velocity)
        cos, sin = (expand_right(part(noisy.s), slope).to(slope.dtype) for part in (torch.cos, torch.sin))
        ramp = min(progress / self.warmup, 1.0) if self.warmup else 1.0
        still = -(cos**2) * (sigma_data * output - velocity)
        return still - ramp * cos * sin * (noisy.x_s + sigma_data * slope)

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        lines = super().self_check(flow_map, batch)
        self.derivative, more = directional(self.derivative, flow_map, batch, edge=True)
        return [*lines, *more]


def _output(sphere: SolutionMap, x: Tensor, n: Tensor, noisy: NoisySample) -> Tensor:
    """Returns the F, with the shape of `x`, of f = cos(n) x - sigma_data sin(n) F."""
    end = sphere.jump(x, n, torch.zeros_like(n), noisy.cond)
    cos, sin = (expand_right(part(n), x).to(x.dtype) for part in (torch.cos, torch.sin))
    return (cos * x - end) / (sphere.sigma_data * sin)
