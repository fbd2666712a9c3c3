r"""Where steps should lie: the noise ratios between the first and clean data, by the run's own metric.

The ratios \(\rho_0 > \rho_1 > \dots > \rho_{n-1} > 0\) are free but for the first. They are searched by Powell's method
over the logarithms of the gaps \(\log \rho_{i-1} - \log \rho_i\), which keeps them in order. Each try draws the same noise,
and is scored by the Fréchet distance to *training* samples, so that the test samples may judge what was found.
"""

__all__ = ["Tuned", "tune"]

import contextlib
import math
import torch

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from scipy.optimize import minimize
from typing import Any

from .. import signals
from ..errors import UsageError
from ..generation.sampling import make_plan
from ..grids import grid_ratios
from ..model import Model
from .frechet import frechet_distance
from .runner import Reference

SPREAD = (math.log(0.02), math.log(10.0))  # of the logarithm of a gap
TOLERANCE = {"xtol": 0.02, "ftol": 1e-3}


class _Enough(Exception):
    """As many grids were tried as may be."""


@dataclass(frozen=True)
class Tuned:
    """A grid that was found.

    Arguments:
        grid: Its noise ratios but for the 0 at the end.
        usual: Those that the search began with.
        scores: The Fréchet distance of both ('usual', 'tuned') to the test samples, seed by seed.
        evaluations: How many grids were tried.
    """

    grid: tuple[float, ...]
    usual: tuple[float, ...]
    scores: Mapping[str, tuple[float, ...]]
    evaluations: int


def tune(
    model: Model, ground: Reference, steps: int, evaluations: int, report: Callable[[str], None], **how: Any
) -> Tuned:
    """Searches the grid of a number of steps.

    Arguments:
        model: The model.
        ground: The samples to compare with; a seed of their settings judges, and one more is searched with.
        steps: The number of steps, at least 2.
        evaluations: The most grids to try.
        report: Takes a line each time that a better grid is found.
        how: `sampler`, `solver`, `gamma`, `guidance`, `interval` and `path`, as in `cmm sample`.

    Raises:
        UsageError: There is nothing to choose, or the model cannot do what is asked.
    """
    if steps < 2:
        raise UsageError(f"steps={steps} leaves nothing to choose; steps is at least 2.")
    plan = make_plan(model.bundle, ground.n, steps, **how)
    usual = grid_ratios(plan.grid, steps, model.bundle.flow_map.path)[:-1]
    seeds = tuple(ground.settings.get("seeds", (0,)))
    train = ground.features_of(ground.some().raw)
    best: dict[tuple[float, ...], float] = {}

    def score(grid: tuple[float, ...], seed: int, real: torch.Tensor) -> float:
        signals.check()
        raw = model.sample(ground.n, steps, seed, grid=grid, **how).raw
        return frechet_distance(ground.features_of(raw), real)

    def attempt(gaps: Any) -> float:
        grid = _grid(float(usual[0]), [float(gap) for gap in gaps])
        if grid in best:
            return best[grid]
        if len(best) >= evaluations:
            raise _Enough
        distance = score(grid, max(seeds) + 1, train)
        if distance < min(best.values(), default=math.inf):
            report(f"{len(best) + 1} tried: Fréchet {distance:.3f} to training samples, {_shown(grid)}")
        best[grid] = distance
        return distance

    best[tuple(usual.tolist())] = score(tuple(usual.tolist()), max(seeds) + 1, train)
    begin = (-usual.log().diff()).log().clamp(*SPREAD)
    with contextlib.suppress(_Enough):
        minimize(attempt, begin.numpy(), method="Powell", bounds=[SPREAD] * len(begin), options=TOLERANCE)
    found, first = min(best, key=best.__getitem__), tuple(usual.tolist())
    scores = {
        name: tuple(score(grid, seed, ground.features) for seed in seeds)
        for name, grid in (("usual", first), ("tuned", found))
    }
    return Tuned(found, first, scores, len(best))


def _grid(first: float, gaps: list[float]) -> tuple[float, ...]:
    ratios = [first]
    for gap in gaps:
        ratios.append(ratios[-1] * math.exp(-math.exp(gap)))
    return tuple(float(f"{ratio:.6g}") for ratio in ratios)


def _shown(grid: tuple[float, ...]) -> str:
    return f"grid=[{','.join(f'{ratio:.4g}' for ratio in grid)}]"
