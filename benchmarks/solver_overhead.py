r"""What a solver's own arithmetic costs in ten steps: against the digits' network, and against `diffusers`.

The arithmetic is timed with predictions that are there already: our solvers over a map that answers with a fixed tensor,
the schedulers of `diffusers` with a fixed output of the network, both from the choice of the grid to the last state, with as
many network calls (ten, 19 of Heun's, 9 of our 2S) and with fresh noise that is there already. They take turns in one
process, first one and then another in the lead; a ratio is the median over the rounds.

    python benchmarks/solver_overhead.py [--quick]
"""

import argparse
import diffusers
import json
import statistics
import sys
import time
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.evaluation.protocol import commit
from cm_multimodal.grids import grid_ratios
from cm_multimodal.machine import describe_machine, keep_memory, set_threads
from cm_multimodal.maps import Euler, FlowMap, SolutionMap
from cm_multimodal.modality import TensorSpec
from cm_multimodal.paths import Path as Trajectory
from cm_multimodal.paths import build_path
from cm_multimodal.random import Draws
from cm_multimodal.solvers import Solver
from cm_multimodal.solvers.ddim import DDIM
from cm_multimodal.solvers.deis import DEIS
from cm_multimodal.solvers.dpm_solver_pp import DPMSolverPP
from cm_multimodal.solvers.dpm_solver_pp_single import DPMSolverPPSingle
from cm_multimodal.solvers.heun import Heun
from cm_multimodal.solvers.sde_dpm_solver_pp import SDEDPMSolverPP
from cm_multimodal.solvers.unipc import UniPC
from collections.abc import Callable
from dataclasses import dataclass
from modalities.image.net import build_net
from pathlib import Path
from torch import Tensor
from typing import Any

RESULTS = Path(__file__).parent / "results" / "solver_overhead.json"
STEPS, BATCH = 10, 64
LIMIT = 0.05  # of the time of sampling
SPEC = TensorSpec((1, 8, 8), 0.75, tuple("0123456789"))
NET = {"size": "xs", "channels": 48, "blocks": 1}  # of experiment=image/digits
IDS = torch.arange(BATCH)
COND, NOISE = Conditions(IDS % 10), torch.randn(BATCH, *SPEC.shape)


@dataclass(frozen=True)
class Pair:
    """A solver, the scheduler of the same method, what both are called, and the steps that are ten of the scheduler's."""

    name: str
    ours: Solver
    theirs: Callable[[], Any]
    steps: int = STEPS
    noisy: bool = False


def _multistep(**config: Any) -> Callable[[], Any]:
    return lambda: diffusers.DPMSolverMultistepScheduler(final_sigmas_type="zero", use_karras_sigmas=True, **config)


PAIRS = (
    Pair("DDIM", DDIM(), lambda: diffusers.DDIMScheduler(clip_sample=False)),
    Pair("Heun", Heun(), lambda: diffusers.HeunDiscreteScheduler(use_karras_sigmas=True)),
    Pair("DEIS, 3 points", DEIS(3), lambda: diffusers.DEISMultistepScheduler(solver_order=3, use_karras_sigmas=True)),
    Pair("DPM-Solver++ 2S", DPMSolverPPSingle(2), lambda: diffusers.DPMSolverSinglestepScheduler(use_karras_sigmas=True), 5),
    Pair("DPM-Solver++ 2M", DPMSolverPP(2), _multistep(algorithm_type="dpmsolver++", solver_order=2, solver_type="heun")),
    Pair("DPM-Solver++ 3M", DPMSolverPP(3), _multistep(algorithm_type="dpmsolver++", solver_order=3)),
    Pair(
        "SDE-DPM-Solver++ 2M", SDEDPMSolverPP(2), _multistep(algorithm_type="sde-dpmsolver++", solver_order=2), noisy=True
    ),
    Pair("UniPC-2", UniPC(2), lambda: diffusers.UniPCMultistepScheduler(solver_order=2, use_karras_sigmas=True)),
    Pair("UniPC-3", UniPC(3), lambda: diffusers.UniPCMultistepScheduler(solver_order=3, use_karras_sigmas=True)),
)  # fmt: skip


class Still(SolutionMap):
    """A map whose answers cost nothing."""

    learned = frozenset({"diagonal"})

    def __init__(self, path: Trajectory, answer: Tensor) -> None:
        self.path, self.answer = path, answer

    def jump(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        return self.answer

    def mean_velocity(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        return self.answer

    def denoise(self, x: Tensor, s: Tensor, cond: Conditions) -> Tensor:
        return self.answer


class Ready(Draws):
    """Draws that are made already."""

    def noise(self, stream: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return NOISE


def ours(pair: Pair, flow_map: SolutionMap, x: Tensor, draws: Draws) -> Tensor:
    """Follows a map down the solver's own grid."""
    times = flow_map.path.time_of(grid_ratios(pair.ours.grid, pair.steps, flow_map.path))
    return pair.ours(flow_map, x, times, COND, draws)


def theirs(pair: Pair, scheduler: Any, output: Tensor, x: Tensor) -> Tensor:
    """Takes the same steps with a scheduler and fixed outputs of a network."""
    scheduler.set_timesteps(STEPS)
    noise = {"variance_noise": NOISE} if pair.noisy else {}
    for moment in scheduler.timesteps:
        x = scheduler.step(output, moment, scheduler.scale_model_input(x, moment), **noise).prev_sample
    return x


def seconds(work: Callable[[], Tensor]) -> float:
    """Returns the time of a piece of work."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@torch.no_grad()
def race(pair: Pair, flow_map: FlowMap, rounds: int) -> dict[str, Any]:
    """Times sampling, our arithmetic and theirs in turns, in milliseconds and as ratios."""
    x, scheduler = torch.randn(BATCH, *SPEC.shape), pair.theirs()
    still = Still(flow_map.path, torch.randn_like(x))
    jobs = {
        "ours": lambda: ours(pair, still, x, Ready(0, IDS)), "theirs": lambda: theirs(pair, scheduler, still.answer, x),
        "sampling": lambda: ours(pair, flow_map, x, Draws(0, IDS)),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for index in range(rounds + 1):
        for name in sorted(jobs, reverse=index % 2 == 1):
            times[name].append(seconds(jobs[name]))
    ours_, theirs_, sampling = (times[name][1:] for name in ("ours", "theirs", "sampling"))  # the first one warms up
    return {
        "solver": pair.name,
        **{f"{name}_ms": 1e3 * statistics.median(values[1:]) for name, values in times.items()},
        "share": statistics.median(a / b for a, b in zip(ours_, sampling, strict=True)),
        "to_diffusers": statistics.median(a / b for a, b in zip(ours_, theirs_, strict=True)),
    }


def main() -> int:
    """Measures, prints, writes, and says whether the limits are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing written")
    given = parser.parse_args()
    set_threads(None)
    keep_memory()
    torch.manual_seed(0)
    flow_map = FlowMap(
        build_net(NET, SPEC, True), build_path("linear", SPEC.sigma_data), Euler(), SPEC.sigma_data
    ).eval()
    rows = [race(pair, flow_map, 3 if given.quick else 15) for pair in PAIRS]
    for row in rows:
        kept = row["share"] < LIMIT and row["to_diffusers"] < 1
        share, ratio = f"{100 * row['share']:.2f} % of sampling", f"× {row['to_diffusers']:.2f} of diffusers"
        print(f"{row['solver']:<22}{row['ours_ms']:6.2f} ms, {share}, {ratio}{'' if kept else '  NOT KEPT'}")
    if not given.quick:
        record = {"machine": describe_machine(), "commit": commit(), "diffusers": diffusers.__version__, "rows": rows}
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(row["share"] >= LIMIT or row["to_diffusers"] >= 1 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
