r"""One-step integration with stages: a step makes predictions between its ends, and remembers nothing.

A step to clean data, where \(\lambda\) is infinite and \(dy / d\rho\) is 0 / 0, ends in the denoised state, by one call.
"""

__all__ = ["RungeKutta", "Stage"]

import torch

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from torch import Tensor
from typing import ClassVar

from ..batch import Conditions
from ..maps import SolutionMap
from ..paths import Path
from ..random import Draws
from ..tensors import expand_right, where_rows
from .base import Field, Linear, Solver, fresh_noise


@dataclass(frozen=True)
class Stage:
    """A time inside a step, and the step to it from the step's begin with the predictions so far, the oldest first."""

    time: Tensor
    linear: Linear


class RungeKutta(Solver):
    """A solver whose steps have stages.

    Attributes:
        noise: Whether predictions are the noise.
    """

    noise: ClassVar[bool] = False

    @abstractmethod
    def stages(self, path: Path, s: Tensor, t: Tensor) -> Sequence[Stage]:
        """Returns the stages of a step from s to t > 0; the last is t."""

    def lift(self, ratio: Tensor, steps: int) -> Tensor | None:
        """Returns the noise ratio that fresh noise raises the state to before a step; none unless noise is added."""
        return None

    def __call__(
        self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws | None = None
    ) -> Tensor:
        field = Field(flow_map, cond, self.noise)
        y = field.enter(x, times[0])
        for index, (s, t) in enumerate(pairwise(times)):
            y, begin = self._lifted(field, y, s, index, len(times) - 1, draws)
            y = self._step(field, y, begin, t)
        return field.leave(y, times[-1], x)

    def _lifted(
        self, field: Field, y: Tensor, s: Tensor, index: int, steps: int, draws: Draws | None
    ) -> tuple[Tensor, Tensor]:
        ratio = field.path.noise_ratio(s)
        high = self.lift(ratio, steps)
        if high is None:
            return y, s
        fresh = torch.sqrt((high**2 - ratio**2).clamp_min(0.0)) * self.fresh_scale
        y = y + expand_right(fresh, y).to(y.dtype) * fresh_noise(draws, index, y)
        return y, torch.where(high > ratio, field.path.time_of(high), s)

    @property
    def fresh_scale(self) -> float:
        """What the standard deviation of fresh noise is multiplied by."""
        return 1.0

    def _step(self, field: Field, y: Tensor, s: Tensor, t: Tensor) -> Tensor:
        predictions = [field.predict(y, s)]
        clean = t == 0
        if clean.all():
            return field.denoised(y, predictions[0], s)
        *inner, last = self.stages(field.path, s, torch.where(clean, s / 2, t))
        for stage in inner:
            predictions.append(field.predict(stage.linear(y, predictions), stage.time))
        end = last.linear(y, predictions)
        if not clean.any():
            return end
        return where_rows(clean, field.denoised(y, predictions[0], s), end)
