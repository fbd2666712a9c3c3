r"""Trajectories of `diffusers` schedulers and of our solvers, on the same noise ratios, with the same exact denoiser.

Where `diffusers` computes something else than the papers, a test says so and holds ours against the definition.
"""

import diffusers
import numpy as np
import pytest
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.exact import ExactMap, ProductMixture
from cm_multimodal.paths import EDM, build_path
from cm_multimodal.random import Draws
from cm_multimodal.solvers import Solver
from cm_multimodal.solvers.ddim import DDIM
from cm_multimodal.solvers.deis import DEIS
from cm_multimodal.solvers.dpm_solver import DPMSolver
from cm_multimodal.solvers.dpm_solver_pp import DPMSolverPP
from cm_multimodal.solvers.dpm_solver_pp_single import DPMSolverPPSingle
from cm_multimodal.solvers.heun import Heun
from cm_multimodal.solvers.sde_dpm_solver import SDEDPMSolver
from cm_multimodal.solvers.sde_dpm_solver_pp import SDEDPMSolverPP
from cm_multimodal.solvers.unipc import UniPC
from scipy.integrate import quad
from typing import Any

NONE = Conditions()
MIXTURE = ProductMixture(
    *(torch.tensor([values] * 2, dtype=torch.float64) for values in ([0.3, 0.7], [-1.0, 0.8], [0.2, 0.3])),
    torch.eye(2).double(),
)
EXACT = ExactMap(MIXTURE, EDM())
N, STEPS = 16, 10
DRAWS = Draws(0, torch.arange(N))
BEGIN = DRAWS.noise("begin", (2,), torch.float64)
EVEN = np.geomspace(60.0, 0.05, STEPS + 1)  # in log-SNR
TO_ZERO = np.append(np.geomspace(60.0, 0.05, STEPS), 0.0)


def ours(solver: Solver, ratios: np.ndarray, path_name: str = "edm") -> torch.Tensor:
    """Walks a solver down noise ratios, on a path; returns the state over alpha."""
    path = build_path(path_name, 0.5)
    times = path.time_of(torch.as_tensor(ratios, dtype=torch.float64))
    x = BEGIN * ratios[0] * path.alpha(times[0])
    return solver(ExactMap(MIXTURE, path), x, times, NONE, DRAWS) / path.alpha(times[-1])


def alpha_of(ratio: float) -> float:
    return float((1 + ratio**2) ** -0.5)


def theirs(scheduler: Any, ratios: np.ndarray, noisy: bool = False) -> torch.Tensor:
    """Walks a scheduler that predicts noise on a variance-preserving path down noise ratios of our choice."""
    scheduler.set_timesteps(len(ratios) - 1)
    scheduler.sigmas = torch.as_tensor(ratios, dtype=torch.float64)
    scheduler.timesteps = torch.arange(len(ratios) - 1, 0, -1) * 50
    x = BEGIN * ratios[0] * alpha_of(ratios[0])
    for index, time in enumerate(scheduler.timesteps):
        ratio = float(ratios[index])
        y = x / alpha_of(ratio)
        denoised = EXACT.denoise(y, torch.full((N,), ratio, dtype=torch.float64), NONE)
        more = {"variance_noise": DRAWS.noise(f"solver/{index}", (2,), torch.float64)} if noisy else {}
        x = scheduler.step((y - denoised) / ratio, time, x, **more).prev_sample
    return x / alpha_of(ratios[-1])


def dpm(**config: Any) -> diffusers.DPMSolverMultistepScheduler:
    return diffusers.DPMSolverMultistepScheduler(prediction_type="epsilon", **config)


def agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a.double() - b.double()).abs().max() <= 1e-4)


@pytest.mark.parametrize("path_name", ["edm", "linear", "vp_linear"])
@pytest.mark.parametrize("points", [1, 2, 3])
@pytest.mark.parametrize("ratios", [EVEN, TO_ZERO], ids=["to a ratio", "to clean data"])
def test_dpm_solver_pp_multistep(points: int, ratios: np.ndarray, path_name: str) -> None:
    """The published weights, lower orders at the end of few steps included."""
    scheduler = dpm(algorithm_type="dpmsolver++", solver_order=points, solver_type="midpoint", final_sigmas_type="zero")
    assert agree(ours(DPMSolverPP(points, published=True), ratios, path_name), theirs(scheduler, ratios))


def test_dpm_solver_pp_with_the_exact_line() -> None:
    """What `diffusers` calls 'heun' for two points is the integral of the line, our usual form."""
    scheduler = dpm(algorithm_type="dpmsolver++", solver_order=2, solver_type="heun")
    assert agree(ours(DPMSolverPP(2), EVEN), theirs(scheduler, EVEN))


@pytest.mark.parametrize("points", [1, 2])
def test_sde_dpm_solver_pp(points: int) -> None:
    """With the same fresh noise, to the last step."""
    scheduler = dpm(algorithm_type="sde-dpmsolver++", solver_order=points, solver_type="midpoint")
    assert agree(ours(SDEDPMSolverPP(points, published=True), EVEN), theirs(scheduler, EVEN, noisy=True))


def test_sde_dpm_solver() -> None:
    """The first order in the noise."""
    scheduler = dpm(algorithm_type="sde-dpmsolver", solver_order=1, final_sigmas_type="sigma_min")
    assert agree(ours(SDEDPMSolver(1), EVEN), theirs(scheduler, EVEN, noisy=True))


def test_sde_dpm_solver_pp_3m_of_diffusers_is_another() -> None:
    """Its second difference counts (1 - e^(-2h) - 2h) / (2h)^2 - 1/2, and the integral is + 1/2: ours is the integral."""
    scheduler = dpm(algorithm_type="sde-dpmsolver++", solver_order=3, solver_type="midpoint")
    assert not agree(ours(SDEDPMSolverPP(3), EVEN), theirs(scheduler, EVEN, noisy=True))


@pytest.mark.parametrize("points", [2, 3])
@pytest.mark.parametrize("kind", [SDEDPMSolver, SDEDPMSolverPP, DPMSolverPP])
def test_weights_are_integrals(kind: type[SDEDPMSolver | SDEDPMSolverPP | DPMSolverPP], points: int) -> None:
    """Of the polynomial through the predictions against the kernel: as integrated here once more."""
    places = [1.0, 0.7, 0.2][:points]
    kernel = {
        SDEDPMSolver: lambda u: -2 * np.exp(-u), SDEDPMSolverPP: lambda u: 2 * np.exp(-2 * (1.4 - u)),
        DPMSolverPP: lambda u: np.exp(-(1.4 - u)),
    }[kind]  # fmt: skip
    nodes = [torch.tensor(value, dtype=torch.float64) for value in places]
    for j, weight in enumerate(kind(points).weights(nodes, torch.tensor(1.4, dtype=torch.float64))):
        others = [place for i, place in enumerate(places) if i != j]

        def integrand(u: float, j: int = j, others: list[float] = others) -> float:
            return float(kernel(u) * np.prod([(u - other) / (places[j] - other) for other in others]))

        assert float(weight) == pytest.approx(quad(integrand, 1.0, 1.4)[0], abs=1e-12)


@pytest.mark.parametrize("points", [1, 2, 3])
@pytest.mark.parametrize(("variant", "ratios"), [("bh1", EVEN), ("bh2", EVEN), ("bh2", TO_ZERO)])
def test_unipc(points: int, variant: str, ratios: np.ndarray) -> None:
    """Predictor, corrector, and lower orders at the end of few steps; its bh1 has no step to clean data (inf * 0)."""
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=points, solver_type=variant, prediction_type="epsilon", final_sigmas_type="zero"
    )
    assert agree(ours(UniPC(points, variant), ratios), theirs(scheduler, ratios))


@pytest.mark.parametrize(("solver", "algorithm"), [(DPMSolver(2), "dpmsolver"), (DPMSolverPPSingle(2), "dpmsolver++")])
def test_singlestep(solver: Solver, algorithm: str) -> None:
    """Two of its grid steps are one of ours, the grid being even in log-SNR."""
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        algorithm_type=algorithm, solver_order=2, solver_type="midpoint", lower_order_final=False,
        prediction_type="epsilon", final_sigmas_type="sigma_min",
    )  # fmt: skip
    assert agree(ours(solver, EVEN[::2]), theirs(scheduler, EVEN))


def test_singlestep_of_the_third_order_of_diffusers_is_another() -> None:
    """It makes the state at two thirds by its second order's midpoint, DPM-Solver-3 by the slope's own integral."""
    ratios = np.geomspace(60.0, 0.05, 10)
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        algorithm_type="dpmsolver++", solver_order=3, solver_type="midpoint", lower_order_final=False,
        prediction_type="epsilon", final_sigmas_type="sigma_min",
    )  # fmt: skip
    gap = (ours(DPMSolverPPSingle(3), ratios[::3]) - theirs(scheduler, ratios)).abs().max()
    assert 1e-4 < gap < 0.1


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta: float) -> None:
    """On the linear betas of DDPM, at every hundredth of its thousand times."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading")
    scheduler.set_timesteps(STEPS)
    kept = scheduler.alphas_cumprod[scheduler.timesteps].double().numpy()
    ratios = np.append(np.sqrt((1 - kept) / kept), 0.0)
    x = BEGIN * ratios[0] * alpha_of(ratios[0])
    for index, time in enumerate(scheduler.timesteps):
        y = x / alpha_of(ratios[index])
        denoised = EXACT.denoise(y, torch.full((N,), ratios[index], dtype=torch.float64), NONE)
        fresh = DRAWS.noise(f"solver/{index}", (2,), torch.float64)
        x = scheduler.step((y - denoised) / ratios[index], time, x, eta=eta, variance_noise=fresh).prev_sample
    assert agree(ours(DDIM(eta), ratios), x)


def test_heun() -> None:
    """In the state y, on the grid of Karras et al.; the last step is Euler's."""
    scheduler = diffusers.HeunDiscreteScheduler(prediction_type="epsilon", use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.double()
    y = BEGIN * float(sigmas[0])
    for index, time in enumerate(scheduler.timesteps):
        ratio = sigmas[index]
        denoised = EXACT.denoise(y, ratio.expand(N), NONE)
        y = scheduler.step((y - denoised) / ratio, time, y).prev_sample
    ratios = np.append(sigmas[:-1].unique().flip(0).numpy(), 0.0)
    assert agree(ours(Heun(), ratios), y)


EDM_SCHEDULERS = {
    "EDMDPMSolverMultistepScheduler, 2": (
        DPMSolverPP(2, published=True),
        {"solver_order": 2, "solver_type": "midpoint"},
    ),
    "EDMDPMSolverMultistepScheduler, 3": (
        DPMSolverPP(3, published=True),
        {"solver_order": 3, "solver_type": "midpoint"},
    ),
    "EDMEulerScheduler": (DDIM(), {}),
}


@pytest.mark.parametrize("name", EDM_SCHEDULERS)
def test_edm(name: str) -> None:
    """In EDM's own variables, where the scheduler preconditions the network's output; Euler in the noise ratio is DDIM."""
    solver, config = EDM_SCHEDULERS[name]
    scheduler = getattr(diffusers, name.split(",")[0])(sigma_data=0.5, **config)
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.double()
    y = BEGIN * float(sigmas[0])
    for index, time in enumerate(scheduler.timesteps):
        ratio = sigmas[index]
        skip, out = 0.25 / (ratio**2 + 0.25), ratio * 0.5 / (ratio**2 + 0.25).sqrt()
        denoised = EXACT.denoise(y, ratio.expand(N), NONE)
        y = scheduler.step((denoised - skip * y) / out, time, y).prev_sample
    assert agree(ours(solver, sigmas.numpy()), y)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("clock", ["time", "ratio"])
def test_deis_is_its_definition_and_that_of_diffusers_another(clock: str) -> None:
    """`diffusers` integrates a polynomial in log-rho; ours are in time and in rho, as integrated here once more."""
    scheduler = diffusers.DEISMultistepScheduler(solver_order=3, prediction_type="epsilon", lower_order_final=False)
    path = build_path("vp_linear", 0.5)
    assert not agree(ours(DEIS(3, clock), EVEN, "vp_linear"), theirs(scheduler, EVEN))
    nodes = [path.time_of(torch.tensor(value, dtype=torch.float64)) for value in (2.0, 3.5, 6.0)]
    end = torch.tensor(1.2, dtype=torch.float64)
    linear = DEIS(3, clock).step(path, nodes, path.time_of(end))

    def place(ratio: float) -> float:
        return float(path.time_of(torch.tensor(ratio, dtype=torch.float64))) if clock == "time" else ratio

    seen = [place(value) for value in (2.0, 3.5, 6.0)]
    for j, weight in enumerate(linear.weights):
        others = [node for i, node in enumerate(seen) if i != j]

        def basis(ratio: float, j: int = j, others: list[float] = others) -> float:
            return float(np.prod([(place(ratio) - other) / (seen[j] - other) for other in others]))

        assert float(weight) == pytest.approx(quad(basis, 2.0, 1.2)[0], abs=1e-10)
