r"""Ground truth: the same small network, trained by every objective, against maps that are known.

The data are rotated products of one-dimensional mixtures of Gaussians, in two and in sixteen dimensions. Each objective
has the same updates of the same batch; network calls and seconds are reported. Errors are root mean squares in units of
sigma_data, over what the objective learns: for the triangle all jumps, a third of which go to clean data; for shortcuts
those of their lattice only, most of which are shorter; for the edge jumps to clean data, of truncated consistency those
from above its boundary; for the diagonal the denoised state. Source and target times are uniform on the clock of the path.
"""

__all__ = ["GroundTruth", "fit", "mixture", "perceptron_map", "sliced_wasserstein"]

import dataclasses
import math
import time
import torch

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from matplotlib.figure import Figure
from torch import Tensor
from typing import Any

from ...batch import Batch, Conditions
from ...build import build_objective, build_part
from ...errors import UsageError
from ...exact import ExactMap, ProductMixture
from ...grids import GRIDS
from ...maps import FlowMap, SolutionMap
from ...nets.perceptron import Perceptron
from ...objectives import OBJECTIVES, Objective
from ...objectives.shortcut import Shortcut
from ...objectives.truncated_consistency import TruncatedConsistency
from ...paths import Path, build_path
from ...random import Draws, noise, uniform
from ...samplers import Chain, Renoise
from ...solvers.euler import Euler
from ...times import RATIO_MAX, TimePair, Triangle, Uniform, between
from ..benchmark import Case, Compose, Row, Suite
from ..tables import grouped, known_objectives, markdown, mean_and_spread, notes

NONE = Conditions()
CALLS = (1, 2, 4)
DIRECTIONS = 128
SCORES = {
    "map_error": "map error",
    "semigroup": "semigroup",
    "sw_1": "SW, 1 call",
    "sw_2": "2 calls",
    "sw_4": "4 calls",
}
HEAD = ["objective", "error over", *SCORES.values(), "calls", "seconds"]


@dataclass(frozen=True)
class Settings:
    """The settings of the suite.

    Arguments:
        dimensions: The dimensions of the data sets.
        seeds: The seeds of network and samples.
        updates: The updates of a training.
        batch: The samples of an update.
        lr: The highest learning rate; it rises over the first twentieth and falls along a cosine.
        width: The network's hidden channels.
        depth: Its hidden layers.
        samples: The samples that errors and distances are measured on.
        objective: Settings that differ from those of `configs/objective`, by name.
        remarks: What a reader must know of an objective's row, by name.
    """

    dimensions: tuple[int, ...] = (2, 16)
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int = 3000
    batch: int = 512
    lr: float = 4e-3
    width: int = 96
    depth: int = 3
    samples: int = 4096
    objective: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = (self.updates, self.batch, self.width, self.depth, self.samples, *self.dimensions)
        if min(counts) < 1 or not (self.lr > 0 and self.dimensions and self.seeds):
            raise UsageError(
                "settings: updates, batch, width, depth, samples, dimensions are at least 1, lr above 0, seeds not empty."
            )
        known_objectives("settings.objective", self.objective)
        known_objectives("settings.remarks", self.remarks)


class GroundTruth(Suite):
    """The suite of known maps.

    Arguments:
        settings: Its settings.
        compose: The way to configurations.
    """

    name = "ground_truth"
    kind = Settings
    workers = 2

    def __init__(self, settings: Settings, compose: Compose) -> None:
        self.settings = settings
        self.configs = {
            name: {**compose("train", [f"objective={name}"])["objective"], **settings.objective.get(name, {})}
            for name in OBJECTIVES
        }

    def cases(self) -> list[Case]:
        common = {
            key: value for key, value in dataclasses.asdict(self.settings).items()
            if key not in ("dimensions", "seeds", "objective", "remarks")
        }  # fmt: skip
        return [
            Case({"dimensions": dimensions, "objective": name, "seed": seed}, {**common, "objective": config})
            for dimensions in self.settings.dimensions
            for name, config in self.configs.items()
            for seed in self.settings.seeds
        ]

    def measure(self, case: Case) -> dict[str, Any]:
        data, seed, config = mixture(case.key["dimensions"]), case.key["seed"], case.config
        objective = build_objective(_with_exact_teacher(config["objective"], data))
        flow_map = perceptron_map(data, config, objective, seed)
        calls, seconds = fit(flow_map, objective, data, config, seed)
        return {
            "calls": calls, "seconds": seconds, **errors(flow_map, objective, data, config["samples"]),
            **_distances(flow_map, data, config["samples"]),
        }  # fmt: skip

    def protocol(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self.settings)
        return {**settings, "path": "linear", "directions": DIRECTIONS, "floor": _floor(self.settings)}

    def table(self, rows: Sequence[Row]) -> str:
        parts = []
        for dimensions in self.settings.dimensions:
            body = [_line(name, group) for name, group in _of(dimensions, rows).items()]
            floor = _floor(self.settings)[str(dimensions)]
            title = f"**{dimensions} dimensions** (SW between two sets of real samples: {floor:.3f})"
            parts += [title, "", markdown(HEAD, body), ""]
        return "\n".join([*parts, self._how(rows), "", notes(self.settings.remarks)]).rstrip()

    def _how(self, rows: Sequence[Row]) -> str:
        settings, hardware = self.settings, ", ".join(sorted({row.hardware for row in rows}))
        return (
            f"{settings.updates:,} updates of {settings.batch} samples each, the same perceptron ({settings.depth} layers "
            f"of {settings.width}), seeds {list(settings.seeds)}: mean ± half the range. Errors and sliced Wasserstein "
            f"distances (SW, second order, {DIRECTIONS} directions, {settings.samples:,} samples) in units of "
            "sigma_data; *calls*: forward evaluations of the network for a sample in an update, without those of a teacher, "
            f"which is the exact map; *seconds*: of one core ({hardware}). *lattice*: only the jumps that shortcuts learn; "
            "*noisy edge*: only from above the boundary of truncated consistency."
        )

    def plot(self, rows: Sequence[Row]) -> Figure:
        figure = Figure(figsize=(5.2 * len(self.settings.dimensions), 6), layout="constrained")
        for place, dimensions in enumerate(self.settings.dimensions, 1):
            chosen = _of(dimensions, rows)
            order = sorted(chosen, key=lambda name: -min(row.values["map_error"] for row in chosen[name]))
            axes = figure.add_subplot(
                1, len(self.settings.dimensions), place, xscale="log", xlabel="error / sigma_data"
            )
            for measure, marker in (("map_error", "o"), ("sw_1", "x")):
                points = [(row.values[measure], order.index(name)) for name in order for row in chosen[name]]
                axes.plot(*zip(*points, strict=True), marker, label=SCORES[measure])
            axes.set_yticks(range(len(order)), order)
            axes.axvline(0.1, color="grey", linestyle=":")
            axes.set_title(f"{dimensions} dimensions")
            axes.grid(alpha=0.3)
            axes.legend()
        return figure


def mixture(dimensions: int) -> ProductMixture:
    """Returns a rotated product of mixtures of two Gaussians, well apart, the same each time."""
    ids = torch.arange(dimensions)
    u = uniform(0, f"ground truth/{dimensions}", ids, (4,))
    weights = torch.stack([0.3 + 0.4 * u[:, 0], 0.7 - 0.4 * u[:, 0]], dim=1)
    means = torch.stack([-0.7 - 0.4 * u[:, 1], 0.7 + 0.4 * u[:, 1]], dim=1)
    deviations = 0.25 + 0.2 * u[:, 2:]
    turn = torch.linalg.qr(noise(0, f"rotation/{dimensions}", ids, (dimensions,), torch.float64)).Q
    return ProductMixture(weights, means, deviations, turn)


def _with_exact_teacher(config: Mapping[str, Any], data: ProductMixture) -> Mapping[str, Any]:
    source = config.get("source", {})
    if source.get("name") != "teacher":
        return config
    return {**config, "source": {**source, "teacher": ExactMap(data, build_path("linear", data.sigma_data))}}


def perceptron_map(data: ProductMixture, config: Mapping[str, Any], objective: Objective, seed: int) -> FlowMap:
    """Returns a map with a fresh perceptron, of the `width` and `depth` of a case, for an objective."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Perceptron(len(data.weights), config["width"], config["depth"], objective.two_times)
    scaling, path = (
        build_part("scaling", {"name": config["objective"]["scaling"]}),
        build_path("linear", data.sigma_data),
    )
    return FlowMap(net, path, scaling, data.sigma_data, objective.learned)


def fit(
    flow_map: FlowMap, objective: Objective, data: ProductMixture, config: Mapping[str, Any], seed: int
) -> tuple[float, float]:
    """Trains a map as a case says, and returns the network evaluations of a sample and the seconds."""
    objective.prepare(flow_map)
    rows, updates, batch = [0], config["updates"], config["batch"]
    for net in [each for part in (flow_map, objective) for each in part.modules() if isinstance(each, Perceptron)]:
        net.register_forward_hook(lambda net, given, out: rows.__setitem__(0, rows[0] + len(out)))
    weights = [p for p in (*flow_map.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(weights, betas=(0.9, 0.99), fused=True)
    began = time.perf_counter()
    for step, ids in enumerate(torch.arange(updates * batch).split(batch)):
        for group in optimizer.param_groups:
            group["lr"] = config["lr"] * min(20 * (step + 1) / updates, 0.5 * (1 + math.cos(math.pi * step / updates)))
        clean = Batch(data.sample(seed, ids).float())
        loss = objective.loss(flow_map, clean, Draws(seed, ids), step / updates)
        optimizer.zero_grad()
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        objective.updated(flow_map, (step + 1) / updates)
    return rows[0] / (updates * batch), time.perf_counter() - began


@torch.no_grad()
def errors(model: FlowMap, objective: Objective, data: ProductMixture, size: int) -> dict[str, Any]:
    """Returns root-mean-square errors in units of sigma_data: of what an objective learns, and of two jumps against one."""
    ids, path = torch.arange(size), model.path
    draws = Draws(99, ids)
    over, pair = _pairs(objective, draws, path)
    x = path.sample(data.sample(98, ids), draws.noise("noise", (len(data.weights),), torch.float64), pair.s)
    jumps = objective.learned & {"edge", "triangle"}
    if not jumps:
        error = model.denoise(x.float(), pair.s, NONE) - data.denoise(x, path, pair.s)
        return {"over": over, "map_error": _size(error, data), "semigroup": None}
    error = model.jump(x.float(), pair.s, pair.t, NONE) - data.jump(x, path, pair.s, pair.t)
    semigroup = _semigroup(model, x.float(), pair, data) if "triangle" in jumps else None
    return {"over": over, "map_error": _size(error, data), "semigroup": semigroup}


def _pairs(objective: Objective, draws: Draws, path: Path) -> tuple[str, TimePair]:
    """Draws times from what an objective learns, and names that."""
    if isinstance(objective, Shortcut):
        return "lattice", dataclasses.replace(objective.times, jumps=0.9).pairs(draws, path)
    if "triangle" in objective.learned:
        return "triangle", Triangle(Uniform(), off_diagonal=1.0).pairs(draws, path)
    s = Uniform().times(draws.uniform("edge"), path)
    if isinstance(objective, TruncatedConsistency):
        low = path.time_of(torch.tensor(objective.boundary, dtype=torch.float64))
        s = low + draws.uniform("edge") * (path.time_of(torch.tensor(RATIO_MAX, dtype=torch.float64)) - low)
        return "noisy edge", TimePair(s, torch.zeros_like(s))
    return ("edge" if "edge" in objective.learned else "diagonal"), TimePair(s, torch.zeros_like(s))


def _semigroup(model: SolutionMap, x: Tensor, pair: TimePair, data: ProductMixture) -> float:
    u = between(model.path, pair, 0.5)
    two = model.jump(model.jump(x, pair.s, u, NONE), u, pair.t, NONE)
    return _size(two - model.jump(x, pair.s, pair.t, NONE), data)


@torch.no_grad()
def _distances(model: FlowMap, data: ProductMixture, size: int) -> dict[str, float]:
    ids, dimensions, found = torch.arange(size), len(data.weights), {}
    draws = Draws(97, ids)
    for calls in CALLS:
        times = model.path.time_of(GRIDS["straight"](calls, model.path))
        x = model.path.sigma(times[0]).float() * draws.noise("sample", (dimensions,))
        if "triangle" in model.learned:
            x = Chain()(model, x, times, NONE, draws)
        elif "edge" in model.learned:
            x = Renoise()(model, x, times, NONE, draws)
        else:
            x = Euler()(model, x, times, NONE)
        found[f"sw_{calls}"] = sliced_wasserstein(x.double(), data.sample(96, ids)) / data.sigma_data
    return found


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """Returns the sliced Wasserstein distance of second order of two sets of as many vectors, with shape (N, D)."""
    lines = noise(95, "directions", torch.arange(DIRECTIONS), (a.shape[1],), torch.float64)
    lines = lines / lines.norm(dim=1, keepdim=True)
    gap = (a @ lines.T).sort(dim=0).values - (b @ lines.T).sort(dim=0).values
    return gap.square().mean().sqrt().item()


def _floor(settings: Settings) -> dict[str, float]:
    """Returns the distance between two sets of real samples, by dimensions."""
    found = {}
    for dimensions in settings.dimensions:
        data, ids = mixture(dimensions), torch.arange(settings.samples)
        found[str(dimensions)] = sliced_wasserstein(data.sample(96, ids), data.sample(95, ids)) / data.sigma_data
    return found


def _size(error: Tensor, data: ProductMixture) -> float:
    return error.double().square().mean().sqrt().item() / data.sigma_data


def _line(name: str, rows: Sequence[Row]) -> list[str]:
    cost = [mean_and_spread(rows[:1], "calls", 2), mean_and_spread(rows, "seconds", 0)]
    return [f"`{name}`", rows[0].values["over"], *(mean_and_spread(rows, key) for key in SCORES), *cost]


def _of(dimensions: int, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of one data set by objective."""
    chosen = [row for row in rows if row.key["dimensions"] == dimensions]
    return {name: group for (name,), group in grouped(chosen, "objective").items()}
