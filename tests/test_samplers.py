r"""Samplers and solvers, held against the exact map."""

import pytest
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.exact import ExactMap, Gaussian
from cm_multimodal.grids import GRIDS
from cm_multimodal.paths import PATHS, build_path
from cm_multimodal.random import Draws
from cm_multimodal.samplers import Chain, Gamma, Mean, Renoise, Sampler
from cm_multimodal.solvers import SOLVERS
from cm_multimodal.tensors import expand_right
from itertools import pairwise

DATA = Gaussian(torch.tensor([0.3, -0.6]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double())
NONE = Conditions()


def start(path_name: str, n: int, steps: int) -> tuple[ExactMap, torch.Tensor, torch.Tensor, Draws]:
    path = build_path(path_name, 0.5)
    times = path.time_of(GRIDS["straight"](steps, path))
    draws = Draws(0, torch.arange(n))
    sigma = path.sigma(times[:1]).expand(n)
    eps = draws.noise("sample", (2,), torch.float64)
    return ExactMap(DATA, path), expand_right(sigma, eps) * eps, times, draws


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_grids_go_down_to_zero(grid: str, steps: int) -> None:
    """A grid has one more point than steps, starts at the common largest ratio, decreases, and ends at clean data."""
    ratios = GRIDS[grid](steps, build_path("vp_cosine", 0.5))
    assert len(ratios) == steps + 1
    assert ratios[0] == pytest.approx(80)
    assert (ratios.diff() < 0).all()
    assert ratios[-1] == 0


@pytest.mark.parametrize("path_name", PATHS)
def test_the_chain_of_the_exact_map_lands_where_one_jump_does(path_name: str) -> None:
    """The semigroup property: any number of exact jumps gives the same sample."""
    exact, x, times, draws = start(path_name, 50, 4)
    chained = Chain()(exact, x, times, NONE, draws)
    jumped = Chain()(exact, x, times[[0, -1]], NONE, draws)
    assert torch.allclose(chained, jumped, atol=1e-9)


@pytest.mark.parametrize("sampler", [Renoise(), Gamma(0.5), Gamma(1.0)])
def test_fresh_noise_keeps_the_distribution(sampler: Sampler) -> None:
    """With the exact map, fresh noise keeps mean and covariance of the data, within four standard errors."""
    n = 40_000
    exact, x, times, draws = start("linear", n, 3)
    samples = sampler(exact, x, times, NONE, draws)
    assert (samples.mean(dim=0) - DATA.mean).abs().max() < 4 * (0.5 / n) ** 0.5
    assert (torch.cov(samples.T) - DATA.covariance).abs().max() < 4 * 0.5 * (2 / n) ** 0.5
    assert not torch.allclose(samples, Chain()(exact, x, times, NONE, draws), atol=0.1)


def test_gamma_ends_are_the_chain_and_the_renoising_sampler() -> None:
    """gamma = 0 is the chain; gamma = 1 asks the map for clean data only."""
    exact, x, times, draws = start("edm", 50, 3)
    assert torch.allclose(Gamma(0.0)(exact, x, times, NONE, draws), Chain()(exact, x, times, NONE, draws), atol=1e-9)
    assert Gamma(1.0).needs(4) == Renoise().needs(4) == {"edge"}
    assert Gamma(0.5).needs(4) == Chain().needs(4) == {"triangle"}


@pytest.mark.parametrize("path_name", PATHS)
def test_the_mean_of_all_samples_is_named_in_one_call(path_name: str) -> None:
    """From noise alone it is that of the data, whatever the noise; it asks for the diagonal alone."""
    exact, x, times, draws = start(path_name, 50, 1)
    assert (Mean()(exact, x, times, NONE, draws) - DATA.mean).abs().max() < 0.05
    assert Mean().needs(1) == {"diagonal"}


@pytest.mark.parametrize("path_name", ["linear", "edm", "trigflow", "vp_cosine"])
def test_euler_is_of_the_first_order(path_name: str) -> None:
    """Halving the steps of Euler's method halves its error against the exact map."""
    exact, x, _, _ = start(path_name, 20, 1)
    path, errors = exact.path, []
    for steps in (64, 128, 256):
        ratios = torch.logspace(0.5, -1, steps + 1, dtype=torch.float64)
        times = path.time_of(ratios)
        first = exact.jump(x, path.time_of(torch.full((20,), 80.0).double()), times[0].expand(20), NONE)
        truth = exact.jump(first, times[0].expand(20), times[-1].expand(20), NONE)
        errors.append((SOLVERS["euler"]()(exact, first, times, NONE) - truth).norm())
    orders = [float(torch.log2(a / b)) for a, b in pairwise(errors)]
    assert orders == pytest.approx([1, 1], abs=0.15)
