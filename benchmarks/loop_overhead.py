r"""The training command against a loop written by hand: what Lightning, the log, the guards and the data stream cost.

Both train the network of experiment=image/digits afresh, with its objective, optimiser, averages and data, in one
process and on the same threads. They take turns, first one and then the other in the lead. Neither the start of a run nor
its first updates count. The speed of the command is the one in its own log (speed.jsonl), which covers whole updates and
the writing of the log; the ratio is the median over the rounds of its samples per second over those of the loop. A
checkpoint with its preview falls outside the rows that count: its cost is measured by a run that makes one every row.

    python benchmarks/loop_overhead.py [--quick]
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.config import compose
from cm_multimodal.machine import choose_device, describe_machine, set_threads
from cm_multimodal.random import Draws, permutation
from cm_multimodal.training.parts import build_decays, build_parts
from cm_multimodal.training.run import train
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "loop_overhead.json"
EXPERIMENT = "image/digits"
GOAL = 0.95


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Arguments:
        rounds: Turns of each side.
        rows: Rows of the log in a turn; the first does not count.
        updates: Updates in a row.
    """

    rounds: int = 5
    rows: int = 3
    updates: int = 10

    def config(self, *words: str) -> dict[str, Any]:
        """Returns the experiment's configuration, cut to one turn; it makes no checkpoint before its end."""
        batch = compose("train", [f"experiment={EXPERIMENT}"])["train"]["batch"]
        samples = self.rows * self.updates * batch
        settings = {
            "samples": samples,
            "log_every": self.updates,
            "checkpoint_every": samples,
            "preview_every": samples,
        }
        return compose("train", [f"experiment={EXPERIMENT}", *(f"train.{k}={v}" for k, v in settings.items()), *words])


def command(config: dict[str, Any]) -> float:
    """Returns the samples per second of the training command, the first row of its log left out."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(config, Path(folder) / "run")
        lines = (Path(folder) / "run" / "speed.jsonl").read_text().splitlines()
    return statistics.harmonic_mean([json.loads(line)["samples_per_s"] for line in lines[1:]])


def by_hand(config: dict[str, Any], warm: int) -> float:
    """Returns the samples per second of a plain loop, the first `warm` updates left out."""
    settings, tuned, device = config["train"], config["optimizer"], choose_device(config["train"]["device"])
    parts = build_parts(config, device)
    data, flow_map, size = parts.splits.train, parts.flow_map.to(device), settings["batch"]
    if settings["channels_last"]:
        flow_map.net.to(memory_format=torch.channels_last)
    weights, (lr, decay) = list(flow_map.parameters()), (tuned["lr"], tuned["weight_decay"])
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=tuple(tuned["betas"]), weight_decay=decay)
    averages = [(d, [w.detach().clone() for w in weights]) for d in build_decays(config["ema"])]
    order, start = permutation(config["seed"], "order", len(data)), time.perf_counter()
    for first in range(0, settings["samples"], size):
        if first == warm * size:
            start = time.perf_counter()
        ids = torch.arange(first, first + size)
        where = order[ids % len(data)]
        label = None if data.label is None else data.label[where].to(device)
        batch = Batch(parts.modality.encode(data.raw[where].to(device)), Conditions(label))
        draws = Draws(config["seed"], ids.to(device))
        loss = parts.objective.loss(flow_map, batch, draws, first / settings["samples"])
        optimizer.zero_grad()
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(weights, tuned["clip"])
        optimizer.step()
        with torch.no_grad():
            for d, average in averages:
                torch._foreach_lerp_(average, weights, 1 - d.beta(first + size, size))
    float(loss.value)
    return (settings["samples"] - warm * size) / (time.perf_counter() - start)


def race(plan: Plan) -> dict[str, Any]:
    """Lets both take turns."""
    config = plan.config()
    sides = {"command": lambda: command(config), "by_hand": lambda: by_hand(config, plan.updates)}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(plan.rounds):
        for name in sorted(sides, reverse=index % 2 == 0):
            speeds[name].append(sides[name]())
    ratios = [a / b for a, b in zip(speeds["command"], speeds["by_hand"], strict=True)]
    return {"ratio": statistics.median(ratios), "ratios": ratios, "samples_per_s": speeds}


def interruption(plan: Plan, speed: float) -> dict[str, float]:
    """Returns what a checkpoint and its preview take, and their share of the experiment's time."""
    whole = compose("train", [f"experiment={EXPERIMENT}"])["train"]
    row = plan.updates * whole["batch"]
    often = command(plan.config(f"train.checkpoint_every={row}", f"train.preview_every={row}"))
    seconds = row / often - row / speed
    return {"seconds": seconds, "share": seconds / (seconds + whole["checkpoint_every"] / speed)}


def protocol(plan: Plan) -> dict[str, Any]:
    """Returns what the numbers depend on."""
    here = Path(__file__).parent
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    batch = plan.config()["train"]["batch"]
    return {
        "experiment": EXPERIMENT,
        "rounds": plan.rounds,
        "samples_a_turn": plan.rows * plan.updates * batch,
        "samples_that_count": (plan.rows - 1) * plan.updates * batch,
        "batch": batch,
        **describe_machine(),
        "commit": commit.stdout.strip(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few updates: shows that it runs, says nothing of speed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write the numbers")
    words = parser.parse_args()
    set_threads(None)
    plan = Plan(1, 2, 1) if words.quick else Plan()
    result = race(plan)
    speed = {name: statistics.median(values) for name, values in result["samples_per_s"].items()}
    pause = interruption(plan, speed["command"])
    words.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"protocol": protocol(plan), **result, "checkpoint_and_preview": pause}
    words.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"command {speed['command']:.0f} samples/s, by hand {speed['by_hand']:.0f} samples/s")
    print(f"a checkpoint with its preview {pause['seconds']:.2f} s, {pause['share']:.1%} of the experiment's time")
    good = result["ratio"] >= GOAL
    print(f"ratio {result['ratio']:.2f} ({'>=' if good else '<'} {GOAL})")
    return 0 if good or words.quick else 1


if __name__ == "__main__":
    sys.exit(main())
