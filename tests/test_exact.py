"""The ground truth is true: exact denoisers, velocities and solution maps, on every path, against each other."""

import math
import pytest
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.derivatives import CentralDifference, ForwardMode
from cm_multimodal.exact import Distribution, ExactMap, ExactNetwork, Gaussian, Mixture, ProductMixture
from cm_multimodal.maps import SCALINGS, FlowMap
from cm_multimodal.paths import EDM, PATHS, Path, build_path
from cm_multimodal.random import noise
from scipy import stats
from torch import Tensor

NONE = Conditions()
IDS = torch.arange(96)


def _tensor(*values: float | list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _rotation(angle: float) -> Tensor:
    return _tensor([math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)])


PRODUCT = ProductMixture(
    weights=_tensor([0.3, 0.7], [0.5, 0.5]),
    means=_tensor([-1.0, 0.8], [-0.6, 0.6]),
    deviations=_tensor([0.2, 0.3], [0.25, 0.15]),
    rotation=_rotation(0.5),
)


def _as_mixture(product: ProductMixture) -> Mixture:
    """The same distribution as a mixture of the four products of components."""
    turn, corners = product.rotation, [(i, j) for i in (0, 1) for j in (0, 1)]
    weights = torch.stack([product.weights[0, i] * product.weights[1, j] for i, j in corners])
    means = [turn @ torch.stack([product.means[0, i], product.means[1, j]]) for i, j in corners]
    spreads = [torch.stack([product.deviations[0, i], product.deviations[1, j]]) ** 2 for i, j in corners]
    parts = (Gaussian(m, turn @ torch.diag(c) @ turn.T) for m, c in zip(means, spreads, strict=True))
    return Mixture(weights, tuple(parts))


GAUSSIAN = Gaussian(_tensor(0.3, -0.2), _tensor([0.5, 0.2], [0.2, 0.3]))
CLOSED = {"gaussian": GAUSSIAN, "product": PRODUCT}
ALL = CLOSED | {"mixture": _as_mixture(PRODUCT)}
TOLERANCE = {"gaussian": 1e-13, "product": 1e-13, "mixture": 1e-9}

every_path = pytest.mark.parametrize("path_name", PATHS)
every_data = pytest.mark.parametrize("name", ALL)
closed_data = pytest.mark.parametrize("name", CLOSED)


def _scene(data: Distribution, path_name: str) -> tuple[Path, Tensor, Tensor, Tensor]:
    """A path, noisy states, source times of ratios from 40 to 0.05, and target times below, every eighth of them 0."""
    path = build_path(path_name, data.sigma_data)
    ratio = torch.logspace(math.log10(40.0), math.log10(0.05), len(IDS), dtype=torch.float64)
    share = 0.05 + 0.85 * ((IDS * 37) % len(IDS)) / len(IDS)
    s, t = path.time_of(ratio), path.time_of(torch.where(IDS % 8 == 7, 0.0, ratio * share))
    eps = noise(1, "test", IDS, (2,), torch.float64)
    return path, path.sample(data.sample(0, IDS), eps, s), s, t


def _relative(difference: Tensor, size: Tensor) -> float:
    """The largest error of a row, relative to its size but to no less than 1."""
    return (difference.norm(dim=-1) / size.norm(dim=-1).clamp_min(1.0)).max().item()


def _by_target(data: Distribution, path: Path, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """The derivative of the map by its target time, without truncation error."""
    return ForwardMode()(lambda x, t: data.jump(x, path, s, t), x, t, torch.zeros_like(x))


@every_path
@every_data
def test_identity(name: str, path_name: str) -> None:
    """A jump of no length changes nothing: in the formulas to rounding, in the map bitwise."""
    path, x, s, _ = _scene(ALL[name], path_name)
    assert _relative(ALL[name].jump(x, path, s, s) - x, x) < 1e-15 * 8
    assert torch.equal(ExactMap(ALL[name], path).jump(x, s, s), x)


@every_path
@every_data
def test_semigroup(name: str, path_name: str) -> None:
    """Two jumps in a row are one jump, and a jump back undoes it."""
    data = ALL[name]
    path, x, s, t = _scene(data, path_name)
    u = path.time_of(torch.sqrt(path.noise_ratio(s) * path.noise_ratio(t).clamp_min(0.01)))
    direct, middle = data.jump(x, path, s, t), data.jump(x, path, s, u)
    assert _relative(direct - x, x) > 0.1
    assert _relative(data.jump(middle, path, u, t) - direct, direct) < TOLERANCE[name]
    assert _relative(data.jump(direct, path, t, s) - x, x) < 10 * TOLERANCE[name]


@every_path
@closed_data
def test_tangent_and_lagrangian(name: str, path_name: str) -> None:
    """The map's derivative by the target time is the velocity at the place it leads to; at t = s, where it starts."""
    data = CLOSED[name]
    path, x, s, t = _scene(data, path_name)
    velocity = data.velocity(x, path, s)
    assert _relative(_by_target(data, path, x, s, s) - velocity, velocity) < 1e-12
    x, s, t = x[t > 0], s[t > 0], t[t > 0]
    velocity = data.velocity(data.jump(x, path, s, t), path, t)
    assert velocity.norm(dim=-1).median() > 0.1
    assert _relative(_by_target(data, path, x, s, t) - velocity, velocity) < 1e-12


@every_path
@closed_data
def test_eulerian(name: str, path_name: str) -> None:
    """The end point does not change along a trajectory, and does along any other line."""
    data = CLOSED[name]
    path, x, s, t = _scene(data, path_name)
    velocity = data.velocity(x, path, s)

    def end_point(x: Tensor, s: Tensor) -> Tensor:
        return data.jump(x, path, s, t)

    assert _relative(ForwardMode()(end_point, x, s, velocity), velocity) < 1e-12
    assert _relative(ForwardMode()(end_point, x, s, 1.1 * velocity), velocity) > 1e-2
    kinks = 1e-5 if path_name == "decoding" else 1e-6  # its clock is a cubic spline
    assert _relative(CentralDifference(1e-5)(end_point, x, s, velocity), velocity) < kinks


@every_path
@every_data
def test_conditional_velocity_averages_to_the_velocity(name: str, path_name: str) -> None:
    """The conditional velocity is the velocity and a rest that is orthogonal to functions of the noisy state."""
    data, ids = ALL[name], torch.arange(40_000)
    path = build_path(path_name, data.sigma_data)
    s = path.time_of(torch.full((len(ids),), 0.6, dtype=torch.float64))
    x, eps = data.sample(3, ids), noise(4, "test", ids, (2,), torch.float64)
    x_s, conditional = path.sample(x, eps, s), path.velocity(x, eps, s)
    features = torch.cat([torch.ones_like(x_s), x_s, x_s.flip(1), x_s.sin(), x_s**2], dim=1)

    def errors(velocity: Tensor) -> Tensor:
        products = (conditional - velocity).repeat(1, 5) * features
        return products.mean(dim=0).abs() / products.std(dim=0) * len(ids) ** 0.5

    assert errors(data.velocity(x_s, path, s)).max() < 4.0
    assert errors(data.velocity(x_s, path, s) + 0.2 * conditional.std() * x_s).max() > 10.0


@pytest.mark.parametrize("other_name", PATHS)
@every_path
@closed_data
def test_transport(name: str, path_name: str, other_name: str) -> None:
    """States of equal noise ratio have the same denoised state on all paths, and end up at states of equal ratio."""
    data = CLOSED[name]
    path, x, s, t = _scene(data, path_name)
    other = build_path(other_name, data.sigma_data)
    y, s_other = path.transport(x, s, other)
    there, t_other = path.transport(data.jump(x, path, s, t), t, other)
    assert _relative(data.denoise(y, other, s_other) - data.denoise(x, path, s), x) < 1e-12
    assert _relative(data.jump(y, other, s_other, t_other) - there, there) < 1e-12


@every_path
def test_quantile_map_against_integration(path_name: str) -> None:
    """The quantile map of a product of mixtures is the integral of its velocity, which a general mixture agrees on."""
    mixture = ALL["mixture"]
    path, x, s, t = _scene(PRODUCT, path_name)
    assert mixture.sigma_data == pytest.approx(PRODUCT.sigma_data, rel=1e-13)
    assert _relative(PRODUCT.denoise(x, path, s) - mixture.denoise(x, path, s), x) < 1e-13
    assert _relative(PRODUCT.jump(x, path, s, t) - mixture.jump(x, path, s, t), x) < 1e-10


@every_path
def test_jacobian(path_name: str) -> None:
    """The ratio of densities is the map's derivative: to rounding the implicit one, nearly a finite difference."""
    path, x, s, t = _scene(PRODUCT, path_name)
    jacobian = PRODUCT.jacobian(x, path, s, t)
    for axis, direction in enumerate(torch.eye(2, dtype=torch.float64)):
        tangent = direction.expand_as(x)

        def moved(x: Tensor, _: Tensor) -> Tensor:
            return PRODUCT.jump(x, path, s, t)

        size = jacobian.flatten(1)
        assert _relative(ForwardMode()(moved, x, s, tangent) - jacobian[..., axis], size) < 1e-13
        assert _relative(CentralDifference(1e-5)(moved, x, s, tangent) - jacobian[..., axis], size) < 1e-6


@pytest.mark.parametrize("ratios", [(5.0, 1.0), (1.0, 0.1), (0.1, 0.0), (0.02, 0.01)])
def test_quantiles_in_the_tails_and_between_the_modes(ratios: tuple[float, float]) -> None:
    """Held against 260 digits, the quantile map is right to rounding times its own condition, thirty deviations out."""
    mpmath = pytest.importorskip("mpmath")
    weights, means, deviations = ([0.3, 0.7], [-1.0, 0.8], [0.2, 0.3])
    data = ProductMixture(*(_tensor(row) for row in (weights, means, deviations)), rotation=torch.eye(1).double())
    s, t = (torch.full((13,), ratio, dtype=torch.float64) for ratio in ratios)
    spread = math.hypot(0.2, ratios[0])
    low, high = -1.0 - spread * _tensor(30, 20, 8, 3), 0.8 + 1.3 * spread * _tensor(3, 8, 20, 25)
    x = torch.cat([low, _tensor(-0.6, -0.3, -0.1, 0.0, 0.3), high])
    y = data.jump(x[:, None], EDM(), s, t)[:, 0]
    slope = data.jacobian(x[:, None], EDM(), s, t)[:, 0, 0]

    def parts(value: float, ratio: float) -> list[tuple[float, mpmath.mpf, mpmath.mpf]]:
        spreads = [mpmath.sqrt(mpmath.mpf(c) ** 2 + mpmath.mpf(ratio) ** 2) for c in deviations]
        return [(w, (mpmath.mpf(value) - m) / c, c) for w, m, c in zip(weights, means, spreads, strict=True)]

    def quantile(value: float, ratio: float) -> mpmath.mpf:
        return mpmath.fsum(w * mpmath.ncdf(z) for w, z, _ in parts(value, ratio))

    def density(value: float, ratio: float) -> mpmath.mpf:
        return mpmath.fsum(w * mpmath.npdf(z) / c for w, z, c in parts(value, ratio))

    with mpmath.workdps(260):
        for a, b, condition in zip(x.tolist(), y.tolist(), slope.tolist(), strict=True):
            error = (quantile(b, ratios[1]) - quantile(a, ratios[0])) / density(b, ratios[1])
            assert abs(error) < 2e-15 * (abs(b) + max(condition, 1.0) * max(abs(a), 1.0)), (a, b, float(error))


@closed_data
def test_noise_becomes_data(name: str) -> None:
    """The map from almost pure noise to t = 0 gives samples that a Kolmogorov-Smirnov test takes for the data."""
    data, ids, path = CLOSED[name], torch.arange(4000), EDM()
    s = torch.full((len(ids),), 80.0, dtype=torch.float64)
    x_s = path.sample(data.sample(5, ids), noise(6, "test", ids, (2,), torch.float64), s)
    generated, fresh = data.jump(x_s, path, s, torch.zeros_like(s)), data.sample(7, ids + 10**6)
    for direction in (_tensor(1.0, 0.0), _tensor(0.0, 1.0), _tensor(0.6, -0.8)):
        assert stats.ks_2samp((generated @ direction).numpy(), (fresh @ direction).numpy()).pvalue > 0.01
        assert stats.ks_2samp((1.2 * generated @ direction).numpy(), (fresh @ direction).numpy()).pvalue < 1e-4


@every_data
def test_samples(name: str) -> None:
    """Samples are a function of seed and id alone, and have the deviation that the distribution states."""
    data, ids = ALL[name], torch.arange(20_000)
    x = data.sample(0, ids)
    assert torch.equal(x[100:200], data.sample(0, ids[100:200]))
    assert not torch.equal(x, data.sample(1, ids))
    assert x.var(dim=0).mean().sqrt().item() == pytest.approx(data.sigma_data, rel=0.02)


@every_path
@closed_data
def test_exact_map(name: str, path_name: str) -> None:
    """The mean velocity is the secant of the jump off the diagonal, the velocity on it, and finite in between."""
    data = CLOSED[name]
    path, x, s, t = _scene(data, path_name)
    t = torch.where(IDS % 3 == 0, s, t)
    truth = ExactMap(data, path)
    mean, same = truth.mean_velocity(x, s, t), s == t
    assert torch.equal(mean[same], data.velocity(x, path, s)[same])
    assert _relative((x - (s - t)[:, None] * mean - truth.jump(x, s, t))[~same], x[~same]) < 1e-13
    assert _relative(truth.denoise(x, s, NONE) - data.denoise(x, path, s), x) < 1e-13
    near = truth.mean_velocity(x, s, s * (1 - 1e-6))
    assert _relative(near - truth.velocity(x, s, NONE), near) < 1e-4
    assert truth.mean_velocity(x.float(), s, t).dtype == torch.float32


@pytest.mark.parametrize("scaling_name", ["euler", "rotation", "endpoint"])
@every_path
@closed_data
def test_exact_network(name: str, path_name: str, scaling_name: str) -> None:
    """A flow map around the exact network is the exact map: jumps, mean velocities and velocities, elementwise."""
    data, scaling = CLOSED[name], SCALINGS[scaling_name]()
    path, x, s, t = _scene(data, path_name)
    t = torch.where(IDS % 3 == 0, s, t)
    truth = ExactMap(data, path)
    learned = FlowMap(ExactNetwork(data, path, scaling, data.sigma_data), path, scaling, data.sigma_data)
    assert _relative(learned.jump(x, s, t, NONE) - truth.jump(x, s, t), x) < 1e-13
    assert _relative(learned.mean_velocity(x, s, t, NONE) - truth.mean_velocity(x, s, t), x) < 1e-12
    assert _relative(learned.denoise(x, s, NONE) - data.denoise(x, path, s), x) < 1e-13
