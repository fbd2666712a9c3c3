"""Maps and derivatives held against the ground truth, and small networks that learn it; tests/objectives has the rest."""

import math
import pytest
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.curricula import EasyCurriculum
from cm_multimodal.derivatives import (
    DERIVATIVES,
    CentralDifference,
    Derivative,
    DoubleBackward,
    ForwardMode,
    Function,
    self_test,
)  # fmt: skip
from cm_multimodal.exact import ExactMap, Gaussian, ProductMixture
from cm_multimodal.losses import AdaptiveWeight
from cm_multimodal.maps import SCALINGS, EDMFloor, Euler, FlowMap, Rotation, SolutionMap, TransportedMap
from cm_multimodal.nets.embeddings import TimeFeatures
from cm_multimodal.objectives.base import Objective
from cm_multimodal.objectives.easy_consistency import EasyConsistency
from cm_multimodal.objectives.flow_matching import FlowMatching
from cm_multimodal.objectives.mean_flow import MeanFlow
from cm_multimodal.paths import EDM, PATHS, Path, TrigFlow, build_path
from cm_multimodal.random import Draws, noise
from cm_multimodal.times import LogNormal, Triangle, Uniform
from itertools import pairwise
from torch import Tensor, nn

NONE = Conditions()
PLAIN = AdaptiveWeight(0.0)


def _tensor(*values: float | list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PRODUCT = ProductMixture(
    weights=_tensor([0.4, 0.6], [0.5, 0.5]),
    means=_tensor([-0.6, 1.6], [-1.2, 0.4]),
    deviations=_tensor([0.35, 0.45], [0.3, 0.35]),
    rotation=_tensor([0.8, -0.6], [0.6, 0.8]),
)
every_path = pytest.mark.parametrize("path_name", PATHS)
every_scaling = pytest.mark.parametrize("scaling_name", ["euler", "rotation", "endpoint"])


class SmallNet(nn.Module):
    """A multilayer perceptron on points in the plane, told both times."""

    def __init__(self, seed: int, width: int = 64, features: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.times = TimeFeatures(features, highest=2.0)
            sizes = [2 + 2 * features, width, width, width, 2]
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        hidden = torch.cat([x, self.times(n_s).to(x), self.times(n_s - n_t).to(x)], dim=1)
        for layer in self.layers[:-1]:
            hidden = nn.functional.silu(layer(hidden))
        return self.layers[-1](hidden)


def test_pairs_cover_the_triangle() -> None:
    """Pairs are on the diagonal, on the edge and between, in their shares."""
    pair = Triangle(LogNormal(-0.4, 1.2)).pairs(Draws(0, torch.arange(512)), EDM())
    assert (pair.t == pair.s).sum().item() == pytest.approx(0.4 * 512, abs=2)
    assert (pair.t == 0).sum().item() == pytest.approx(0.2 * 512, abs=2)


class _Partial(Derivative):
    """A wrong derivative: it forgets that time moves, too."""

    name = "partial"

    def __call__(self, f: Function, x: Tensor, s: Tensor, v: Tensor, rate: float = 1.0, graph: bool = False) -> Tensor:
        return torch.func.jvp(lambda x: f(x, s), (x,), (v,))[1].detach()


@every_path
def test_derivatives_agree(path_name: str) -> None:
    """The three derivatives of a network's mean velocity are one, and the self-test tells them from a wrong one."""
    ids, path = torch.arange(64), build_path(path_name, 0.5)
    flow_map = FlowMap(SmallNet(0).double(), path, Rotation(), 0.5)
    s = path.time_of(torch.logspace(1, -1, 64, dtype=torch.float64))
    x, v = noise(0, "x", ids, (2,), torch.float64), noise(0, "v", ids, (2,), torch.float64)

    def f(x: Tensor, s: Tensor) -> Tensor:
        return flow_map.mean_velocity(x, s, path.time_of(torch.full_like(s, 0.05)), NONE)

    reference = ForwardMode()(f, x, s, v)
    assert reference.norm() > 1
    torch.testing.assert_close(DoubleBackward()(f, x, s, v), reference, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(CentralDifference(1e-5)(f, x, s, v), reference, rtol=1e-5, atol=1e-5)
    for kind in (ForwardMode(), DoubleBackward(), CentralDifference(1e-5)):
        parts = [kind(f, x, s, None, graph=True), kind(f, x, s, v, rate=0.0)]
        torch.testing.assert_close(sum(parts), reference, rtol=1e-5, atol=1e-5)
        assert [part.requires_grad for part in parts] == [True, False]
    usual = set(DERIVATIVES) - (
        {"central_difference"} if path_name == "decoding" else set()
    )  # turns within its usual step
    assert all(self_test(DERIVATIVES[name](), f, x, s, v) < 0.01 for name in usual)
    with pytest.raises(ValueError, match="partial"):
        self_test(_Partial(), f, x, s, v)


def _states(path: Path, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    s = torch.cat([torch.zeros(1), path.time_of(torch.logspace(-2, math.log10(80), 63, dtype=torch.float64))]).double()
    return noise(0, "x", torch.arange(64), (2,), dtype) * path.norm(s)[:, None].to(dtype), s


@every_scaling
@every_path
def test_boundary(path_name: str, scaling_name: str) -> None:
    """A flow map of any network is the identity where both times agree, bitwise, as its coefficients say."""
    path, scaling = build_path(path_name, 0.5), SCALINGS[scaling_name]()
    x, s = _states(path, torch.float32)
    assert torch.equal(FlowMap(SmallNet(0), path, scaling, 0.5).jump(x, s, s, NONE), x)
    affine = scaling.jump(path, 0.5, s[1:], s[1:])
    torch.testing.assert_close(affine.a, torch.ones_like(s[1:]), rtol=0, atol=1e-15)
    torch.testing.assert_close(affine.b, torch.zeros_like(s[1:]), rtol=0, atol=1e-15)


@every_path
def test_boundary_of_the_floor(path_name: str) -> None:
    """The scaling with a floor is the identity on clean data bitwise, and at the floor but for the path's factor."""
    path, flow = build_path(path_name, 0.5), FlowMap(SmallNet(0), build_path(path_name, 0.5), EDMFloor(), 0.5)
    x, zero = torch.ones(4, 2), torch.zeros(4, dtype=torch.float64)
    assert torch.equal(flow.jump(x, zero, zero, NONE), x)
    floor = path.time_of(torch.full_like(zero, 0.002))
    torch.testing.assert_close(flow.jump(x, floor, zero, NONE), x / path.alpha(floor)[:, None].float())


@torch.no_grad()
@every_scaling
@every_path
def test_mean_velocity_is_continuous(path_name: str, scaling_name: str) -> None:
    """As the jump shrinks, its mean velocity goes to the velocity, in proportion to the jump."""
    path = build_path(path_name, 0.5)
    flow_map = FlowMap(SmallNet(0).double(), path, SCALINGS[scaling_name](), 0.5)
    x, s = (part[8:] for part in _states(path))
    limit = flow_map.velocity(x, s, NONE)
    away = [(flow_map.mean_velocity(x, s, s * (1 - gap), NONE) - limit).norm().item() for gap in (1e-2, 1e-3, 1e-4)]
    assert away[1] / away[0] == pytest.approx(0.1, rel=0.1)
    assert away[2] / away[1] == pytest.approx(0.1, rel=0.1)


def test_rotation_is_the_scaling_of_edm() -> None:
    """At t = 0 the rotation is EDM's skip and out scaling and TrigFlow's cosine and sine, up to the sign of F."""
    ratio, angle, sd = torch.logspace(-2, 2, 50).double(), torch.linspace(0.01, 1.56, 50).double(), 0.5
    edm = Rotation().jump(EDM(), sd, ratio, torch.zeros_like(ratio))
    torch.testing.assert_close(edm.a, sd**2 / (ratio**2 + sd**2), rtol=1e-14, atol=0)
    torch.testing.assert_close(-edm.b, ratio * sd / torch.sqrt(ratio**2 + sd**2), rtol=1e-14, atol=0)
    trig = Rotation().jump(TrigFlow(sd), sd, angle, torch.zeros_like(angle))
    torch.testing.assert_close(trig.a, angle.cos(), rtol=1e-13, atol=0)
    torch.testing.assert_close(-trig.b, sd * angle.sin(), rtol=1e-13, atol=0)


def _same_map(a: SolutionMap, b: SolutionMap, x: Tensor, s: Tensor, t: Tensor) -> None:
    for method, times in [("jump", (s, t)), ("mean_velocity", (s, t)), ("velocity", (s,)), ("denoise", (s,))]:
        first, second = (getattr(solution, method)(x, *times, NONE) for solution in (a, b))
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("other_name", PATHS)
@every_path
def test_transported_map_is_the_direct_one(path_name: str, other_name: str) -> None:
    """A map of one path used on another is the map of the other: the true one, and a network's under these scalings."""
    sd = PRODUCT.sigma_data
    path, other = build_path(path_name, sd), build_path(other_name, sd)
    x, s = (part[8:] for part in _states(path))
    t = path.time_of(path.noise_ratio(s) * torch.linspace(0, 0.9, len(s), dtype=torch.float64))
    t = torch.where(torch.arange(len(s)) % 5 == 0, s, t)
    _same_map(TransportedMap(ExactMap(PRODUCT, other), path), ExactMap(PRODUCT, path), x, s, t)
    for scaling_name in ("rotation", "endpoint"):
        here, there = (FlowMap(SmallNet(0).double(), p, SCALINGS[scaling_name](), sd) for p in (path, other))
        _same_map(TransportedMap(there, path), here, x, s, t)


def _train(flow_map: FlowMap, objective: Objective, seed: int, steps: int, size: int = 1024) -> None:
    optimizer = torch.optim.Adam(flow_map.parameters(), 6e-3, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 20, 2 - 2 * i / steps))
    for step, ids in enumerate(torch.arange(steps * size).split(size)):
        loss = objective.loss(flow_map, Batch(PRODUCT.sample(seed, ids).float()), Draws(seed, ids), step / steps)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        decay.step()


@torch.no_grad()
def _errors(model: SolutionMap) -> dict[str, float]:
    """Root-mean-square errors, in units of sigma_data, of jumps over the triangle and to its edge, and of denoising."""
    ids, path = torch.arange(4096), model.path
    draws = Draws(99, ids)
    pair = Triangle(Uniform(), off_diagonal=1.0).pairs(draws, path)
    s, t, clean = pair.s, pair.t, torch.zeros_like(pair.s)
    x = path.sample(PRODUCT.sample(98, ids), draws.noise("noise", (2,), torch.float64), s)
    differences = {
        "triangle": model.jump(x.float(), s, t, NONE) - PRODUCT.jump(x, path, s, t),
        "edge": model.jump(x.float(), s, clean, NONE) - PRODUCT.jump(x, path, s, clean),
        "diagonal": model.denoise(x.float(), s, NONE) - PRODUCT.denoise(x, path, s),
    }
    return {part: value.square().mean().sqrt().item() / PRODUCT.sigma_data for part, value in differences.items()}


LEARNERS = {
    "triangle": (MeanFlow(Triangle(LogNormal(0.0, 1.2), 0.5, 0.4), weight=PLAIN), Euler(), 600),
    "edge": (EasyConsistency(LogNormal(-0.4, 1.6), EasyCurriculum(stages=6)), Rotation(), 900),
    "diagonal": (FlowMatching(LogNormal(0.0, 1.2)), Euler(), 400),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("part", LEARNERS)
def test_learning(part: str, seed: int) -> None:
    """In seconds, a small network learns its part of the map to 0.15 sigma_data and a fifth of its first error."""
    objective, scaling, steps = LEARNERS[part]
    flow_map = FlowMap(SmallNet(seed), build_path("linear", PRODUCT.sigma_data), scaling, PRODUCT.sigma_data)
    before = _errors(flow_map)[part]
    _train(flow_map, objective, seed, steps)
    after = _errors(flow_map)[part]
    assert after < 0.15
    assert after < before / 5


def test_learning_is_more_than_a_gaussian() -> None:
    """The best Gaussian is further from the truth than what the networks must reach: the modes have to be learned."""
    best = Gaussian(PRODUCT.sample(0, torch.arange(10**5)).mean(dim=0), PRODUCT.sample(0, torch.arange(10**5)).T.cov())
    errors = _errors(ExactMap(best, build_path("linear", PRODUCT.sigma_data)))
    assert min(errors["triangle"], errors["edge"]) > 0.15
