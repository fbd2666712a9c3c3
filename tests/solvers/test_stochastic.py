r"""Stochastic solvers on Gaussian data, where a step is linear and its noise Gaussian: mean and variance are a recursion.

With \(D = m + g (y - m)\), \(g = v / (v + \rho^2)\), every state is a number plus a combination of the first noise and of
that of each step. The recursion here is written from the papers' formulas, in the variance-preserving coefficients.
"""

import math
import numpy as np
import pytest
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.exact import ExactMap, Gaussian
from cm_multimodal.paths import EDM, build_path
from cm_multimodal.random import Draws
from cm_multimodal.solvers import Solver
from cm_multimodal.solvers.ddim import DDIM
from cm_multimodal.solvers.heun import Heun
from cm_multimodal.solvers.sde_dpm_solver import SDEDPMSolver
from cm_multimodal.solvers.sde_dpm_solver_pp import SDEDPMSolverPP
from collections.abc import Callable
from itertools import pairwise

MEAN, VARIANCE = 0.4, 0.3
DATA = Gaussian(torch.tensor([MEAN]).double(), torch.tensor([[VARIANCE]]).double())
HIGH, LOW = 20.0, 0.1
Step = Callable[[float, float, list[np.ndarray], list[float], np.ndarray], np.ndarray]


def signal(ratio: float) -> tuple[float, float]:
    """Alpha and sigma of the variance-preserving path."""
    return 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)


def ddim(eta: float) -> Step:
    """Song et al. (2021), equations 12 and 16."""

    def step(a: float, b: float, seen: list[np.ndarray], past: list[float], fresh: np.ndarray) -> np.ndarray:
        (alpha_a, sigma_a), (alpha_b, sigma_b) = signal(a), signal(b)
        x, denoised = alpha_a * seen[0], seen[1]
        noise = (x - alpha_a * denoised) / sigma_a
        std = eta * sigma_b / sigma_a * math.sqrt(1 - alpha_a**2 / alpha_b**2)
        return (alpha_b * denoised + math.sqrt(sigma_b**2 - std**2) * noise + std * fresh) / alpha_b

    return step


def sde_plus(points: int) -> Step:
    """Lu et al. (2022, ++), the SDE forms of the first order and of two points."""

    def step(a: float, b: float, seen: list[np.ndarray], past: list[float], fresh: np.ndarray) -> np.ndarray:
        (alpha_a, sigma_a), (alpha_b, sigma_b) = signal(a), signal(b)
        h, x = math.log(a / b), alpha_a * seen[0]
        out = sigma_b / sigma_a * math.exp(-h) * x + alpha_b * (1 - math.exp(-2 * h)) * seen[1]
        if points == 2 and past:
            slope = (seen[1] - seen[2]) / (math.log(past[0] / a) / h)
            out = out + 0.5 * alpha_b * (1 - math.exp(-2 * h)) * slope
        return (out + sigma_b * math.sqrt(1 - math.exp(-2 * h)) * fresh) / alpha_b

    return step


def sde_noise(a: float, b: float, seen: list[np.ndarray], past: list[float], fresh: np.ndarray) -> np.ndarray:
    """Lu et al. (2022, ++), equation 16: the first order in the noise."""
    (alpha_a, sigma_a), (alpha_b, sigma_b) = signal(a), signal(b)
    h, x = math.log(a / b), alpha_a * seen[0]
    noise = (x - alpha_a * seen[1]) / sigma_a
    out = alpha_b / alpha_a * x - 2 * sigma_b * math.expm1(h) * noise + sigma_b * math.sqrt(math.expm1(2 * h)) * fresh
    return out / alpha_b


def churned(churn: float, steps: int) -> Step:
    """Karras et al. (2022), algorithm 2."""

    def step(a: float, b: float, seen: list[np.ndarray], past: list[float], fresh: np.ndarray) -> np.ndarray:
        high = a * (1 + min(churn / steps, math.sqrt(2) - 1))
        y = seen[0] + math.sqrt(high**2 - a**2) * fresh
        slope = (y - denoise(y, high)) / high
        guess = y + (b - high) * slope
        return y + (b - high) * (slope + (guess - denoise(guess, b)) / b) / 2

    return step


def denoise(y: np.ndarray, ratio: float) -> np.ndarray:
    """The denoised state of one whose first entry is its mean, and whose others are factors of noise."""
    gain = VARIANCE / (VARIANCE + ratio**2)
    out = gain * y
    out[0] += (1 - gain) * MEAN
    return out


def recursion(step: Step, ratios: np.ndarray, mean: float, deviation: float) -> tuple[float, float]:
    """The mean and the variance of the last state, from those of the first."""
    y = np.zeros(len(ratios) + 1)
    y[:2] = mean, deviation
    before: list[np.ndarray] = []
    for index in range(len(ratios) - 1):
        a, b = ratios[index : index + 2]
        fresh = np.zeros_like(y)
        fresh[index + 2] = 1
        now = denoise(y, a)
        y, before = step(a, b, [y, now, *before], list(ratios[:index][::-1]), fresh), [now]
    return float(y[0]), float((y[1:] ** 2).sum())


STEPS = 16  # fewer would taper
CASES: dict[str, tuple[Solver, Step]] = {
    "DDIM, eta 0.5": (DDIM(0.5), ddim(0.5)),
    "DDIM, eta 1": (DDIM(1.0), ddim(1.0)),
    "SDE-DPM-Solver++ 1": (SDEDPMSolverPP(1), sde_plus(1)),
    "SDE-DPM-Solver++ 2M": (SDEDPMSolverPP(2, published=True), sde_plus(2)),
    "SDE-DPM-Solver 1": (SDEDPMSolver(1), sde_noise),
    "Heun with churn": (Heun(churn=3.0), churned(3.0, STEPS)),
}


def ratios_of(steps: int) -> np.ndarray:
    return np.geomspace(HIGH, LOW, steps + 1)


@pytest.mark.parametrize("path_name", ["edm", "linear"])
@pytest.mark.parametrize("name", CASES)
def test_mean_and_variance_are_those_of_the_recursion(name: str, path_name: str) -> None:
    """Over 100,000 samples, within four standard errors."""
    solver, step = CASES[name]
    assert solver.stochastic
    n, path = 100_000, build_path(path_name, 0.5)
    draws = Draws(0, torch.arange(n))
    times = path.time_of(torch.as_tensor(ratios_of(STEPS)))
    x = path.sigma(times[0]) * draws.noise("begin", (1,), torch.float64)
    end = solver(ExactMap(DATA, path), x, times, Conditions(), draws) / path.alpha(times[-1])
    mean, variance = recursion(step, ratios_of(STEPS), 0.0, HIGH)
    assert abs(end.mean().item() - mean) < 4 * math.sqrt(variance / n)
    assert abs(end.var().item() - variance) < 4 * variance * math.sqrt(2 / n)


@pytest.mark.parametrize(
    ("step", "order"),
    [(ddim(0.5), 1), (ddim(1.0), 1), (sde_plus(1), 1), (sde_plus(2), 2), (sde_noise, 1), (churned(0.0, 1), 2)],
    ids=["DDIM 0.5", "DDIM 1", "SDE++ 1", "SDE++ 2M", "SDE 1", "Heun"],
)
def test_the_recursion_tends_to_the_exact_marginal(step: Step, order: float) -> None:
    """At the first order, and at the second with two points: for a linear denoiser, that of its ODE."""
    errors = []
    for steps in (200, 400, 800):
        mean, variance = recursion(step, ratios_of(steps), MEAN, math.sqrt(VARIANCE + HIGH**2))
        assert mean == pytest.approx(MEAN, abs=1e-9)
        errors.append(abs(variance - VARIANCE - LOW**2))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    print(f"errors of the variance: {errors}, orders {slopes}")
    assert min(slopes) > order - 0.2


def test_noise_makes_samples_differ_and_the_seed_repeats_them() -> None:
    """Fresh noise comes from the sample's own draws; without draws there is a sentence."""
    path = EDM()
    times, x = torch.as_tensor(ratios_of(4)), torch.ones(3, 1).double()
    draws = Draws(0, torch.arange(3))
    first, again = (SDEDPMSolverPP(2)(ExactMap(DATA, path), x, times, Conditions(), draws) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.unique()) == 3
    with pytest.raises(ValueError, match="needs draws"):
        SDEDPMSolverPP(2)(ExactMap(DATA, path), x, times, Conditions())
