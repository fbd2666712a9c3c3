r"""How the finite steps of consistency training narrow as training goes on.

A step joins a noise ratio \(\rho\) and a lower one of the same trajectory. A wide step has a large bias and little
variance, a narrow one the reverse; curricula go from wide to narrow.

References:
    | Consistency Models (Song et al., 2023), appendix C
    | Improved Techniques for Training Consistency Models (Song & Dhariwal, 2023), section 3.4
    | Consistency Models Made Easy (Geng et al., 2024), section 3
"""

__all__ = ["Doubling", "EasyCurriculum", "GridCurriculum", "Rungs", "SquareRoot", "log_normal_rungs", "uniform_rungs"]

import math
import torch

from abc import ABC, abstractmethod
from dataclasses import dataclass
from torch import Tensor

from .times import karras_ratios


@dataclass(frozen=True)
class Rungs:
    """The noise ratios of the two ends of a step, both with shape (B,), upper > lower >= 0, in float64."""

    upper: Tensor
    lower: Tensor


class GridCurriculum(ABC):
    """A grid of noise ratios that grows finer."""

    @abstractmethod
    def steps(self, progress: float) -> int:
        """Returns the number of steps of the grid at a progress between 0 and 1."""

    def ratios(self, progress: float) -> Tensor:
        """Returns the grid, decreasing, with shape (steps + 1,)."""
        return karras_ratios(self.steps(progress) + 1)


@dataclass(frozen=True)
class SquareRoot(GridCurriculum):
    r"""\(N(p) = \lceil \sqrt{p ((s_1 + 1)^2 - s_0^2) + s_0^2} - 1 \rceil\) steps.

    Arguments:
        first: The number of steps at first, s_0.
        last: That at the end, s_1.
    """

    first: int = 2
    last: int = 150

    def __post_init__(self) -> None:
        _check(self.first, self.last)

    def steps(self, progress: float) -> int:
        square = progress * ((self.last + 1) ** 2 - self.first**2) + self.first**2
        return max(min(math.ceil(math.sqrt(square) - 1), self.last), self.first)


@dataclass(frozen=True)
class Doubling(GridCurriculum):
    """A number of steps that doubles, in stages of equal length.

    Arguments:
        first: The number of steps at first.
        last: That at the end.
    """

    first: int = 10
    last: int = 1280

    def __post_init__(self) -> None:
        _check(self.first, self.last)

    def steps(self, progress: float) -> int:
        stages = math.ceil(math.log2(self.last / self.first)) + 1
        return min(self.first * 2 ** min(int(progress * stages), stages - 1), self.last)


@dataclass(frozen=True)
class EasyCurriculum:
    r"""The shrinking step of easy consistency training, on the noise ratio.

    .. math:: r = \max(0, \rho \, (1 - q^{-(stage + 1)} (1 + k \, \mathrm{sigmoid}(-b \rho))))

    Arguments:
        q: The base of the shrinking.
        stages: How many stages the training is divided into.
        k: How much larger the steps are near the data.
        b: How fast that fades.
    """

    q: float = 2.0
    stages: int = 8
    k: float = 8.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if not (self.q > 1 and self.stages >= 1 and self.k >= 0):
            raise ValueError("q is above 1, stages at least 1, and k not negative")
        if self.q**-self.stages < 1e-6:
            raise ValueError(f"after {self.stages} stages of q={self.q:g} the two ends of a step are one; fewer stages")

    def lower(self, ratio: Tensor, progress: float) -> Tensor:
        """Returns the lower noise ratio, with the shape of `ratio`, at a progress between 0 and 1."""
        stage = min(int(progress * self.stages), self.stages - 1)
        step = self.q ** -(stage + 1) * (1 + self.k * torch.sigmoid(-self.b * ratio))
        return (ratio * (1 - step)).clamp_min(0.0)


def uniform_rungs(grid: Tensor, u: Tensor) -> Rungs:
    """Draws a step of a decreasing grid, all equally likely, by uniform numbers with shape (B,)."""
    index = (u * (len(grid) - 1)).long().clamp_max(len(grid) - 2)
    grid = grid.to(u)
    return Rungs(grid[index], grid[index + 1])


def log_normal_rungs(grid: Tensor, u: Tensor, mean: float, std: float) -> Rungs:
    """Draws a step of a decreasing grid as often as log(noise ratio) ~ N(mean, std^2) falls into it."""
    heights = torch.special.ndtr((grid.to(u).log() - mean) / std)
    share = (heights[:-1] - heights[1:]).cumsum(dim=0)
    index = torch.searchsorted(share, u * share[-1]).clamp_max(len(grid) - 2)
    return Rungs(grid.to(u)[index], grid.to(u)[index + 1])


def _check(first: int, last: int) -> None:
    if not 1 <= first <= last:
        raise ValueError("the number of steps grows: first is at least 1, and last no less")
