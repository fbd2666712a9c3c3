"""Where a finite step or a finite group leaves a bias, it is the one that is known, and no other."""

import math
import pytest
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.curricula import Doubling, EasyCurriculum, SquareRoot, log_normal_rungs
from cm_multimodal.exact import ExactMap, Gaussian
from cm_multimodal.maps import SolutionMap
from cm_multimodal.objectives.continuous_consistency import ContinuousConsistency
from cm_multimodal.objectives.sources import Conditional, NoisySample
from cm_multimodal.paths import EDM, Path, TrigFlow, build_path
from cm_multimodal.random import Draws, noise
from cm_multimodal.times import RATIO_MAX, karras_ratios
from collections.abc import Callable
from objectives.scenes import (
    DATA,
    GAUSSIAN,
    NONE,
    PRODUCT,
    WRONG,
    Bend,
    Expected,
    evaluate,
    gradients,
    near,
    plain,
    standard_errors,
    tensor,
    truth,
)  # fmt: skip
from torch import Tensor, nn

MEAN, DEVIATION = 0.4, 0.7
ROUND = Gaussian(tensor(MEAN, MEAN), DEVIATION**2 * torch.eye(2, dtype=torch.float64))
CURVE = EasyCurriculum()
Slope = Callable[[Tensor], Tensor]


class AffineEdge(nn.Module, SolutionMap):
    """The student f = m + (k + weight h)(x / alpha - m) for Gaussian data, with h the slope of the truth."""

    def __init__(self, path: Path, slope: Slope) -> None:
        super().__init__()
        self.path, self.slope, self.sigma_data = path, slope, DEVIATION
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def jump(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        ratio = self.path.noise_ratio(s)
        slope = self.slope(ratio) + self.weight * true_slope(ratio)
        return MEAN + slope[:, None] * (x / self.path.alpha(s)[:, None] - MEAN)

    def mean_velocity(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        raise NotImplementedError


def true_slope(ratio: Tensor) -> Tensor:
    return DEVIATION / torch.hypot(torch.full_like(ratio, DEVIATION), ratio)


def step(ratio: Tensor, lower: Tensor) -> Tensor:
    """The factor of one finite step on the slope of the fixed point."""
    return 1 - (ratio - lower) * ratio / (DEVIATION**2 + ratio**2)


def fixed_slope(progress: float) -> Slope:
    """The fixed point k(rho) = k(r(rho)) step(rho, r), followed down to where nothing is left of the noise."""

    def slope(ratio: Tensor) -> Tensor:
        product = torch.ones_like(ratio)
        while (ratio > 1e-9).any():
            lower = CURVE.lower(ratio, progress)
            product, ratio = product * step(ratio, lower), lower
        return product

    return slope


@pytest.mark.parametrize("progress", [0.0, 0.15, 0.3])
@pytest.mark.parametrize("path_name", ["edm", "linear"])
def test_easy_consistency_vanishes_at_its_fixed_point(path_name: str, progress: float) -> None:
    """Its mean gradient is zero at the recursion's fixed point, which is not the truth."""
    path, objective = build_path(path_name, DEVIATION), plain("easy_consistency", Conditional(), curriculum=CURVE)
    fixed = gradients(objective, AffineEdge(path, fixed_slope(progress)), ROUND, progress)
    assert standard_errors(fixed).max() < 4
    exact = gradients(objective, AffineEdge(path, true_slope), ROUND, progress)
    assert standard_errors(exact).min() > 10


FINITE = ["consistency_training", "improved_consistency", "easy_consistency", "truncated_consistency"]


@pytest.mark.parametrize("progress", [0.1, 0.7])
@pytest.mark.parametrize("name", FINITE)
def test_finite_steps_have_their_closed_form_bias(name: str, progress: float) -> None:
    """At the true map, the mean gradient is what the product formula says of the steps that were drawn."""
    objective = plain(name, Conditional())
    found = gradients(objective, AffineEdge(EDM(), true_slope), ROUND, progress)
    predicted = []
    for ids in torch.arange(len(found) * 512).split(512):
        rungs = objective.rungs(Draws(1, ids), progress)
        miss = true_slope(rungs.upper) - true_slope(rungs.lower) * step(rungs.upper, rungs.lower)
        size = 2 * miss * true_slope(rungs.upper) * (DEVIATION**2 + rungs.upper**2)
        predicted.append((objective.weigh(rungs) * size).mean())
    difference = found[:, 0] - torch.stack(predicted)
    assert standard_errors(difference[:, None]).max() < 4
    assert progress > 0.5 or standard_errors(found).max() > 4


def test_affine_student_is_the_truth() -> None:
    """The affine student with the true slope is the exact map's edge, and denoising (r = 0) makes it the denoiser."""
    s, x = torch.linspace(0.1, 5.0, 32, dtype=torch.float64), noise(0, "x", torch.arange(32), (2,), torch.float64)
    edge = AffineEdge(EDM(), true_slope).jump(x, s, torch.zeros_like(s), NONE)
    torch.testing.assert_close(edge, ExactMap(ROUND, EDM()).jump(x, s, torch.zeros_like(s)), rtol=0, atol=1e-14)
    denoiser = MEAN + step(s, torch.zeros_like(s))[:, None] * (x - MEAN)
    torch.testing.assert_close(denoiser, ROUND.denoise(x, EDM(), s), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("points", "error"), [(11, -0.24), (41, -0.066), (161, -0.017), (641, -0.0042), (1281, -0.0021)]
)
def test_discretisation_bias_of_a_grid(points: int, error: float) -> None:
    """On a grid the fixed point's slope at the largest ratio is a product, short of the truth by known per cents."""
    ratios = karras_ratios(points)
    product = step(ratios[:-1], ratios[1:]).prod()
    truth = true_slope(ratios[0]) / true_slope(ratios[-1])
    assert (product / truth - 1).item() == pytest.approx(error, rel=0.03)


def test_curricula() -> None:
    """Grids go from the first number of steps to the last; easy steps shrink by stages, more so at large ratios."""
    lower = CURVE.lower(tensor(40.0, 1.0, 0.0), progress=0.3)
    torch.testing.assert_close(lower, tensor(35.0, 1 - (1 + 8 / (1 + math.e)) / 8, 0.0))
    assert [SquareRoot(2, 150).steps(p) for p in (0.0, 0.25, 1.0)] == [2, 75, 150]
    assert [Doubling(10, 1280).steps(p) for p in (0.0, 0.13, 0.5, 1.0)] == [10, 20, 160, 1280]
    assert [Doubling(*ends).steps(1.0) for ends in ((10, 1000), (10, 15), (17, 17))] == [1000, 15, 17]
    rungs = log_normal_rungs(karras_ratios(1281), (torch.arange(20_000).double() + 0.5) / 20_000, -1.1, 2.0)
    assert rungs.upper.log().mean().item() == pytest.approx(-1.1, abs=0.15)
    assert (rungs.lower < rungs.upper).all()


def test_target_of_consistency_training_follows_as_published() -> None:
    """The averaged weights keep mu(p) = exp(s_0 ln mu_0 / N(p)) of themselves at each update."""
    objective = plain("consistency_training", Conditional(), keep=0.9)
    student = AffineEdge(EDM(), true_slope)
    objective.prepare(student)
    student.weight.data.fill_(1.0)
    for progress, keep in ((0.0, 0.9), (1.0, 0.9 ** (2 / 150))):
        before = objective.target.map(student).weight.item()
        objective.updated(student, progress)
        assert objective.target.map(student).weight.item() == pytest.approx(keep * before + 1 - keep)


def test_truncated_consistency_freezes_its_first_stage() -> None:
    """The copy follows the network through the first stage and stays as it is in the second."""
    objective = plain("truncated_consistency", Conditional(), keep=0.0)
    student = AffineEdge(EDM(), true_slope)
    objective.prepare(student)
    for value, progress, copied in ((1.0, 0.2, 1.0), (2.0, 0.49, 2.0), (3.0, 0.5, 2.0), (4.0, 1.0, 2.0)):
        student.weight.data.fill_(value)
        objective.updated(student, progress)
        assert objective.target.map(student).weight.item() == copied


def test_anchor_of_shortcut() -> None:
    """128 straight steps make the whole way 1.0 % short on N(0.3, 0.7^2); that is the bias that the anchor teaches."""
    data = Gaussian(tensor(0.3), tensor([0.49]))
    path, flow_map = build_path("linear", 0.7), ExactMap(data, build_path("linear", 0.7))
    end = RATIO_MAX / (1 + RATIO_MAX)
    x = tensor([-1.0], [1.0])
    walked = x
    for k in range(128, 0, -1):
        s, t = (torch.full((2,), end * index / 128, dtype=torch.float64) for index in (k, k - 1))
        walked = Expected(data).step(flow_map, NoisySample(walked, walked, s, walked, NONE), t)
    s = torch.full((2,), end, dtype=torch.float64)
    jumped = data.jump(x, path, s, torch.zeros_like(s))
    assert ((walked[1] - walked[0]) / (jumped[1] - jumped[0]) - 1).item() == pytest.approx(-0.0104, abs=0.0005)


@pytest.mark.parametrize("data", [GAUSSIAN, PRODUCT], ids=["gaussian", "product"])
def test_bias_of_alpha_flow_is_of_second_order(data: Gaussian) -> None:
    """A first straight step of a share alpha misses the goal by alpha squared; one along the true flow does not."""
    path, sizes = build_path("linear", data.sigma_data), []
    for alpha in (0.04, 0.02, 0.01):
        exact, straight = plain("alpha_flow", truth(data, path)), plain("alpha_flow", Expected(data))
        exact.alpha = straight.alpha = lambda progress, alpha=alpha: alpha
        assert evaluate(exact, near(data, path), data, 0.5).max() < 1e-18
        sizes.append(evaluate(straight, near(data, path), data, 0.5).mean().sqrt().item())
    assert math.log2(sizes[0] / sizes[1]) == pytest.approx(2, abs=0.2)
    assert math.log2(sizes[1] / sizes[2]) == pytest.approx(2, abs=0.1)


def test_schedule_of_alpha_flow() -> None:
    """The share falls from exactly one to exactly zero, through a half in the middle."""
    objective = plain("alpha_flow", Conditional(), start=0.2, end=0.6)
    assert [objective.alpha(p) for p in (0.0, 0.4, 0.8, 1.0)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert 0 < objective.alpha(0.5) < 0.005 or objective.alpha(0.5) == 0.0


def test_groups_of_moment_matching_bias_it_as_their_inverse() -> None:
    """The pairs that share their noise pull the true map 1/M as much as single samples do; a wrong one is pulled more."""
    data = DATA["product"]
    path = build_path("linear", data.sigma_data)
    scene = {"data": data, "batches": 200}
    four, one = (gradients(plain("moment_matching", Conditional(), group=m), near(data, path), **scene) for m in (4, 1))
    assert standard_errors(four - one / 4).max() < 4 < standard_errors(four).max()
    wrong = near(WRONG["product"], path, sigma_data=data.sigma_data)
    assert standard_errors(gradients(plain("moment_matching", Conditional()), wrong, **scene)).max() > 6


@pytest.mark.parametrize("path_name", ["trigflow", "linear", "edm"])
def test_gradient_of_continuous_consistency(path_name: str) -> None:
    """It is -2 g by the change of F, with g = cos(n) df/dn found by finite differences along the sphere."""
    data, h = PRODUCT, 1e-5
    path, sphere, ids = build_path(path_name, data.sigma_data), TrigFlow(data.sigma_data), torch.arange(256)
    objective = plain("continuous_consistency", Conditional())
    bend = Bend(0.2 * noise(0, "bend", torch.arange(6), (2,), torch.float64))
    flow_map, draws = near(data, path, bend=bend), Draws(0, ids)
    loss = objective.loss(flow_map, Batch(data.sample(0, ids)), draws, 1.0)
    (found,) = torch.autograd.grad(loss.value, [bend.weight])

    x, eps = data.sample(0, ids), draws.noise("noise", (2,), torch.float64)
    n = objective.times.times(draws.uniform("times"), sphere)

    def end(shift: float) -> Tensor:
        return flow_map.jump(*sphere.transport(sphere.sample(x, eps, n + shift), n + shift, path), 0 * n, NONE)

    def curved(shift: float) -> Tensor:
        state = sphere.sample(x, eps, n) + shift * sphere.velocity(x, eps, n)
        return flow_map.jump(*sphere.transport(state, n + shift, path), 0 * n, NONE)

    with torch.no_grad():
        g = n.cos()[:, None] * (curved(h) - curved(-h)) / (2 * h)
        torch.testing.assert_close(loss.per_sample, g.square().mean(dim=1), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(end(0.0), curved(0.0))
    output = (n.cos()[:, None] * sphere.sample(x, eps, n) - end(0.0)) / (data.sigma_data * n.sin()[:, None])
    (expected,) = torch.autograd.grad(-2 * (g * output).mean(), [bend.weight])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_warm_up_of_continuous_consistency() -> None:
    """At the start the derivative has no part in the tangent; at the end of the warm-up it has all of it."""
    data, ids = PRODUCT, torch.arange(64)
    path = build_path("trigflow", data.sigma_data)
    flow_map = near(WRONG["product"], path, sigma_data=data.sigma_data)
    objective = ContinuousConsistency(warmup=0.5, normalise=0.0)
    sizes = [
        objective.loss(flow_map, Batch(data.sample(0, ids)), Draws(0, ids), progress).per_sample.mean().item()
        for progress in (0.0, 0.25, 0.5, 1.0)
    ]
    assert sizes[2] == sizes[3]
    assert len({*sizes}) == 3
