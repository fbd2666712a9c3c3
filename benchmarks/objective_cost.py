r"""What a training step of an objective costs, against one of flow matching: time, and peak memory.

A step is the objective's loss, its backward pass and an AdamW update, on the U-Net of the digits, on a transformer of about
as many parameters, and on a transformer over 1,024 patches. Half of the samples of mean flow lie off the diagonal. Flow
matching and the others take turns in one process, a few steps each, first one and then another in the lead; a ratio is
the median over the rounds. Memory is what the first steps add to a process of their own on a CPU, the allocator's peak on
a GPU. With --gpu the network is the U-Net of CIFAR-10 of size m, in bf16 and compiled. With --only the others keep the rows
that were measured before.

    python benchmarks/objective_cost.py [--quick] [--gpu] [--only WORDS]
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.derivatives import CentralDifference, Derivative, ForwardMode
from cm_multimodal.evaluation.protocol import commit
from cm_multimodal.machine import describe_machine, keep_memory, set_threads
from cm_multimodal.maps import Euler, FlowMap, Precision, Rotation, Scaling
from cm_multimodal.modality import TensorSpec
from cm_multimodal.nets.transformer import Transformer, TransformerShape
from cm_multimodal.objectives import Objective
from cm_multimodal.objectives.continuous_consistency import ContinuousConsistency
from cm_multimodal.objectives.flow_matching import FlowMatching
from cm_multimodal.objectives.mean_flow import MeanFlow
from cm_multimodal.paths import build_path
from cm_multimodal.random import Draws
from cm_multimodal.times import LogNormal, Triangle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from modalities.image.net import build_net
from pathlib import Path
from torch import nn
from typing import Any

RESULTS = Path(__file__).parent / "results" / "objective_cost.json"
PAIRS = Triangle(LogNormal(0.0, 1.4), off_diagonal=0.5)
WAYS: dict[str, Callable[[], Derivative]] = {
    "forward mode": ForwardMode, "central difference": lambda: CentralDifference(2e-3),
}  # fmt: skip
LIMITS = {"mean flow": 1.5, "continuous consistency": 1.8}  # of time; of memory 1.5, and 1.3 at 1,024 patches


@dataclass(frozen=True)
class Task:
    """A network, the samples it sees, and how many at a time."""

    name: str
    channels: int
    side: int
    batch: int
    build: Callable[[bool], nn.Module]
    memory_limit: float = 1.5


def _unet(config: dict[str, Any], spec: TensorSpec) -> Callable[[bool], nn.Module]:
    return lambda two_times: build_net(config, spec, two_times)


def _transformer(side: int, shape: TransformerShape, classes: int) -> Callable[[bool], nn.Module]:
    return lambda two_times: Transformer((side, side), 1, shape, two_times, classes)


DIGITS = TensorSpec((1, 8, 8), 0.75, tuple("0123456789"))
CIFAR10 = TensorSpec((3, 32, 32), 0.5, tuple("0123456789"))
TASKS = (
    Task("U-Net, 8 px", 1, 8, 128, _unet({"size": "xs", "channels": 48, "blocks": 1}, DIGITS)),
    Task("transformer, 16 patches", 1, 8, 128, _transformer(8, TransformerShape(144, 4, 4), 10)),
    Task("transformer, 1,024 patches", 1, 64, 4, _transformer(64, TransformerShape(144, 4, 4), 10), 1.3),
)
GPU_TASKS = (Task("U-Net, 32 px, size m", 3, 32, 128, _unet({"size": "m"}, CIFAR10)),)


def objectives(only: str = "") -> dict[str, tuple[Objective, Scaling]]:
    """Returns the objectives that take turns, flow matching first, and of the others those whose name has these words."""
    found: dict[str, tuple[Objective, Scaling]] = {"flow matching": (FlowMatching(), Euler())}
    for way, make in WAYS.items():
        found[f"mean flow, {way}"] = (MeanFlow(PAIRS, derivative=make()), Euler())
        found[f"continuous consistency, {way}"] = (ContinuousConsistency(derivative=make()), Rotation())
    return {name: each for name, each in found.items() if name == "flow matching" or only in name}


class Step:
    """A network under an objective, its optimiser and a fixed batch; a call is an update."""

    def __init__(self, task: Task, name: str, device: torch.device) -> None:
        self.objective, scaling = objectives()[name]
        torch.manual_seed(0)
        net = task.build(self.objective.two_times).to(device)
        precision = Precision(torch.bfloat16 if device.type == "cuda" else torch.float32)
        self.flow_map = FlowMap(net, build_path("linear", 0.5), scaling, 0.5, precision=precision)
        self.objective.to(device)
        self.objective.prepare(self.flow_map)
        if device.type == "cuda":
            net.compile()
        weights = [*self.flow_map.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
        x = torch.randn(task.batch, task.channels, task.side, task.side, device=device)
        self.ids = torch.arange(task.batch, device=device)
        self.batch, self.device = Batch(x, Conditions(self.ids % 10)), device

    def __call__(self) -> None:
        loss = self.objective.loss(self.flow_map, self.batch, Draws(0, self.ids), 0.5)
        loss.value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self, steps: int) -> float:
        """Returns the mean time of a step."""
        start = self._now()
        for _ in range(steps):
            self()
        return (self._now() - start) / steps

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def race(
    task: Task, names: Iterable[str], device: torch.device, rounds: int, peaks: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Times objectives in turns; on a GPU it measures the memory of each, too."""
    steps = {}
    for name in names:
        steps[name] = Step(task, name, device)
        try:
            print(f"  {name}: {steps[name].seconds(3):.1f} s for each of the first steps", flush=True)
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            print(f"  {name} does not work here: {str(error).splitlines()[0]}", flush=True)
            del steps[name]
            continue
        if device.type == "cuda":
            peaks[name] = _peak(steps[name])
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds):
        for name in sorted(steps, reverse=index % 2 == 1):
            times[name].append(steps[name].seconds(3))
    base = times["flow matching"]
    return {
        name: {
            "ms": 1e3 * statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, base, strict=True)),
            "MiB": peaks[name],
            "memory": peaks[name] / peaks["flow matching"],
        }
        for name, values in times.items()
    }


def _peak(step: Step) -> float:
    """Returns the peak memory of a step above what is held between steps, in MiB, on a GPU."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step.seconds(3)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _in_its_own_process(task: Task, name: str) -> float:
    """Returns the peak memory of the first steps above that of the network, in MiB, on a CPU."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_resident, (TASKS.index(task), name))


def _resident(index: int, name: str) -> float:
    set_threads(None)
    step = Step(TASKS[index], name, torch.device("cpu"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step.seconds(3)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def main() -> int:
    """Measures, prints, writes, and says whether the cheaper way of each objective keeps the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing written")
    parser.add_argument("--gpu", action="store_true", help="CIFAR-10 size m, bf16, compiled")
    parser.add_argument("--only", default="", metavar="WORDS", help="only objectives whose name has these words")
    given = parser.parse_args()
    device = torch.device("cuda" if given.gpu else "cpu")
    tasks, rows = GPU_TASKS if given.gpu else TASKS, []
    torch._dynamo.config.recompile_limit = 64  # a network is compiled for each way in which it is called
    peaks = {
        task.name: {} if given.gpu else {name: _in_its_own_process(task, name) for name in objectives(given.only)}
        for task in tasks
    }
    set_threads(None)
    keep_memory()
    for task in tasks:
        for name, timed in race(
            task, objectives(given.only), device, 3 if given.quick else 9, peaks[task.name]
        ).items():
            rows.append({"network": task.name, "objective": name, **timed})
            ratios = f"× {timed['ratio']:.2f}   memory × {timed['memory']:.2f}"
            print(f"{task.name:<28}{name:<42}{timed['ms']:8.1f} ms  {ratios}", flush=True)
    if not given.quick:
        _write(RESULTS.with_stem(RESULTS.stem + "_gpu" * given.gpu), rows)
    asked = {
        kind: limit for kind, limit in LIMITS.items() if any(name.startswith(kind) for name in objectives(given.only))
    }
    return _judge(tasks, asked, rows)


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows, each with its commit, beside those of objectives that were not measured this time."""
    measured = {row["objective"] for row in rows}
    kept = (
        [row for row in json.loads(file.read_text())["rows"] if row["objective"] not in measured]
        if file.exists()
        else []
    )
    rows = kept + [{**row, "commit": commit()} for row in rows]
    file.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


def _judge(tasks: tuple[Task, ...], limits: dict[str, float], rows: list[dict[str, Any]]) -> int:
    failed = 0
    for task in tasks:
        for kind, limit in limits.items():
            best = [row for row in rows if row["network"] == task.name and row["objective"].startswith(kind)]
            if not best:
                print(f"{task.name}, {kind}: no way of it works  NOT KEPT")
                failed += 1
                continue
            time_ratio, share = min(row["ratio"] for row in best), min(row["memory"] for row in best)
            kept = time_ratio <= limit and share <= task.memory_limit
            failed += not kept
            found = f"time {time_ratio:.2f} (<= {limit}), memory {share:.2f} (<= {task.memory_limit})"
            print(f"{task.name}, {kind}: {found}{'' if kept else '  NOT KEPT'}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
