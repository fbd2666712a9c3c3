"""Guidance, at sampling and inside training targets, held against classes whose fields are known."""

import pytest
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.build import build_part
from cm_multimodal.errors import UsageError
from cm_multimodal.exact import ExactMap, Gaussian
from cm_multimodal.guidance import Guidance, Guided, GuidedMap
from cm_multimodal.maps import SolutionMap
from cm_multimodal.objectives import OBJECTIVES
from cm_multimodal.objectives.sources import NoisySample, Source
from cm_multimodal.paths import Linear, Path
from cm_multimodal.random import Draws, noise
from torch import Tensor

IDS, SD = torch.arange(96), 0.6
LABEL = IDS % 3  # two classes, and 2 for "none"


def cluster(*mean: float) -> Gaussian:
    return Gaussian(torch.tensor(mean, dtype=torch.float64), SD**2 * torch.eye(2, dtype=torch.float64))


CLASSES = (cluster(1.0, 0.5), cluster(-1.0, 0.0), cluster(0.1, 0.2))


class ByClass(SolutionMap):
    """The exact maps of three Gaussians, chosen by label; the last one is that of no label."""

    def __init__(self, path: Path) -> None:
        self.path, self.sigma_data, self.learned = path, SD, frozenset({"diagonal", "edge", "triangle"})
        self.maps = [ExactMap(each, path) for each in CLASSES]

    def jump(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        return self._pick([each.jump(x, s, t) for each in self.maps], cond)

    def mean_velocity(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        return self._pick([each.mean_velocity(x, s, t) for each in self.maps], cond)

    def _pick(self, values: list[Tensor], cond: Conditions) -> Tensor:
        label = torch.full((len(values[0]),), 2) if cond.label is None else cond.label
        return torch.stack(values)[label, torch.arange(len(label))]


class Truth(Source):
    """The exact velocity of each sample's class."""

    def velocity(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        return ByClass(flow_map.path).velocity(noisy.x_s, noisy.s, noisy.cond)

    def step(self, flow_map: SolutionMap, noisy: NoisySample, t: Tensor) -> Tensor:
        raise NotImplementedError


def scene() -> tuple[Tensor, Tensor, Tensor, Conditions]:
    s = Linear().time_of(torch.logspace(1.5, -1.5, len(IDS), dtype=torch.float64))
    x = noise(0, "x", IDS, (2,), torch.float64)
    return x, s, 0.4 * s, Conditions(LABEL)


def test_guided_map_is_the_line_through_both() -> None:
    """Jumps, mean velocities and denoised states are extrapolated alike, inside the interval, and 1 changes nothing."""
    x, s, t, cond = scene()
    inner, nobody = ByClass(Linear()), Conditions(None)
    guided = GuidedMap(inner, Guidance(2.5, 0.1, 5.0))
    inside = Guidance(2.5, 0.1, 5.0).active(Linear().noise_ratio(s))
    assert 0 < inside.sum() < len(inside)
    for ask in ("jump", "mean_velocity"):
        plain, none = (getattr(inner, ask)(x, s, t, each) for each in (cond, nobody))
        wanted = torch.where(inside[:, None], none + 2.5 * (plain - none), plain)
        torch.testing.assert_close(getattr(guided, ask)(x, s, t, cond), wanted)
        assert torch.equal(getattr(GuidedMap(inner, Guidance()), ask)(x, s, t, cond), plain)
    step = x - (s - t)[:, None] * guided.mean_velocity(x, s, t, cond)
    torch.testing.assert_close(guided.jump(x, s, t, cond), step)
    assert torch.equal(guided.jump(x, s, s, cond), x)
    plain, none = (inner.denoise(x, s, each) for each in (cond, nobody))
    torch.testing.assert_close(guided.denoise(x, s, cond)[inside], (none + 2.5 * (plain - none))[inside])


@pytest.mark.parametrize("mix", [0.0, 0.5, 0.9])
def test_fixed_point_of_the_guided_source(mix: float) -> None:
    """A map that already is the guided field, and the plain one without a class, is taught exactly what it is."""
    x, s, _, cond = scene()
    flow_map, scale = GuidedMap(ByClass(Linear()), Guidance(2.5, 0.1, 5.0)), 2.5
    noisy = NoisySample(x, x, s, x, cond)
    goal = Guided(scale, mix, 0.1, 5.0, Truth()).velocity(flow_map, noisy)
    torch.testing.assert_close(goal, flow_map.velocity(x, s, cond))
    plain = ByClass(Linear()).velocity(x, s, cond)
    assert (goal - plain)[LABEL < 2].abs().max() > 0.1
    torch.testing.assert_close(goal[LABEL == 2], plain[LABEL == 2])


def test_guided_objectives() -> None:
    """A guided source goes into objectives that take velocities; those that take finite steps say which do."""
    source = {"name": "guided", "scale": 2.0, "mix": 0.5, "source": {"name": "conditional"}}
    objective = build_part("objective", {"name": "mean_flow", "source": source})
    flow_map, ids = ByClass(Linear()), torch.arange(12)
    batch = Batch(CLASSES[0].sample(0, ids), Conditions(ids % 2))
    assert objective.loss(flow_map, batch, Draws(0, ids), 0.5).value > 0
    with pytest.raises(UsageError, match="takes finite steps; use objective=mean_flow"):
        OBJECTIVES["alpha_flow"](source=objective.source).loss(flow_map, batch, Draws(0, ids), 0.3)
    with pytest.raises(ValueError, match="asks the map for its diagonal, which is not learned here"):
        OBJECTIVES["easy_consistency"](source=objective.source)
    for wrong in ({"scale": -1.0}, {"mix": 1.0}, {"low": 3.0, "high": 1.0}):
        with pytest.raises(UsageError, match="cannot be made"):
            build_part("source", {**source, **wrong})
