r"""Solvers: one field, followed by every solver in 1 to 256 network calls, beside the map that was learned of it.

There are two fields: that of the mixture of `ground_truth` in two dimensions, whose map is known, with a perceptron that
learned it; and the diagonal of a trained run, with the run's own jumps. An error is the root mean square distance, in units
of sigma_data, from where the flow ends that begins in the same noise: the exact map, or the run's own field in float64,
followed in many small steps down to a ratio of 1e-6. Solvers that add noise, which have no such end, have scores only.
"""

__all__ = ["Solvers"]

import copy
import dataclasses
import functools
import math
import torch
import types

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pathlib import Path
from torch import Tensor
from typing import Any

from ... import signals
from ...batch import Conditions
from ...build import build_objective, build_part
from ...derivatives import full_products
from ...errors import UsageError
from ...exact import ExactMap
from ...grids import grid_ratios
from ...maps import FlowMap, SolutionMap
from ...modality import Dataset
from ...model import Model
from ...paths import build_path
from ...random import Draws
from ...samplers import Chain, Sampler
from ...solvers import Solver
from ...solvers.unipc import UniPC
from ...times import RATIO_MAX
from ...training.records import read_config
from ...training.saved import weights_checksum
from ...training.settings import read_settings
from ..benchmark import Case, Compose, Row, Suite
from ..reference import reference
from ..runner import score
from ..tables import grouped, known_objectives, markdown
from .ground_truth import fit, mixture, perceptron_map, sliced_wasserstein

MAP, MIXTURE, MIXTURE_SAMPLES = "map", "mixture", 4096
NEAR_CLEAN = 1e-6  # the noise ratio that the reference is followed to
WORDS = {
    "error": "error / sigma_data", "sw": "sliced Wasserstein distance / sigma_data", "accuracy": "accuracy score",
    "frechet": "Fréchet distance",
}  # fmt: skip
ACCURACY_FROM = 0.85  # of the plot, where all but a few points lie
USUAL: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1}
LEARNED = {"color": "black", "marker": "*", "markersize": 11, "linewidth": 2.5, "zorder": 9}
FORMATS = {"error": ".1e", "sw": ".3f", "accuracy": ".3f", "frechet": ".2f"}


@dataclass(frozen=True)
class Teach:
    """How the map of the mixture is learned: an objective, and the settings of the same names in `ground_truth`."""

    objective: str = "terminal_velocity"
    updates: int = 2000
    batch: int = 512
    lr: float = 4e-3
    width: int = 96
    depth: int = 3

    def __post_init__(self) -> None:
        known_objectives("settings.teach.objective", [self.objective])
        if not (min(self.updates, self.batch, self.width, self.depth) >= 1 and self.lr > 0):
            raise UsageError("settings.teach: updates, batch, width and depth are at least 1, and lr is above 0.")


@dataclass(frozen=True)
class Settings:
    """The settings of the suite.

    Arguments:
        run: The run whose diagonal is followed; it knows its data.
        methods: The solvers and their settings, by the name they have in the table.
        calls: The numbers of network calls; a solver makes as many steps as they pay for.
        map_calls: The numbers of jumps of the learned map.
        samples: The samples that errors are measured on.
        batch: The samples computed at a time.
        n: The samples that are scored; the run's own number unless given.
        seed: The sampling seed.
        reference_steps: The steps of the reference.
        teach: How the map of the mixture is learned, as in `Teach`.
        device: Where the run's network computes.
    """

    run: str = "runs/quickstart"
    methods: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calls: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    map_calls: tuple[int, ...] = (1, 2, 4, 8)
    samples: int = 64
    batch: int = 256
    n: int | None = None
    seed: int = 0
    reference_steps: int = 300
    teach: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    device: str = "auto"

    def __post_init__(self) -> None:
        numbers = (
            *self.calls,
            *self.map_calls,
            self.samples,
            self.batch,
            self.reference_steps,
            1 if self.n is None else self.n,
        )
        if not (self.calls and self.map_calls and min(numbers) >= 1):
            raise UsageError("settings: calls and map_calls are not empty, and all numbers are at least 1.")
        if not isinstance(self.methods, Mapping) or MAP in self.methods:
            raise UsageError(f"settings.methods is a group of solvers by name, and '{MAP}' is none of them.")


@dataclass(frozen=True)
class Way:
    """A method on a grid."""

    method: Sampler | Solver
    grid: str | tuple[float, ...]
    steps: int


class Field(ABC):
    """A field to follow, and the map that was learned of it.

    Attributes:
        shape: The shape of a sample.
        sigma_data: The standard deviation of the data.
        followed: What solvers follow.
        learned: What jumps.
        parts: Which parts of the map it learned.
        mark: What the results of solvers depend on.
        learned_mark: What those of the map depend on, besides.
        dtype: The number format of samples.
        device: Where they lie.
    """

    shape: tuple[int, ...]
    sigma_data: float
    followed: SolutionMap
    learned: SolutionMap
    parts: frozenset[str]
    mark: Mapping[str, Any]
    learned_mark: Mapping[str, Any] = types.MappingProxyType({})
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def truth(self, ids: Tensor) -> Tensor:
        """Returns where the flow ends for samples, with shape (B, *)."""

    @abstractmethod
    def scores(self, way: Way) -> dict[str, float | None]:
        """Returns what samples drawn in a way are worth."""

    def cond(self, ids: Tensor) -> Conditions:
        """Returns the conditions of samples."""
        return Conditions()

    def error(self, way: Way) -> float | None:
        """Returns how far samples end from where they should; nothing where noise is added on the way."""
        if isinstance(way.method, Solver) and way.method.stochastic:
            return None
        gap = self.draw(way, torch.arange(self.settings.samples, device=self.device)).double() - self._ends
        return gap.square().mean().sqrt().item() / self.sigma_data

    def draw(
        self, way: Way, ids: Tensor, flow_map: SolutionMap | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Returns samples, with shape (B, *), drawn in a way, of the field's own map and number format unless given."""
        flow_map = flow_map or (self.followed if isinstance(way.method, Solver) else self.learned)
        times = flow_map.path.time_of(grid_ratios(way.grid, way.steps, flow_map.path).to(self.device))
        parts = []
        for part in ids.split(self.settings.batch):
            draws = Draws(self.settings.seed, part)
            noise = draws.noise("sample", self.shape, torch.float64).to(dtype or self.dtype)
            x = flow_map.path.sigma(times[0]).to(noise.dtype) * noise
            signals.check()
            parts.append(way.method(flow_map, x, times, self.cond(part), draws))
        return torch.cat(parts)

    @functools.cached_property
    def _ends(self) -> Tensor:
        return self.truth(torch.arange(self.settings.samples, device=self.device))


class Mixture(Field):
    """The mixture whose map is known, and a perceptron that learns it before anything is measured."""

    shape = (2,)
    dtype = torch.float64

    def __init__(self, settings: Settings, teach: Teach, objective: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.data, self.mark = mixture(2), {}
        self.learned_mark = {**dataclasses.asdict(teach), "objective": objective}
        self.parts = build_objective(objective).learned
        self.sigma_data = self.data.sigma_data
        self.followed = ExactMap(self.data, build_path("linear", self.sigma_data))

    @functools.cached_property
    def learned(self) -> FlowMap:  # type: ignore[override]
        config, seed = self.learned_mark, self.settings.seed
        objective = build_objective(config["objective"])
        with torch.enable_grad():
            flow_map = perceptron_map(self.data, config, objective, seed)
            fit(flow_map, objective, self.data, config, seed)
        return flow_map.eval().double()

    def truth(self, ids: Tensor) -> Tensor:
        return self.draw(Way(Chain(), "straight", 1), ids, self.followed)

    def scores(self, way: Way) -> dict[str, float | None]:
        ids = torch.arange(MIXTURE_SAMPLES)
        distance = sliced_wasserstein(self.draw(way, ids), self.data.sample(self.settings.seed + 1, ids))
        return {"sw": distance / self.sigma_data}


class Trained(Field):
    """A run: its diagonal is followed, and it jumps itself."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        config, model = read_config(Path(settings.run).expanduser()), Model.load(settings.run, settings.device)
        self.bundle, self.device = model.bundle, model.device
        spec, data = self.bundle.card.spec, config.get("data") or {}
        if spec.masked or "diagonal" not in self.bundle.card.learned:
            raise UsageError(f"settings.run={settings.run} has no diagonal to follow; name a run that learned it.")
        self.shape, self.sigma_data, self.name = spec.shape, spec.sigma_data, str(data.get("name"))
        self.flow_map = self.followed = self.learned = self.bundle.flow_map.to(self.device)
        self.parts = self.flow_map.learned
        group = {**(config.get("evaluation") or {}), **({"n": settings.n} if settings.n else {})}
        self.ground = reference(self.bundle, data, group)
        self.mark = {
            "weights": weights_checksum(self.flow_map), "reference_steps": settings.reference_steps,
            "reference_end": NEAR_CLEAN, "n": self.ground.n,
        }  # fmt: skip

    def cond(self, ids: Tensor) -> Conditions:
        classes = len(self.bundle.card.spec.classes)
        return Conditions(ids % classes if classes else None)

    def truth(self, ids: Tensor) -> Tensor:
        steps = self.settings.reference_steps
        ratios = torch.logspace(math.log10(RATIO_MAX), math.log10(NEAR_CLEAN), steps, dtype=torch.float64)
        fine = Way(UniPC(min(3, steps)), tuple(ratios.tolist()), steps)
        return self.draw(fine, ids, copy.deepcopy(self.flow_map).double(), torch.float64)

    def scores(self, way: Way) -> dict[str, float | None]:
        ids = torch.arange(self.ground.n, device=self.device)
        raw, label = self.bundle.modality.decode(self.draw(way, ids)).cpu(), self.cond(ids).label
        samples = Dataset(raw, None if label is None else label.cpu())
        found = score(self.ground, samples, "", way.steps, 0, self.settings.seed)
        return {"accuracy": found.accuracy, "frechet": found.frechet}


class Solvers(Suite):
    """The suite of solvers.

    Arguments:
        settings: Its settings.
        compose: The way to configurations.
    """

    name = "solvers"
    kind = Settings
    kinds = "method"
    alone = True

    def __init__(self, settings: Settings, compose: Compose) -> None:
        self.settings, self.teach = settings, read_settings(Teach, settings.teach, "settings.teach")
        trained, objective = Trained(settings), compose("train", [f"objective={self.teach.objective}"])["objective"]
        self.fields: dict[str, Field] = {MIXTURE: Mixture(settings, self.teach, objective), trained.name: trained}
        self.solvers: dict[str, Solver] = {
            name: build_part("solver", config) for name, config in settings.methods.items()
        }

    def cases(self) -> list[Case]:
        return [
            Case({"data": data, "method": name, "steps": steps}, self._depends(data, name))
            for data, field in self.fields.items()
            for name in (*self.solvers, MAP)
            for steps in self._steps(field, name)
        ]

    def _steps(self, field: Field, name: str) -> list[int]:
        if name == MAP:
            return [steps for steps in self.settings.map_calls if Chain().needs(steps) <= field.parts]
        solver = self.solvers[name]
        most = {(calls - 1) // solver.calls_a_step + 1 for calls in self.settings.calls}
        return sorted(steps for steps in most if steps >= solver.least_steps)

    def _depends(self, data: str, name: str) -> dict[str, Any]:
        field, settings = self.fields[data], self.settings
        how = {"learned": dict(field.learned_mark)} if name == MAP else {"solver": settings.methods[name]}
        return {"samples": settings.samples, "seed": settings.seed, "field": dict(field.mark), **how}

    @torch.no_grad()
    def measure(self, case: Case) -> dict[str, Any]:
        steps, field, solver = case.key["steps"], self.fields[case.key["data"]], self.solvers.get(case.key["method"])
        way = Way(solver, solver.grid, steps) if solver else Way(Chain(), "straight", steps)
        with full_products():
            error = field.error(way)
        return {"calls": solver.calls(steps) if solver else steps, "error": error, **field.scores(way)}

    def protocol(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    def table(self, rows: Sequence[Row]) -> str:
        parts = []
        for (data,), group in grouped(rows, "data").items():
            for measure in _measured(group):
                body = [
                    [f"`{name}`" if name != MAP else "**the learned map**", *self._line(each, measure)]
                    for (name,), each in grouped(group, "method").items()
                ]
                head = ["method", *map(str, self._columns)]
                parts += [f"**{data}: {WORDS[measure]}**", "", markdown(head, body, words=1), ""]
        return "\n".join([*parts, self._how(rows)])

    @property
    def _columns(self) -> list[int]:
        return sorted({*self.settings.calls, *self.settings.map_calls})

    def _line(self, rows: Sequence[Row], measure: str) -> list[str]:
        """Returns the cells of a method: what so many calls pay for, and those of the column before do not."""
        cells = []
        for before, calls in pairwise([0, *self._columns]):
            fits = [row for row in rows if before < row.values["calls"] <= calls]
            value = max(fits, key=lambda row: row.values["calls"]).values[measure] if fits else None
            cells.append("-" if value is None else f"{value:{FORMATS[measure]}}")
        return cells

    def _how(self, rows: Sequence[Row]) -> str:
        settings, hardware = self.settings, "; ".join(sorted({row.hardware for row in rows}))
        scored = next(field.mark["n"] for name, field in self.fields.items() if name != MIXTURE)
        return (
            "By network calls, at most so many (a solver of k calls a step makes k (steps - 1) + 1), on the usual grid of "
            f"each. Scores: {MIXTURE_SAMPLES:,} samples of the mixture, {scored:,} of the run. Errors: {settings.samples} "
            f"samples, against the exact map in float64, and against UniPC-3 with {settings.reference_steps:,} steps, in "
            f"float64 too, on the diagonal of `{settings.run}`, whose jumps the learned map makes; that of the mixture was "
            f"learned by `{self.teach.objective}`. Seed {settings.seed}; {hardware}."
        )

    def plot(self, rows: Sequence[Row]) -> Figure:
        figure = Figure(figsize=(15, 9), layout="constrained")
        fields = grouped(rows, "data")
        panels = {data: _measured(group) for (data,), group in fields.items()}
        columns = max(map(len, panels.values()), default=1)
        for (data,), group in fields.items():
            for place, measure in enumerate(panels[data], list(panels).index(data) * columns + 1):
                axes = figure.add_subplot(len(panels), columns, place, xscale="log", xlabel="network calls")
                axes.set_title(f"{data}: {WORDS[measure]}")
                self._draw(axes, group, measure)
        lines = {name: line for ax in figure.axes for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        names = [name for name in (*self.solvers, MAP) if name in lines]
        titles = ["the learned map" if name == MAP else name for name in names]
        figure.legend([lines[name] for name in names], titles, loc="outside right center", fontsize=9)
        return figure

    def _draw(self, axes: Axes, rows: Sequence[Row], measure: str) -> None:
        methods = grouped(rows, "method")
        for index, name in enumerate((*self.solvers, MAP)):
            found = methods.get((name,), [])
            points = [(row.values["calls"], row.values[measure]) for row in found if row.values[measure] is not None]
            own = LEARNED if name == MAP else {"color": f"C{index % 10}", "linestyle": ("-", "--")[index // 10 % 2]}
            if points:
                axes.plot(*zip(*points, strict=True), **{**USUAL, **own}, label=name)
        axes.set_xticks(self._columns, [str(calls) for calls in self._columns])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        if measure == "accuracy":
            axes.set_ylim(ACCURACY_FROM, 1.0)
        else:
            axes.set_yscale("log")


def _measured(rows: Sequence[Row]) -> list[str]:
    """Returns the measures that some of the rows of a field have."""
    return [measure for measure in WORDS if any(row.values.get(measure) is not None for row in rows)]
