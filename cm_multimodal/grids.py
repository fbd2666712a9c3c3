r"""Grids: where the steps of a sampler or a solver lie, as decreasing noise ratios, the last of which is 0.

A grid begins at the common largest ratio. Even steps in \(\log \rho\) and those of Karras et al. cannot go to 0 by
themselves: they end at the common smallest ratio, and the last step leads from there to clean data.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), equation 5
    | Denoising Diffusion Implicit Models (Song et al., 2021), section D.2
"""

__all__ = ["GRIDS", "grid_ratios"]

import torch

from collections.abc import Callable, Sequence
from torch import Tensor

from .paths import Path
from .times import RATIO_MAX, RATIO_MIN, karras_ratios, straight_clock


def straight(steps: int, path: Path) -> Tensor:
    """Even steps on the clock of the straight path."""
    t = straight_clock(_end()) * _falling(steps)
    return t / (1 - t)


def uniform(steps: int, path: Path) -> Tensor:
    """Even steps on the path's own clock."""
    return path.noise_ratio(path.time_of(_end()) * _falling(steps))


def quadratic(steps: int, path: Path) -> Tensor:
    """Even steps of the square root of the path's own clock."""
    return path.noise_ratio(path.time_of(_end()) * _falling(steps) ** 2)


def log_snr(steps: int, path: Path) -> Tensor:
    """Even steps of the logarithm, and one to clean data."""
    return _to_zero(RATIO_MIN * (RATIO_MAX / RATIO_MIN) ** _falling(steps - 1)) if steps > 1 else straight(1, path)


def karras(steps: int, path: Path) -> Tensor:
    """Even steps of the seventh root, and one to clean data."""
    return _to_zero(karras_ratios(steps)) if steps > 1 else straight(1, path)


GRIDS: dict[str, Callable[[int, Path], Tensor]] = {
    "straight": straight, "uniform": uniform, "quadratic": quadratic, "log_snr": log_snr, "karras": karras,
}  # fmt: skip


def grid_ratios(grid: str | Sequence[float], steps: int, path: Path) -> Tensor:
    """Returns the noise ratios of a grid, with shape (steps + 1,), in float64.

    Arguments:
        grid: The name of one, or its ratios but for the 0 at the end.
        steps: The number of steps.
        path: The path whose clock 'uniform' and 'quadratic' mean.
    """
    if isinstance(grid, str):
        return GRIDS[grid](steps, path)
    return _to_zero(torch.tensor(grid, dtype=torch.float64))


def _falling(steps: int) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def _end() -> Tensor:
    return torch.tensor(RATIO_MAX, dtype=torch.float64)


def _to_zero(ratios: Tensor) -> Tensor:
    return torch.cat([ratios, ratios.new_zeros(1)])
