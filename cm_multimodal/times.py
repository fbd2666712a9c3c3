r"""How source and target times are drawn.

Measures live on the noise ratio or on the path's own clock. Each turns uniform numbers into times, so that the draw
stays a pure function of the sample id. For a straight path, logit t = log ratio: a logit-normal time there *is* a
log-normal noise ratio.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | One Step Diffusion via Shortcut Models (Frans et al., 2024)
    | Truncated Consistency Models (Lee et al., 2024)
    | Mean Flows for One-step Generative Modeling (Geng et al., 2025)
    | Terminal Velocity Matching (Zhou et al., 2025)
"""

__all__ = [
    "RATIO_MAX", "RATIO_MIN", "Dyadic", "Gaps", "Grid", "LogNormal", "LogStudent", "LogitNormal", "PairMeasure",
    "TimeMeasure", "TimePair", "Triangle", "Uniform", "between", "karras_ratios", "straight_clock",
]  # fmt: skip

import dataclasses
import math
import torch

from abc import ABC, abstractmethod
from dataclasses import dataclass
from scipy.special import stdtr, stdtrit
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
class LogStudent(TimeMeasure):
    """log(noise ratio) has Student's t-distribution, of heavy tails, cut off below a ratio and above the common end.

    Arguments:
        mean: Its centre.
        scale: Its scale.
        freedom: The degrees of freedom; fewer make heavier tails.
        low: The smallest ratio.
    """

    mean: float = 0.0
    scale: float = 1.0
    freedom: float = 4.0
    low: float = RATIO_MIN

    def __post_init__(self) -> None:
        if not (self.scale > 0 and self.freedom > 0 and 0 < self.low < RATIO_MAX):
            raise ValueError(f"scale and freedom are positive, and low lies between 0 and {RATIO_MAX:g}")

    def times(self, u: Tensor, path: Path) -> Tensor:
        low, high = ((math.log(end) - self.mean) / self.scale for end in (self.low, RATIO_MAX))
        share = stdtr(self.freedom, low), stdtr(self.freedom, high)
        z = stdtrit(self.freedom, (share[0] + u * (share[1] - share[0])).cpu().numpy())
        ratio = torch.exp(self.mean + self.scale * torch.as_tensor(z, device=u.device))
        return path.time_of(ratio.clamp(self.low, RATIO_MAX))


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

    def __post_init__(self) -> None:
        if not (self.n >= 2 and self.rho > 0):
            raise ValueError("n is at least 2, and rho positive")

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

    def take(self, rows: Tensor) -> "TimePair":
        """Returns some of the rows."""
        return TimePair(self.s[rows], self.t[rows])


class PairMeasure(ABC):
    """A distribution of pairs of times."""

    @abstractmethod
    def learned(self) -> frozenset[str]:
        """Returns the parts of the triangle that are drawn from."""

    @abstractmethod
    def pairs(self, draws: Draws, path: Path) -> TimePair:
        """Draws a pair for every sample."""


@dataclass(frozen=True)
class Triangle(PairMeasure):
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
        off, edge = self.off_diagonal, self.edge
        drawn = {"diagonal": off < 1, "edge": off > 0, "triangle": off > 0 and edge < 1}
        return frozenset(part for part, present in drawn.items() if present)

    def pairs(self, draws: Draws, path: Path) -> TimePair:
        u = draws.uniform("times", (2,))
        first, second = self.measure.times(u[:, 0], path), self.measure.times(u[:, 1], path)
        off = draws.share(self.off_diagonal)
        rank = torch.floor(draws.ids.double() * self.off_diagonal).long()
        edge = off & dataclasses.replace(draws, ids=rank).share(self.edge)
        s = torch.where(off & ~edge, torch.maximum(first, second), first)
        t = torch.where(off, torch.minimum(first, second), first)
        return TimePair(s, torch.where(edge, torch.zeros_like(t), t))


@dataclass(frozen=True)
class Dyadic(PairMeasure):
    """Jumps of length 1, 1/2, 1/4 ... from multiples of their length, on the clock of the straight path.

    Arguments:
        levels: How often the longest jump is halved to make the shortest.
        jumps: The share of samples whose jump is longer than the shortest.
    """

    levels: int = 7
    jumps: float = 0.25

    def __post_init__(self) -> None:
        if not (self.levels >= 1 and 0 < self.jumps < 1):
            raise ValueError("levels is at least 1, and jumps a share between 0 and 1")

    def learned(self) -> frozenset[str]:
        return frozenset({"edge", "triangle"})

    def pairs(self, draws: Draws, path: Path) -> TimePair:
        u = draws.uniform("times", (2,))
        level = torch.where(draws.share(self.jumps), torch.floor(u[:, 0] * self.levels), float(self.levels))
        pieces = 2**level
        start = torch.floor(u[:, 1] * pieces) + 1
        s, t = (end * (straight_clock(torch.tensor(RATIO_MAX)) / pieces) for end in (start, start - 1))
        return TimePair(_of_straight(s, path), _of_straight(t, path))

    def shortest(self, pair: TimePair, path: Path) -> Tensor:
        """Marks the pairs with the shortest jump, with shape (B,)."""
        s, t = (straight_clock(path.noise_ratio(time)) for time in (pair.s, pair.t))
        return s - t < 1.5 * 2.0**-self.levels


@dataclass(frozen=True)
class Gaps(PairMeasure):
    r"""Pairs by the length of the jump, which is logit-normal, and its target, which is logit-normal and cut off.

    Both live on the clock of the straight path, in units of its end.

    Arguments:
        gap_mean: The mean of the length's logit.
        gap_std: Its standard deviation.
        target_mean: The mean of the target's logit before it is cut off, where the source would leave the clock.
        target_std: Its standard deviation.
        edge: The share of samples with t = 0.
    """

    gap_mean: float = -0.8
    gap_std: float = 1.0
    target_mean: float = -0.4
    target_std: float = 1.0
    edge: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.edge <= 1:
            raise ValueError("edge is a share between 0 and 1")

    def learned(self) -> frozenset[str]:
        return frozenset({"edge", "triangle"})

    def pairs(self, draws: Draws, path: Path) -> TimePair:
        u, end = draws.uniform("times", (2,)), straight_clock(torch.tensor(RATIO_MAX, dtype=torch.float64))
        gap = torch.sigmoid(self.gap_mean + self.gap_std * torch.special.ndtri(u[:, 0]))
        most = torch.special.ndtr((torch.logit(1 - gap) - self.target_mean) / self.target_std)
        t = torch.sigmoid(self.target_mean + self.target_std * torch.special.ndtri((u[:, 1] * most).clamp_min(1e-12)))
        t = torch.where(draws.share(self.edge), 0.0, torch.minimum(t, 1 - gap))
        return TimePair(_of_straight((t + gap) * end, path), _of_straight(t * end, path))


def straight_clock(ratio: Tensor) -> Tensor:
    """Returns the time of the straight path at a noise ratio: a clock in [0, 1) that all paths share."""
    return ratio / (1 + ratio)


def between(path: Path, pair: TimePair, share: Tensor | float) -> Tensor:
    """Returns the times, with shape (B,), a share of the way from s to t by the clock of the straight path."""
    s, t = (straight_clock(path.noise_ratio(time)) for time in (pair.s, pair.t))
    inside = _of_straight(s + share * (t - s), path)
    return torch.minimum(torch.maximum(inside, pair.t), pair.s)


def _of_straight(time: Tensor, path: Path) -> Tensor:
    return path.time_of(time / (1 - time))


def _end(path: Path, like: Tensor) -> Tensor:
    return path.time_of(torch.full_like(like, RATIO_MAX))
