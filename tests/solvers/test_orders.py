r"""The order of every solver, on a Gaussian mixture whose map is known, and what has to be exact."""

import pytest
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.exact import ExactMap, Gaussian, ProductMixture
from cm_multimodal.paths import PATHS, Path, VPLinear, build_path
from cm_multimodal.solvers import SOLVERS, Solver
from cm_multimodal.solvers.ddim import DDIM
from cm_multimodal.solvers.deis import DEIS
from cm_multimodal.solvers.deis_rk import DEISRungeKutta
from cm_multimodal.solvers.dpm_solver import DPMSolver
from cm_multimodal.solvers.dpm_solver_pp import DPMSolverPP
from cm_multimodal.solvers.dpm_solver_pp_single import DPMSolverPPSingle
from cm_multimodal.solvers.euler import Euler
from cm_multimodal.solvers.heun import Heun
from cm_multimodal.solvers.ipndm import IPNDM
from cm_multimodal.solvers.unipc import UniPC

NONE = Conditions()


def column(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


MIXTURE = ProductMixture(column(0.3, 0.7), column(-1.0, 0.8), column(0.2, 0.3), torch.eye(1).double())
POINT = Gaussian(torch.tensor([0.7, -0.2]).double(), torch.zeros(2, 2).double())
BEGIN = torch.tensor([[-1.1], [-0.4], [0.2], [0.9]], dtype=torch.float64)

ORDERS: dict[str, tuple[Solver, float]] = {
    "Euler on the velocity": (Euler(), 1),
    "DDIM": (DDIM(), 1),
    "Heun (EDM)": (Heun(), 2),
    **{f"DEIS tAB, {n} points": (DEIS(n), n) for n in (1, 2, 3, 4)},
    **{f"DEIS rho-AB, {n} points": (DEIS(n, "ratio"), n) for n in (1, 2, 3, 4)},
    "DEIS rho-Heun": (DEISRungeKutta("heun"), 2),
    "DEIS rho-Kutta": (DEISRungeKutta("kutta"), 3),
    **{f"DPM-Solver-{n}": (DPMSolver(n), n) for n in (1, 2, 3)},
    **{f"DPM-Solver++ {n}S": (DPMSolverPPSingle(n), n) for n in (1, 2, 3)},
    **{f"DPM-Solver++ {n}M": (DPMSolverPP(n), n) for n in (1, 2, 3)},
    "DPM-Solver++ 2M, published": (DPMSolverPP(2, published=True), 2),
    "DPM-Solver++ 3M, published": (DPMSolverPP(3, published=True), 2),
    **{f"UniPC-{n}, {b}": (UniPC(n, b), n + 1) for n in (1, 2, 3) for b in ("bh1", "bh2")},
    **{f"iPNDM, {n} points": (IPNDM(n), min(n, 1.9)) for n in (1, 2, 3, 4)},
}


def even_in_log_snr(path: Path, steps: int) -> torch.Tensor:
    """The times from 1 to 0.05 of the linear variance-preserving path, even in the logarithm of the noise ratio."""
    high, low = VPLinear().noise_ratio(torch.tensor([1.0, 0.05], dtype=torch.float64)).log()
    return path.time_of(torch.linspace(high.item(), low.item(), steps + 1, dtype=torch.float64).exp())


def error(solver: Solver, steps: int) -> float:
    exact = ExactMap(MIXTURE, VPLinear())
    times = even_in_log_snr(exact.path, steps)
    truth = exact.jump(BEGIN, times[0].expand(4), times[-1].expand(4))
    return (solver(exact, BEGIN, times, NONE) - truth).abs().max().item()


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_is_the_nominal_one(name: str) -> None:
    """From 320 to 640 steps the error falls with the nominal order, less 0.2 (`pytest -s` prints the table)."""
    solver, order = ORDERS[name]
    errors = [error(solver, steps) for steps in (80, 160, 320, 640)]
    slope = torch.log2(torch.tensor(errors[2] / errors[3])).item()
    print(
        f"\n{name:28s} {'  '.join(f'{value:.1e}' for value in errors)}   order {slope:.2f} (nominal {order:g})", end=""
    )
    assert slope >= order - 0.2 or errors[3] < 1e-12


def test_the_published_third_order_is_the_second() -> None:
    """Without its factor of 2 on the second difference DPM-Solver++ 3M is of order 2; with it, of order 3."""
    for published, least, most in ((True, 1.8, 2.5), (False, 2.8, 3.5)):
        a, b = (error(DPMSolverPP(3, published), steps) for steps in (320, 640))
        assert least < torch.log2(torch.tensor(a / b)).item() < most


def test_every_solver_has_its_order_shown() -> None:
    """A solver without a row in the table is deterministic in no setting."""
    shown = {type(solver) for solver, _ in ORDERS.values()}
    assert {name for name, solver in SOLVERS.items() if solver not in shown} == {"sde_dpm_solver", "sde_dpm_solver_pp"}


class Counted(ExactMap):
    """A map that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(MIXTURE, VPLinear())
        object.__setattr__(self, "asked", [])

    def velocity(self, x: torch.Tensor, s: torch.Tensor, cond: Conditions = NONE) -> torch.Tensor:
        self.asked.append(s)
        return super().velocity(x, s, cond)

    def denoise(self, x: torch.Tensor, s: torch.Tensor, cond: Conditions = NONE) -> torch.Tensor:
        self.asked.append(s)
        return super().denoise(x, s, cond)


@pytest.mark.parametrize("name", ORDERS)
def test_the_calls_are_those_that_it_reports(name: str) -> None:
    """On a grid to clean data, where the last step is one call."""
    solver = ORDERS[name][0]
    for steps in (solver.least_steps, 5):
        counted = Counted()
        times = counted.path.time_of(torch.cat([torch.logspace(1, -1, steps), torch.zeros(1)]).double())
        solver(counted, BEGIN, times, NONE)
        assert len(counted.asked) == solver.calls(steps)


EXPONENTIAL = {name: solver for name, (solver, _) in ORDERS.items() if name != "Euler on the velocity"}


@pytest.mark.parametrize("path_name", PATHS)
@pytest.mark.parametrize("name", EXPONENTIAL)
def test_one_step_is_exact_on_a_single_point(name: str, path_name: str) -> None:
    """Where all data are one point, the denoised state and the noise are constant along a trajectory."""
    path = build_path(path_name, 0.5)
    exact, x = ExactMap(POINT, path), torch.tensor([[1.0, 2.0], [-0.5, 0.1]], dtype=torch.float64)
    times = path.time_of(torch.tensor([20.0, 0.5], dtype=torch.float64))
    truth = exact.jump(x, times[0].expand(2), times[1].expand(2))
    assert torch.allclose(EXPONENTIAL[name](exact, x, times, NONE), truth, atol=1e-12)


def test_euler_is_exact_there_on_the_straight_path_alone() -> None:
    """Straight lines are followed in one step; curved ones are not."""
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    gaps = {}
    for name in ("linear", "edm", "trigflow", "vp_linear", "vp_cosine"):
        exact = ExactMap(POINT, build_path(name, 0.5))
        times = exact.path.time_of(torch.tensor([20.0, 0.5], dtype=torch.float64))
        gaps[name] = (Euler()(exact, x, times, NONE) - exact.jump(x, times[:1], times[1:])).abs().max().item()
    assert max(gaps["linear"], gaps["edm"]) < 1e-12
    assert min(gaps["trigflow"], gaps["vp_linear"], gaps["vp_cosine"]) > 1e-2


def test_ddim_is_dpm_solver_1() -> None:
    """In either prediction, singlestep or multistep, and DEIS with one point: the same numbers."""
    exact = ExactMap(MIXTURE, VPLinear())
    times = even_in_log_snr(exact.path, 5)
    first = DDIM()(exact, BEGIN, times, NONE)
    for other in (DPMSolver(1), DPMSolverPPSingle(1), DPMSolverPP(1), DEIS(1), DEIS(1, "ratio"), IPNDM(1)):
        assert torch.allclose(other(exact, BEGIN, times, NONE), first, atol=1e-13)


def walk(solver: Solver, path_name: str, dtype: torch.dtype) -> torch.Tensor:
    """Walks eight steps to clean data, with states of a type, from the same state of the EDM path."""
    path = build_path(path_name, 0.5)
    ratios = torch.tensor([80.0, 30, 10, 4, 2, 1, 0.5, 0.1, 0.0], dtype=torch.float64)
    times = path.time_of(ratios)
    y = 80 * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    return solver(ExactMap(MIXTURE, path), (path.alpha(times[0]) * y).to(dtype), times, NONE)


@pytest.mark.parametrize("name", [name for name in EXPONENTIAL if "tAB" not in name])
def test_a_change_of_path_changes_nothing(name: str) -> None:
    """On grids of the same noise ratios a solver in the noise ratio or its logarithm gives the same samples."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        edm, *others = (walk(EXPONENTIAL[name], path, dtype) for path in ("edm", "linear", "trigflow", "vp_linear"))
        for other in others:
            assert (other - edm).abs().max() <= tolerance * edm.abs().max()


@pytest.mark.parametrize("solver", [Euler(), DEIS(2), DEIS(3)])
def test_what_lives_on_the_clock_of_a_path_changes_with_it(solver: Solver) -> None:
    """Euler on the velocity, and a polynomial in time, are other methods on another path."""
    assert (walk(solver, "edm", torch.float64) - walk(solver, "trigflow", torch.float64)).abs().max() > 1e-3
