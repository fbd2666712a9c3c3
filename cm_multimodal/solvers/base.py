r"""What every solver is: an integrator of the probability-flow ODE that uses the map's diagonal alone.

In the state \(y = x / \alpha\) and the noise ratio \(\rho\) the flow and its reverse-time SDE are the same on every path,

.. math:: \frac{dy}{d\rho} = \hat\varepsilon = \frac{y - D}{\rho}, \qquad
    \frac{dy}{d\lambda} = D - y, \quad \lambda = -\log \rho,

with the denoised state D. A solver predicts D or the noise now and then, and its steps are linear in the state and the
predictions, with coefficients that depend on the grid alone: :class:`Linear`. They are made for all steps at once, in
float64; the state is in float32 or better.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | DPM-Solver++ (Lu et al., 2022), appendix A
"""

__all__ = ["Field", "Knot", "Linear", "Solver", "fresh_noise"]

import torch

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor
from typing import ClassVar

from ..batch import Conditions
from ..maps import SolutionMap
from ..paths import Path
from ..random import Draws
from ..tensors import expand_right


class Solver(ABC):
    """Follows the flow down a grid of times.

    Attributes:
        grid: The name of the grid that suits it.
    """

    grid: ClassVar[str] = "straight"

    @property
    def stochastic(self) -> bool:
        """Whether fresh noise is added on the way."""
        return False

    @property
    def least_steps(self) -> int:
        """The fewest steps it is made for."""
        return 1

    @property
    def calls_a_step(self) -> int:
        """The predictions that a step makes, but for one to clean data, which makes one."""
        return 1

    def calls(self, steps: int) -> int:
        """Returns the network calls of so many steps to clean data."""
        return self.calls_a_step * (steps - 1) + 1

    def needs(self, steps: int) -> frozenset[str]:
        """Returns which parts of the map must have been learned."""
        return frozenset({"diagonal"})

    @abstractmethod
    def __call__(
        self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws | None = None
    ) -> Tensor:
        """Returns the states at the last time, with shape (B, *).

        Arguments:
            flow_map: The map; only its diagonal is asked.
            x: States at the first time, with shape (B, *).
            times: The decreasing grid on the map's path, with shape (steps + 1,), or (steps + 1, B) for one grid a sample.
                To clean samples it ends in 0.
            cond: The conditions.
            draws: Where fresh noise comes from, if it is added.
        """


@dataclass(frozen=True)
class Knot:
    """A time of the grid and what the path makes of it, all with shape () or (B,); before `unbind` with one row a step."""

    time: Tensor
    alpha: Tensor
    ratio: Tensor

    @classmethod
    def of(cls, path: Path, time: Tensor) -> "Knot":
        """Returns the knots of times."""
        return cls(time, path.alpha(time), path.noise_ratio(time))

    def unbind(self) -> "list[Knot]":
        """Returns the knot of each step."""
        return [Knot(*row) for row in zip(self.time.unbind(), self.alpha.unbind(), self.ratio.unbind(), strict=True)]


@dataclass(frozen=True)
class Field:
    """The flow of a map in the state y = x / alpha.

    Arguments:
        flow_map: The map.
        cond: The conditions.
        noise: Whether predictions are the noise; the denoised state unless so.
    """

    flow_map: SolutionMap
    cond: Conditions
    noise: bool

    def enter(self, x: Tensor, knot: Knot) -> Tensor:
        """Returns y, with shape (B, *), from states on the path."""
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        return y / _like(knot.alpha, y)

    def leave(self, y: Tensor, knot: Knot, like: Tensor) -> Tensor:
        """Returns states on the path, with shape (B, *), in the type of `like`."""
        return (_like(knot.alpha, y) * y).to(like.dtype)

    def predict(self, y: Tensor, knot: Knot) -> Tensor:
        """Returns the prediction, with shape (B, *), at a knot."""
        denoised = self.flow_map.denoise(_like(knot.alpha, y) * y, knot.time.expand(len(y)), self.cond)
        return (y - denoised) / _like(knot.ratio, y) if self.noise else denoised

    def denoised(self, y: Tensor, prediction: Tensor, knot: Knot) -> Tensor:
        """Returns the denoised state, with shape (B, *), of a prediction made of `y`."""
        return y - _like(knot.ratio, y) * prediction if self.noise else prediction


@dataclass(frozen=True)
class Linear:
    """The step `carry * y + sum of weights * predictions + noise * z`, with coefficients of shape () or (B,).

    Before `unbind` they have one row a step.

    Arguments:
        carry: What is kept of the state.
        weights: The weight of each prediction, the newest first.
        noise: The standard deviation of fresh noise, if any.
    """

    carry: Tensor
    weights: Sequence[Tensor]
    noise: Tensor | None = None

    def unbind(self) -> "list[Linear]":
        """Returns the coefficients of each step."""
        weights = zip(*(weight.unbind() for weight in self.weights), strict=True)
        noise = [None] * len(self.carry) if self.noise is None else self.noise.unbind()
        return [Linear(*row) for row in zip(self.carry.unbind(), weights, noise, strict=True)]

    def __call__(self, y: Tensor, predictions: Sequence[Tensor], z: Tensor | None = None) -> Tensor:
        out = _like(self.carry, y) * y
        for weight, prediction in zip(self.weights, predictions, strict=False):
            out = torch.addcmul(out, _like(weight, y), prediction)
        return out if self.noise is None or z is None else torch.addcmul(out, _like(self.noise, y), z)


def fresh_noise(draws: Draws | None, index: int, y: Tensor) -> Tensor:
    """Returns the noise that a stochastic solver adds in a step, with the shape of `y`.

    Raises:
        ValueError: There are no draws.
    """
    if draws is None:
        raise ValueError("a stochastic solver needs draws, from which its fresh noise comes")
    return draws.noise(f"solver/{index}", tuple(y.shape[1:]), y.dtype)


def _like(coefficient: Tensor, y: Tensor) -> Tensor:
    """Returns a coefficient for a product with `y`; one without dimensions takes any number format as it is."""
    return expand_right(coefficient, y).to(y.dtype) if coefficient.ndim else coefficient
