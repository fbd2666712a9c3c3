r"""Sampling jobs.

A sample is a function of (weights, plan, sample id) alone. Matrix products depend on the number of rows, so that samples
are computed in whole, aligned chunks of a fixed size kept in the bundle: the same bytes whatever part is asked for.
"""

__all__ = [
    "GAMMA", "Plan", "Samples", "check_alone", "check_gamma", "collect", "draw", "make_plan", "map_of", "noise_of", "sample",
    "times_of",
]  # fmt: skip

import contextlib
import json
import torch

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from torch import Tensor, nn
from typing import Any

from .. import signals
from ..batch import Conditions
from ..build import build_part
from ..bundle import Bundle
from ..errors import UsageError, nearest
from ..files import read_text
from ..grids import GRIDS, grid_ratios
from ..guidance import Guidance, GuidedMap
from ..maps import SolutionMap, TransportedMap
from ..paths import PATHS, build_path
from ..random import Draws
from ..samplers import SAMPLERS, Gamma, Sampler
from ..solvers import Solver
from ..tensors import expand_right
from ..values import fits
from .labels import Wish, labels_of, labels_wanted

LIMITS = {"n": 10_000_000, "steps": 10_000}
GAMMA = 0.5  # unless asked for


@dataclass(frozen=True)
class Plan:
    """What to sample.

    Arguments:
        n: The number of samples.
        steps: The number of jumps, or of solver steps.
        seed: The seed of noise.
        labels: The classes that sample ids walk through, with shape (L,); all of them unless given.
        method: How the map is used.
        guidance: How strongly the class is guided, and where.
        grid: The name of the grid of noise ratios, or its ratios but for the 0 at the end.
        path: The name of the path to walk on; the map's own unless given.
    """

    n: int
    steps: int
    seed: int
    labels: Tensor | None
    method: Sampler | Solver
    guidance: Guidance = Guidance()
    grid: str | tuple[float, ...] = "straight"
    path: str | None = None


@dataclass(frozen=True)
class Samples:
    """Generated samples, as a person has them.

    Arguments:
        raw: The samples in the modality's raw form, with shape (N, *).
        label: Their classes, with shape (N,), or -1 without classes.
        sample_id: Their numbers, with shape (N,).
        calls: The network evaluations each cost, as they were counted; without those of a decoder.
    """

    raw: Tensor
    label: Tensor
    sample_id: Tensor
    calls: int

    @classmethod
    def joined(cls, parts: Sequence["Samples"]) -> "Samples":
        """Returns samples one after the other."""
        raw, label, ids = (torch.cat([getattr(part, name) for part in parts]) for name in ("raw", "label", "sample_id"))
        return cls(raw, label, ids, parts[0].calls)

    def only(self, which: Tensor) -> "Samples":
        """Returns some of the samples, by their places or by ones where they are kept."""
        return replace(self, raw=self.raw[which], label=self.label[which], sample_id=self.sample_id[which])


def make_plan(
    bundle: Bundle,
    n: int = 64,
    steps: int = 1,
    seed: int = 0,
    label: Wish | None = None,
    sampler: str | None = None,
    solver: str | Mapping[str, Any] | None = None,
    gamma: float = GAMMA,
    guidance: float = 1.0,
    interval: Sequence[float] | None = None,
    grid: str | Sequence[float] | None = None,
    path: str | None = None,
) -> Plan:
    """Checks what a person asked for.

    Raises:
        UsageError: A number is out of range, a name is unknown, or the map did not learn what the method needs.
    """
    for name, value in {"n": n, "steps": steps}.items():
        if type(value) is not int or not 1 <= value <= LIMITS[name]:
            raise UsageError(f"{name}={value} is not possible; {name} is a whole number from 1 to {LIMITS[name]:,}.")
    if path is not None and path not in PATHS:
        raise UsageError(f"There is no path '{path}'; {nearest(str(path), PATHS)}")
    if type(seed) is not int:
        raise UsageError(f"seed={seed} is not a whole number.")
    if not (fits(gamma, float) and 0 <= gamma <= 1):
        raise UsageError(f"gamma={gamma} is not possible; gamma lies between 0 (no fresh noise) and 1.")
    check_gamma(gamma, sampler)
    method = _method(bundle, steps, sampler, solver, gamma)
    if grid is None and bundle.flow_map.path.even:
        grid = grid_ratios(
            "quadratic" if isinstance(method, Sampler) else "uniform", steps, bundle.flow_map.path
        ).tolist()
    chosen = _grid(grid, steps, method)
    labels = labels_wanted(label, bundle.card.spec.classes, n)
    return Plan(n, steps, seed, labels, method, _guidance(bundle, guidance, interval), chosen, path)


def sample(bundle: Bundle, plan: Plan, device: torch.device | str = "cpu") -> Iterator[Samples]:
    """Yields the samples of a plan, a chunk at a time, in the order of their ids; a signal to stop is heard between them.

    Raises:
        UsageError: The model draws no samples from noise and a class alone.
    """
    check_alone(bundle)
    flow_map = map_of(bundle, plan, device)
    chunk = bundle.card.chunk
    for start in range(0, plan.n, chunk):
        signals.check()
        yield draw(bundle, flow_map, plan, start, device)


def draw(bundle: Bundle, flow_map: SolutionMap, plan: Plan, start: int, device: torch.device | str = "cpu") -> Samples:
    """Returns one chunk of a plan: the samples whose ids begin at a multiple of the bundle's chunk.

    Arguments:
        bundle: The model.
        flow_map: Its map, as `map_of` returns it.
        plan: The plan.
        start: The first id.
        device: Where it computes.
    """
    ids = torch.arange(start, start + bundle.card.chunk, device=device)
    with _counted(bundle.flow_map.net) as calls:
        raw, label = _chunk(bundle, flow_map, plan, ids)
    keep = slice(0, min(len(ids), plan.n - start))
    return Samples(raw[keep].cpu(), label[keep].cpu(), ids[keep].cpu(), len(calls))


def check_gamma(gamma: float, sampler: str | None) -> None:
    """Raises a UsageError where a sampler's option is given without the sampler."""
    if gamma != GAMMA and sampler != "gamma":
        raise UsageError(f"gamma={gamma} is an option of sampler=gamma alone; choose it, or leave out gamma=.")


def check_alone(bundle: Bundle) -> None:
    """Raises a UsageError where a model draws no samples from noise and a class alone."""
    if not bundle.modality.alone:
        how = bundle.modality.edits[0]
        raise UsageError(f"This model draws samples of what it is told of real ones only: cmm edit how={how}.")


def map_of(bundle: Bundle, plan: Plan, device: torch.device | str) -> SolutionMap:
    """Returns the map that a plan walks on: guided, and on another path, if it says so."""
    flow_map: SolutionMap = bundle.flow_map.to(device)
    if plan.guidance.scale != 1:
        flow_map = GuidedMap(flow_map, plan.guidance)
    if plan.path is not None:
        flow_map = TransportedMap(flow_map, build_path(plan.path, bundle.card.spec.sigma_data))
    return flow_map


def times_of(flow_map: SolutionMap, plan: Plan, device: torch.device | str) -> Tensor:
    """Returns the times that a plan stops at, with shape (steps + 1,), ending in 0."""
    return flow_map.path.time_of(grid_ratios(plan.grid, plan.steps, flow_map.path).to(device))


def noise_of(flow_map: SolutionMap, eps: Tensor, times: Tensor) -> Tensor:
    """Returns the states at the first of the times, with shape (B, *), that are all noise, of standard noise."""
    sigma = flow_map.path.sigma(times[:1]).expand(len(eps))
    return expand_right(sigma, eps).to(eps.dtype) * eps


def collect(bundle: Bundle, plan: Plan, device: torch.device | str = "cpu") -> Samples:
    """Returns all samples of a plan at once."""
    return Samples.joined(list(sample(bundle, plan, device)))


@contextlib.contextmanager
def _counted(net: nn.Module) -> Iterator[list[None]]:
    """Yields a list that grows by one entry with every call of a network."""
    calls: list[None] = []
    handle = net.register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        handle.remove()


@torch.no_grad()
def _chunk(bundle: Bundle, flow_map: SolutionMap, plan: Plan, ids: Tensor) -> tuple[Tensor, Tensor]:
    spec, draws = bundle.card.spec, Draws(plan.seed, ids)
    classes = len(spec.classes)
    label = labels_of(plan.labels, ids, classes)
    mask = bundle.modality.sample_mask(draws) if spec.masked else None
    cond = Conditions(label if classes else None, mask)
    times = times_of(flow_map, plan, ids.device)
    x = noise_of(flow_map, draws.noise("sample", spec.shape), times)
    x = plan.method(flow_map, x, times, cond, draws)
    return bundle.modality.decode(x, mask), label if classes else torch.full_like(ids, -1)


def _method(
    bundle: Bundle, steps: int, sampler: str | None, solver: str | Mapping[str, Any] | None, gamma: float
) -> Sampler | Solver:
    options = {"name": solver} if not isinstance(solver, Mapping) else solver
    name, more = options.get("name"), [key for key in options if key != "name"]
    if name is None and more:
        raise UsageError(f"solver.{more[0]}= needs a solver: solver=ddim, say.")
    if sampler is not None and name is not None:
        raise UsageError("sampler= and solver= are two roads to the same samples: give one of them.")
    learned = frozenset(bundle.card.learned)
    if sampler is None and name is None:
        sampler, name = _usual(bundle)
    method = _sampler(str(sampler), gamma) if sampler else build_part("solver", {**options, "name": name})
    asked = f"sampler '{sampler}'" if sampler else f"solver '{name}'"
    missing = method.needs(steps) - learned
    if missing:
        raise UsageError(
            f"The {asked} with steps={steps} needs the {_and(missing)} of the solution map, but this model "
            f"({bundle.card.objective}) learned the {_and(learned)} only; {_advice(learned)}"
        )
    if isinstance(method, Sampler) and steps > method.most_steps:
        raise UsageError(f"sampler={sampler} is one call of the network, and steps={steps}; give steps=1.")
    if isinstance(method, Solver) and steps < method.least_steps:
        raise UsageError(
            f"The {asked} with {method.least_steps} points needs at least as many steps, and steps={steps}; give more, "
            f"or fewer points: solver.points={steps}."
        )
    return method


def _grid(grid: object, steps: int, method: Sampler | Solver) -> str | tuple[float, ...]:
    """Checks the name of a grid, or its noise ratios, of which the 0 at the end may be left out."""
    if grid is None:
        return method.grid if isinstance(method, Solver) else "straight"
    if isinstance(grid, str) and grid.endswith(".json"):
        grid = _tuned(Path(grid).expanduser())
    if isinstance(grid, str):
        if grid not in GRIDS:
            raise UsageError(f"There is no grid '{grid}'; {nearest(grid, GRIDS)}")
        return grid
    if not (isinstance(grid, list | tuple) and grid and all(fits(value, float) for value in grid)):
        raise UsageError(f"grid={grid} is neither a name ({', '.join(GRIDS)}) nor noise ratios: 'grid=[80,2]'.")
    ratios = tuple(float(value) for value in (grid[:-1] if grid[-1] == 0 else grid))
    falling = all(high > low > 0 for high, low in pairwise(ratios)) and ratios and ratios[0] > 0
    if not falling:
        raise UsageError(f"grid={list(grid)} is not possible; its noise ratios fall, from the first one to 0.")
    if len(ratios) != steps:
        raise UsageError(
            f"grid={list(grid)} makes {len(ratios)} steps, and steps={steps}; the 0 at the end is understood."
        )
    return ratios


def _tuned(file: Path) -> object:
    try:
        return json.loads(read_text(file))["grid"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"'{file}' holds no grid ({error}); cmm tune-steps writes such files.") from error


def _guidance(bundle: Bundle, scale: float, interval: Sequence[float] | None) -> Guidance:
    if interval is not None and not (_two(interval) and 0 <= interval[0] < interval[1]):
        raise UsageError(
            f"interval={interval} is not possible; give two noise ratios, the lower first: 'interval=[0.2,5]'."
        )
    if not (fits(scale, float) and scale >= 0):
        raise UsageError(f"guidance={scale} is not possible; it is a number from 0, and 1 is no guidance.")
    if scale == 1 and interval is not None:
        raise UsageError(f"interval={list(interval)} confines guidance, and there is none; give guidance=2, say, too.")
    if scale != 1 and not 0 < bundle.card.drop_label < 1:
        share = "no" if bundle.card.drop_label else "every"
        reason = (
            f"saw {share} sample with its class (train.drop_label=)" if bundle.card.spec.classes else "has no classes"
        )
        raise UsageError(
            f"guidance={scale} needs a model that knows samples with and without their class, but this one {reason}."
        )
    return Guidance(scale, *(interval or ()))


def _two(interval: Sequence[float]) -> bool:
    return isinstance(interval, list | tuple) and fits(tuple(interval), tuple[float, float])


def _usual(bundle: Bundle) -> tuple[str | None, str | None]:
    """Returns the (sampler, solver) that suits what was learned.

    Tokens are decided one by one: fresh noise lets later jumps correct what an earlier one got wrong.
    """
    learned = frozenset(bundle.card.learned)
    if not learned & {"triangle", "edge"}:
        return None, "euler"
    decides = "edge" in learned and getattr(bundle.flow_map.net, "names_clean", False)
    return ("renoise" if decides or "triangle" not in learned else "chain"), None


def _sampler(name: str, gamma: float) -> Sampler:
    if name not in SAMPLERS:
        raise UsageError(f"There is no sampler '{name}'; {nearest(name, SAMPLERS)}")
    return Gamma(gamma) if name == "gamma" else SAMPLERS[name]()


def _advice(learned: frozenset[str]) -> str:
    return "use sampler=renoise." if "edge" in learned else "use solver=euler with more steps."


def _and(parts: frozenset[str]) -> str:
    return " and the ".join(sorted(parts))
