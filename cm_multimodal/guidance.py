r"""Classifier-free guidance: away from what the map would do without a condition, towards what it does with one.

At sampling, every jump with its condition is extrapolated from the one without, at the price of a second call,

.. math:: \Psi^w = \Psi(\cdot | \varnothing) + w \, (\Psi(\cdot | y) - \Psi(\cdot | \varnothing)),

which is the same on mean velocities and denoised states, as all of them are affine in one another. It may be confined
to an interval of noise ratios. For a flow this makes the guided flow; for the jumps of a learned map it is an
extrapolation of end points, and agrees with the guided flow to first order in the length of the jump.

Inside training targets, the velocity of a source is replaced by

.. math:: \tilde v = \omega \, v + \kappa \, v_\theta(x_s, s | y) + (1 - \omega - \kappa) \, v_\theta(x_s, s | \varnothing),

whose fixed point is the guided field of scale \(w = \omega / (1 - \kappa)\): the map then learns the solution map of
that field, and one guided call is one call. It is linear in v, so that a conditional velocity may stand in.

References:
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022)
    | Applying Guidance in a Limited Interval Improves Sample and Distribution Quality (Kynkäänniemi et al., 2024)
    | Mean Flows for One-step Generative Modeling (Geng et al., 2025), section 4.2 and appendix B.3
"""

__all__ = ["Guidance", "Guided", "GuidedMap"]

import dataclasses
import torch

from collections.abc import Callable
from dataclasses import dataclass
from torch import Tensor
from typing import ClassVar

from .batch import Conditions
from .errors import UsageError
from .maps import SolutionMap
from .objectives.sources import Conditional, NoisySample, Source
from .tensors import where_rows


@dataclass(frozen=True)
class Guidance:
    """How strongly to guide, and where.

    Arguments:
        scale: The scale w; 1 is no guidance.
        low: The noise ratio below which there is none.
        high: The noise ratio above which there is none.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = float("inf")

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and 0 <= self.low < self.high):
            raise ValueError(
                "a scale is not negative, and an interval of noise ratios goes from a lower to a higher one"
            )

    def active(self, ratio: Tensor) -> Tensor:
        """Marks the noise ratios that are guided, with their shape."""
        return (ratio >= self.low) & (ratio <= self.high)


class GuidedMap(SolutionMap):
    """A map with guidance: two calls of the inner one where it is active.

    Arguments:
        inner: The map. Conditions without a label mean "none" to it.
        guidance: How strongly, and where.
    """

    def __init__(self, inner: SolutionMap, guidance: Guidance) -> None:
        self.inner, self.guidance = inner, guidance
        self.path, self.sigma_data, self.learned = inner.path, inner.sigma_data, inner.learned

    def jump(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        return self._guide(s, cond, lambda some: self.inner.jump(x, s, t, some))

    def mean_velocity(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        return self._guide(s, cond, lambda some: self.inner.mean_velocity(x, s, t, some))

    def _guide(self, s: Tensor, cond: Conditions, ask: Callable[[Conditions], Tensor]) -> Tensor:
        plain, active = ask(cond), self.guidance.active(self.path.noise_ratio(s))
        if self.guidance.scale == 1 or not active.any():
            return plain
        none = ask(_without_label(cond))
        return where_rows(active, none + self.guidance.scale * (plain - none), plain)


@dataclass(frozen=True)
class Guided(Source):
    """The velocity of the guided field, from the learning map's own diagonal and a source. It has no finite steps.

    Arguments:
        scale: The scale w of the guided field.
        mix: The share kappa of the model's own velocity with its condition.
        low: The noise ratio below which there is no guidance.
        high: The noise ratio above which there is none.
        source: Where the velocity that is guided comes from.
    """

    scale: float = 2.0
    mix: float = 0.5
    low: float = 0.0
    high: float = float("inf")
    source: Source = dataclasses.field(default_factory=Conditional)
    asks_diagonal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Guidance(self.scale, self.low, self.high)
        if not 0 <= self.mix < 1:
            raise ValueError("mix is a share, below 1")
        if not self.source.given:
            raise ValueError("the flow to guide comes from outside of the map; source is conditional or teacher")

    @torch.no_grad()
    def velocity(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        plain = self.source.velocity(flow_map, noisy)
        active = Guidance(self.scale, self.low, self.high).active(flow_map.path.noise_ratio(noisy.s))
        if self.scale == 1 or noisy.cond.label is None or not active.any():
            return plain
        rows = active.nonzero()[:, 0]
        some, omega = noisy.take(rows), self.scale * (1 - self.mix)
        none = flow_map.velocity(some.x_s, some.s, _without_label(some.cond))
        guided = omega * plain[rows] + (1 - omega - self.mix) * none
        if self.mix:
            guided = guided + self.mix * flow_map.velocity(some.x_s, some.s, some.cond)
        return plain.index_put((rows,), guided.to(plain.dtype))

    def step(self, flow_map: SolutionMap, noisy: NoisySample, t: Tensor) -> Tensor:
        raise UsageError(
            "A guided source gives velocities, and this objective takes finite steps; use objective=mean_flow, "
            "improved_mean_flow, flow_matching or a self-distillation with it."
        )


def _without_label(cond: Conditions) -> Conditions:
    return dataclasses.replace(cond, label=None)
