"""A change of path leaves every objective what it is, up to the units of its residual; and other properties of all."""

import dataclasses
import pytest
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.config import compose
from cm_multimodal.errors import UsageError
from cm_multimodal.maps import SCALINGS, FlowMap, Rotation, SolutionMap, TransportedMap
from cm_multimodal.nets.perceptron import Perceptron
from cm_multimodal.objectives import OBJECTIVES, Objective
from cm_multimodal.objectives.mean_flow import MeanFlow
from cm_multimodal.objectives.sources import Conditional
from cm_multimodal.paths import PATHS, Path, build_path
from cm_multimodal.random import Draws, noise
from cm_multimodal.times import Gaps, LogNormal, TimePair, Triangle, Uniform
from objectives.scenes import AT_ZERO, NONE, PRODUCT, WRONG, Bend, near, plain, states
from torch import Tensor, nn

IDS = torch.arange(128)
OF_SOURCE = {"mean_flow", "improved_mean_flow", "alpha_flow", "eulerian_self_distillation", "flow_matching"}
OF_TARGET = {"lagrangian_self_distillation", "terminal_velocity"}
OF_SECANT = {"shortcut", "semigroup_self_distillation"}
SETTINGS = {  # times that paths share, and none at clean data, where a map of another path has no velocity
    "terminal_velocity": {"diagonal": LogNormal(0.0, 1.0), "times": Gaps(edge=0.0)},
    "lagrangian_self_distillation": {"times": Triangle(LogNormal(0.0, 1.4), edge=0.0)},
}


def _rate(path: Path, t: Tensor) -> Tensor:
    """The derivative of the noise ratio by time."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    return (path.d_sigma(t) * alpha - sigma * path.d_alpha(t)) / alpha**2


def _pair(objective: Objective, path: Path) -> TimePair:
    draws = Draws(0, IDS)
    if hasattr(objective.times, "pairs"):
        return objective.times.pairs(draws, path)
    s = objective.times.times(draws.uniform("times"), path)
    return TimePair(s, s)


def _units(name: str, objective: Objective, a: Path, b: Path) -> Tensor:
    """What a residual on path a is multiplied by on path b: states at t, over times; clean states have one unit."""
    if name not in OF_SOURCE | OF_TARGET | OF_SECANT:
        return torch.ones(len(IDS), dtype=torch.float64)
    one, two = _pair(objective, a), _pair(objective, b)
    scale = b.norm(two.t) / a.norm(one.t)
    by_source, by_target = (_rate(b, q) / _rate(a, p) for p, q in ((one.s, two.s), (one.t, two.t)))
    if name in OF_SOURCE:
        return scale * by_source
    if name in OF_TARGET:
        return scale * torch.where(one.s == one.t, by_source, by_target)
    gap = (one.s - one.t) / torch.where(one.s == one.t, 1.0, two.s - two.t)
    return scale * torch.where(one.s == one.t, by_source, gap)


def _distances(name: str, objective: Objective, flow_map: SolutionMap) -> Tensor:
    batch, draws = Batch(PRODUCT.sample(0, IDS)), Draws(0, IDS)
    found = objective.loss(flow_map, batch, draws, 0.9).per_sample
    if name == "terminal_velocity":  # whose second term has times of its own
        found = found - objective.diagonal.loss(flow_map, batch, draws.named("diagonal"), 0.9).per_sample
    return found


@pytest.mark.parametrize("other_name", sorted(set(PATHS) - {"linear"}))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_change_of_path(name: str, other_name: str) -> None:
    """On another path the same map has the same residuals in its units, so that only a weight by time has to follow."""
    if name in AT_ZERO and other_name == "vp_linear":
        pytest.skip("this path has no velocity at clean data")
    sd = PRODUCT.sigma_data
    path, other = build_path("linear", sd), build_path(other_name, sd)
    settings = SETTINGS.get(name, {})
    bend = Bend(0.1 * noise(0, "bend", torch.arange(6), (2,), torch.float64))
    objective, flow_map = plain(name, Conditional(), **settings), near(WRONG["product"], path, sigma_data=sd, bend=bend)
    here = _distances(name, objective, flow_map)
    there = _distances(name, plain(name, Conditional(), **settings), TransportedMap(flow_map, other))
    power = 1 if name == "moment_matching" else 2
    expected = here * _units(name, objective, path, other) ** power
    rows = slice(None) if name != "improved_mean_flow" else torch.eq(*dataclasses.astuple(_pair(objective, path)))
    torch.testing.assert_close(there[rows], expected[rows], rtol=1e-6, atol=1e-9 * float(expected.max()))
    assert here.max() > 1e-5


def test_what_depends_on_the_path() -> None:
    """Times drawn on the path's own clock; and improved mean flow, which compares velocities of two places on a path."""
    ratios, distances = [], []
    for name in ("linear", "trigflow"):
        flow_map = near(WRONG["product"], build_path(name, PRODUCT.sigma_data), sigma_data=PRODUCT.sigma_data)
        batch, draws = Batch(PRODUCT.sample(0, IDS)), Draws(0, IDS)
        ratios.append(MeanFlow(Triangle(Uniform())).loss(flow_map, batch, draws, 0.5).noise_ratio)
        distances.append(_distances("improved_mean_flow", plain("improved_mean_flow", Conditional()), flow_map))
    assert (ratios[0] / ratios[1]).log().abs().max() > 0.1
    paths = [build_path(name, PRODUCT.sigma_data) for name in ("linear", "trigflow")]
    units = _units("improved_mean_flow", plain("improved_mean_flow", Conditional()), *paths) ** 2
    assert (distances[1] / (distances[0] * units)).log().abs().max() > 0.1


class Watched(nn.Module):
    """A network with dropout that remembers the mask of every sample, and refuses a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen, self.calls = nn.Linear(2, 2), {}, 0

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        mask = cond.dropout.dropout_mask("layer", (2,), 0.5)
        for number, row in zip(cond.dropout.ids.tolist(), mask.tolist(), strict=True):
            assert self.seen.setdefault(number, row) == row
        self.calls += 1
        return self.layer(x) * mask.to(x) + n_s[:, None].to(x)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_calls_share_the_dropout_mask(name: str) -> None:
    """Whichever rows an objective asks the network again about, they keep the mask that their sample has."""
    flow_map, draws = FlowMap(Watched().double(), build_path("linear", 0.5), Rotation(), 0.5), Draws(0, IDS)
    objective = plain(name, Conditional())
    objective.prepare(flow_map)
    batch = Batch(PRODUCT.sample(0, IDS), Conditions(dropout=draws))
    objective.loss(flow_map, batch, draws, 0.9).value.backward()
    assert flow_map.net.calls >= 1
    assert len({tuple(row) for row in flow_map.net.seen.values()}) > 1


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"moment_matching"}))
def test_samples_do_not_depend_on_their_batch(name: str) -> None:
    """A sample's distance is the same in another batch: whatever is drawn for it is keyed by its number."""
    flow_map = near(WRONG["product"], build_path("linear", PRODUCT.sigma_data), sigma_data=PRODUCT.sigma_data)
    objective, x = plain(name, Conditional()), PRODUCT.sample(0, IDS)
    whole = objective.loss(flow_map, Batch(x), Draws(3, IDS), 0.6).per_sample
    rows = torch.tensor([5, 3, 77, 101])
    some = objective.loss(flow_map, Batch(x[rows]), Draws(3, rows), 0.6).per_sample
    torch.testing.assert_close(some, whole[rows], rtol=1e-9, atol=1e-12)


def test_moment_matching_wants_whole_groups() -> None:
    """A batch that cuts a group in two is answered by a sentence."""
    flow_map = near(PRODUCT, build_path("linear", PRODUCT.sigma_data))
    for ids in (torch.arange(6), torch.arange(2, 10), torch.tensor([0, 1, 2, 4])):
        with pytest.raises(UsageError, match="multiples"):
            plain("moment_matching", Conditional()).loss(flow_map, Batch(PRODUCT.sample(0, ids)), Draws(0, ids), 0.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_identity(name: str) -> None:
    """With the scaling that an objective is configured with, a jump of no length changes no bit."""
    scaling = compose("train", [f"objective={name}"])["objective"]["scaling"]
    flow_map, (x, s) = near(PRODUCT, build_path("linear", 0.5)), states(build_path("linear", 0.5), torch.float32)
    flow_map.scaling = SCALINGS[scaling]()
    known = slice(0, 1 if scaling == "edm_floor" else None)  # the floor knows jumps to clean data only
    assert torch.equal(flow_map.jump(x[known], s[known], s[known], NONE), x[known])


def test_a_network_of_one_time_is_told_apart() -> None:
    """An objective of two times refuses a network that hears only one, and says which objectives do not."""
    path, batch = build_path("linear", PRODUCT.sigma_data), Batch(PRODUCT.sample(0, torch.arange(4)).float())
    for name in OBJECTIVES:
        objective = plain(name, Conditional())
        deaf, hears = (
            FlowMap(Perceptron(2, 8, 1, two_times), path, SCALINGS["euler"](), PRODUCT.sigma_data)
            for two_times in (False, True)
        )
        if objective.two_times:
            with pytest.raises(UsageError, match="takes no account of the target time"):
                objective.self_check(deaf, batch)
        assert len(objective.self_check(hears, batch)) == hasattr(objective, "derivative")


class Coarse(torch.autograd.Function):
    """An operation without any derivative, whose differences are noise."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return (x * 7).round() / 7


def test_no_derivative_at_all() -> None:
    """A network through which no derivative goes is refused, with the objectives that need none."""
    net = Perceptron(2, 8, 1, two_times=True)
    net.register_forward_hook(lambda net, given, out: Coarse.apply(out * 1e3))
    flow_map = FlowMap(net, build_path("linear", 0.5), SCALINGS["euler"](), 0.5)
    with pytest.raises(UsageError, match=r"No derivative of this network works here; objective=semigroup"):
        plain("mean_flow", Conditional()).self_check(flow_map, Batch(PRODUCT.sample(0, torch.arange(4)).float()))
