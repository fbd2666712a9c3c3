r"""One-step integration with stages: a step makes predictions between its ends, and remembers nothing.

A step to clean data, where \(\lambda\) is infinite and \(dy / d\rho\) is 0 / 0, ends in the denoised state, by one call.
"""

__all__ = ["RungeKutta", "Stage"]

import torch

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor
from typing import ClassVar

from ..batch import Conditions
from ..maps import SolutionMap
from ..paths import Path
from ..random import Draws
from ..tensors import expand_right, where_rows
from .base import Field, Knot, Linear, Solver, fresh_noise


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
        """Returns the stages of a step from s to t > 0, for steps in rows; the last is t."""

    def lift(self, ratio: Tensor, steps: int) -> Tensor | None:
        """Returns the noise ratio that fresh noise raises the state to before a step; none unless noise is added."""
        return None

    @property
    def fresh_scale(self) -> float:
        """What the standard deviation of fresh noise is multiplied by."""
        return 1.0

    def __call__(
        self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws | None = None
    ) -> Tensor:
        field, path, clean = Field(flow_map, cond, self.noise), flow_map.path, times[1:] == 0
        begins, fresh = self._lifted(path, times[:-1])
        stages = self.stages(path, begins, torch.where(clean, begins / 2, times[1:]))
        knots = zip(
            *(Knot.of(path, time).unbind() for time in (begins, *(stage.time for stage in stages))), strict=True
        )
        linears = zip(*(stage.linear.unbind() for stage in stages), strict=True)
        y = field.enter(x, Knot.of(path, times[0]))
        for index, (places, steps) in enumerate(zip(knots, linears, strict=True)):
            if fresh is not None:
                y = y + expand_right(fresh[index], y).to(y.dtype) * fresh_noise(draws, index, y)
            y = _step(field, y, places, steps, clean[index])
        return field.leave(y, Knot.of(path, times[-1]), x)

    def _lifted(self, path: Path, times: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the times that steps begin at, and the deviation of the noise that raises the states to them."""
        ratio = path.noise_ratio(times)
        high = self.lift(ratio, len(times))
        if high is None:
            return times, None
        fresh = torch.sqrt((high**2 - ratio**2).clamp_min(0.0)) * self.fresh_scale
        return torch.where(high > ratio, path.time_of(high), times), fresh


def _step(field: Field, y: Tensor, knots: Sequence[Knot], linears: Sequence[Linear], clean: Tensor) -> Tensor:
    """Takes a step: knots are its begin and its stages, and where it is `clean` it ends in the denoised state."""
    predictions = [field.predict(y, knots[0])]
    if clean.all():
        return field.denoised(y, predictions[0], knots[0])
    for knot, linear in zip(knots[1:-1], linears, strict=False):
        predictions.append(field.predict(linear(y, predictions), knot))
    end = linears[-1](y, predictions)
    if not clean.any():
        return end
    return where_rows(clean, field.denoised(y, predictions[0], knots[0]), end)
