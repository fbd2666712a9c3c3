r"""How source and target times are drawn.

Measures live on the noise ratio or on the path's own clock. Each turns uniform numbers into times, so that the draw
stays a pure function of the sample id. For a straight path, logit t = log ratio: a logit-normal time there *is* a
log-normal noise ratio.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | Consistency Models Made Easy (Geng et al., 2024)
    | Mean Flows for One-step Generative Modeling (Geng et al., 2025)
"""

__all__ = [
    "GRIDS", "EasyCurriculum", "Grid", "LogNormal", "LogitNormal", "TimeMeasure", "TimePair", "Triangle", "Uniform",
    "karras_ratios", "straight_ratios",
]  # fmt: skip

import torch

from abc import ABC, abstractmethod
from dataclasses import dataclass
from torch import Tensor

from .paths import Path
from .random import Draws

RATIO_MAX = 80.0
RATIO_MIN = 0.002


class TimeMeasure(ABC):
    """A distribution of times."""

    @abstractmethod
    def times(self, u: Tensor, path: Path) -> Tensor:
        """Returns times on the path's clock from uniform numbers in (0, 1), with their shape, in float64."""


@dataclass(frozen=True)
class LogNormal(TimeMeasure):
    """log(noise ratio) ~ N(mean, std^2), cut at the path's common ends."""

    mean: float = -1.1
    std: float = 2.0

    def times(self, u: Tensor, path: Path) -> Tensor:
        ratio = torch.exp(self.mean + self.std * torch.special.ndtri(u))
        return path.time_of(ratio.clamp(RATIO_MIN, RATIO_MAX))


@dataclass(frozen=True)
class LogitNormal(TimeMeasure):
    """logit(t / T) ~ N(mean, std^2) on the path's own clock, T being the time of the largest ratio."""

    mean: float = 0.0
    std: float = 1.0

    def times(self, u: Tensor, path: Path) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)) * _end(path, u)


@dataclass(frozen=True)
class Uniform(TimeMeasure):
    """t ~ U(0, T) on the path's own clock."""

    def times(self, u: Tensor, path: Path) -> Tensor:
        return u * _end(path, u)


@dataclass(frozen=True)
class Grid(TimeMeasure):
    """One of the upper times of a grid of n noise ratios, equally likely.

    Arguments:
        n: The number of grid points, the clean end included.
        rho: The exponent of the grid's spacing.
    """

    n: int = 18
    rho: float = 7.0

    def times(self, u: Tensor, path: Path) -> Tensor:
        ratios = karras_ratios(self.n, self.rho).to(u)
        return path.time_of(ratios[(u * (self.n - 1)).long().clamp_max(self.n - 2)])


def karras_ratios(n: int, rho: float = 7.0, low: float = RATIO_MIN, high: float = RATIO_MAX) -> Tensor:
    """Returns a decreasing grid of n noise ratios, evenly spaced in their rho-th root (Karras et al., equation 5)."""
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


@dataclass(frozen=True)
class TimePair:
    """Source and target times, both with shape (B,), s >= t, in float64."""

    s: Tensor
    t: Tensor


@dataclass(frozen=True)
class Triangle:
    """Pairs over the triangle 0 <= t <= s: a share off the diagonal, a part of which aims at clean data.

    Arguments:
        measure: The measure of both times; the larger draw is the source.
        off_diagonal: The share of samples with t < s.
        edge: The share of those with t = 0.
    """

    measure: TimeMeasure
    off_diagonal: float = 0.6
    edge: float = 1 / 3

    def __post_init__(self) -> None:
        if not (0 <= self.off_diagonal <= 1 and 0 <= self.edge <= 1):
            raise ValueError("off_diagonal and edge are shares between 0 and 1")

    def learned(self) -> frozenset[str]:
        """Returns the parts of the triangle that are drawn from."""
        off, edge = self.off_diagonal, self.edge
        drawn = {"diagonal": off < 1, "edge": off > 0, "triangle": off > 0 and edge < 1}
        return frozenset(part for part, present in drawn.items() if present)

    def pairs(self, draws: Draws, path: Path) -> TimePair:
        """Draws a pair for every sample."""
        u = draws.uniform("times", (2,))
        first, second = self.measure.times(u[:, 0], path), self.measure.times(u[:, 1], path)
        off = draws.share(self.off_diagonal)
        rank = torch.floor(draws.ids.double() * self.off_diagonal).long()
        edge = off & Draws(draws.seed, rank).share(self.edge)
        s = torch.where(off & ~edge, torch.maximum(first, second), first)
        t = torch.where(off, torch.minimum(first, second), first)
        return TimePair(s, torch.where(edge, torch.zeros_like(t), t))


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

    def lower(self, ratio: Tensor, progress: float) -> Tensor:
        """Returns the lower noise ratio, with the shape of `ratio`, at a progress between 0 and 1."""
        stage = min(int(progress * self.stages), self.stages - 1)
        step = self.q ** -(stage + 1) * (1 + self.k * torch.sigmoid(-self.b * ratio))
        return (ratio * (1 - step)).clamp_min(0.0)


def _end(path: Path, like: Tensor) -> Tensor:
    return path.time_of(torch.full_like(like, RATIO_MAX))


def straight_ratios(steps: int) -> Tensor:
    """Returns noise ratios evenly spaced on the clock of the straight path, with shape (steps + 1,), down to 0."""
    t = torch.linspace(RATIO_MAX / (1 + RATIO_MAX), 0, steps + 1, dtype=torch.float64)
    return t / (1 - t)


def karras_ratios_to_zero(steps: int) -> Tensor:
    """Returns the grid of Karras et al., with shape (steps + 1,), its last value replaced by 0."""
    upper = karras_ratios(steps) if steps > 1 else torch.tensor([RATIO_MAX], dtype=torch.float64)
    return torch.cat([upper, upper.new_zeros(1)])


GRIDS = {"straight": straight_ratios, "karras": karras_ratios_to_zero}
