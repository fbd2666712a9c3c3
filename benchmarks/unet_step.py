r"""A training step of the U-Net against that of diffusers' UNet2DModel, and the memory that both take.

Both networks have the same channels, blocks, attention resolutions, heads and groups of normalisation, and see the time
through a scale and a shift; their parameters and FLOPs must agree within 5 %. A step is a forward pass, the mean squared
error against a fixed target, a backward pass and an AdamW update. The networks take turns in one process, a few steps
each, first one and then the other in the lead; a ratio is the median over the rounds of our time over theirs, below 1
where ours is faster. Memory is what the first steps add to the process: the highest resident size above that of the
finished network, in a process of its own for each variant on a CPU, the allocator's peak on a GPU.

    python benchmarks/unet_step.py [--quick]
"""

import argparse
import dataclasses
import itertools
import json
import math
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.machine import choose_device, describe_machine, set_threads
from cm_multimodal.nets.unet import UNet, UNetShape
from collections.abc import Callable
from dataclasses import dataclass
from diffusers import UNet2DModel
from importlib.metadata import version
from pathlib import Path
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typing import Any

RESULTS = Path(__file__).parent / "results" / "unet_step.json"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
NUMBERS = {"float32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = 0.05


@dataclass(frozen=True)
class Size:
    """A task for both networks; `attention` counts levels from 0, the finest."""

    side: int
    colours: int
    batch: int
    channels: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    middle_attention: bool
    groups: int


SIZES = (
    Size(8, 1, 128, (48, 96), 1, (), False, 12),  # the network of experiment=image/digits
    Size(32, 3, 16, (64, 128, 128), 2, (2,), True, 16),  # size s
)


@dataclass(frozen=True)
class Variant:
    """A size in a number format and a memory format."""

    size: Size
    number: str
    layout: str

    def __str__(self) -> str:
        return f"{self.size.side:>2} px  {self.number:<7}  {self.layout:<13}"


class Ours(nn.Module):
    """Our U-Net with one time input, as diffusers' has."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        shape = UNetShape(
            size.channels[0], tuple(width // size.channels[0] for width in size.channels), size.blocks, size.attention,
            size.middle_attention, groups=size.groups,
        )  # fmt: skip
        self.net = UNet(2, size.colours, shape, two_times=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t, t, Conditions())


class Theirs(nn.Module):
    """Diffusers' U-Net."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        kinds = ["Attn" if level in size.attention else "" for level in range(len(size.channels))]
        self.net = UNet2DModel(
            sample_size=size.side, in_channels=size.colours, out_channels=size.colours,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            block_out_channels=size.channels, layers_per_block=size.blocks, attention_head_dim=_head_width(size),
            norm_num_groups=size.groups, resnet_time_scale_shift="scale_shift", add_attention=size.middle_attention,
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t, return_dict=False)[0]


NETS: dict[str, Callable[[Size], nn.Module]] = {"ours": Ours, "diffusers": Theirs}


class Step:
    """One network, its optimiser and a fixed batch; a call is an update."""

    def __init__(self, name: str, variant: Variant, device: torch.device) -> None:
        size, layout = variant.size, FORMATS[variant.layout]
        torch.manual_seed(0)
        self.device, self.dtype = device, NUMBERS[variant.number]
        self.net = NETS[name](size).to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4)
        shape = (size.batch, size.colours, size.side, size.side)
        self.x, self.target = (torch.randn(shape, device=device).to(memory_format=layout) for _ in range(2))
        self.t = torch.rand(size.batch, device=device)

    def __call__(self) -> None:
        self.gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> None:
        """Runs the passes, without an update."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            out = self.net(self.x, self.t)
        nn.functional.mse_loss(out.float(), self.target).backward()

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


def agreement(size: Size, device: torch.device) -> dict[str, Any]:
    """Returns parameters and FLOPs of a step of both networks, and holds them against each other."""
    counts: dict[str, dict[str, int]] = {"parameters": {}, "flops": {}}
    for name in NETS:
        step = Step(name, Variant(size, "float32", "contiguous"), device)
        counts["parameters"][name] = sum(p.numel() for p in step.net.parameters())
        with FlopCounterMode(display=False) as counter:
            step.gradients()
        counts["flops"][name] = counter.get_total_flops()
    for what, count in counts.items():
        apart = abs(count["ours"] / count["diffusers"] - 1)
        assert apart <= TOLERANCE, f"{what} at {size.side} pixels are {apart:.1%} apart: {count}"
    return counts


def race(variant: Variant, device: torch.device, rounds: int, span: float) -> dict[str, Any]:
    """Times both networks in turns; a turn lasts about `span` seconds."""
    steps = {name: Step(name, variant, device) for name in NETS}
    for step in steps.values():
        step.seconds(2)
    turn = max(1, math.ceil(span / max(step.seconds(1) for step in steps.values())))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds):
        for name in sorted(steps, reverse=index % 2 == 1):
            times[name].append(steps[name].seconds(turn))
    ratios = [a / b for a, b in zip(times["ours"], times["diffusers"], strict=True)]
    seconds = {f"{name}_ms": 1e3 * statistics.median(values) for name, values in times.items()}
    return {"ratio": statistics.median(ratios), "ratios": ratios, **seconds, "steps_a_turn": turn}


def memory(name: str, variant: Variant, device: torch.device) -> float:
    """Returns the peak memory of the first two steps above that of the network, in MiB."""
    if device.type != "cuda":
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.apply(_resident, (name, variant))
    step = Step(name, variant, device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step.seconds(2)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _resident(name: str, variant: Variant) -> float:
    set_threads(None)
    step = Step(name, variant, torch.device("cpu"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step.seconds(2)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def _head_width(size: Size) -> int:
    """Returns the width of a head of the widest level in our network."""
    return size.channels[-1] // max(1, size.channels[-1] // UNetShape().head_width)


def measure(quick: bool, device: torch.device) -> dict[str, Any]:
    """Measures all variants; memory first, since a process that has computed cannot be forked."""
    sizes = [dataclasses.replace(size, batch=2) for size in SIZES] if quick else list(SIZES)
    variants = [Variant(*each) for each in itertools.product(sizes, NUMBERS, FORMATS)][:: 4 if quick else 1]
    rounds, span = (2, 0.0) if quick else (7, 0.4)
    used = [{name: memory(name, variant, device) for name in NETS} for variant in variants]
    counts = [{"side": size.side, **agreement(size, device)} for size in sizes]
    rows = []
    for variant, mebibytes in zip(variants, used, strict=True):
        row = race(variant, device, rounds, span)
        print(
            f"{variant}  ours {row['ours_ms']:6.1f} ms, diffusers {row['diffusers_ms']:6.1f} ms, ratio {row['ratio']:.2f}   "
            f"peak memory {mebibytes['ours']:.0f} against {mebibytes['diffusers']:.0f} MiB",
            flush=True,
        )
        rows.append({**dataclasses.asdict(variant), **row, "peak_mib": mebibytes})
    return {"rounds": rounds, "agreement": counts, "rows": rows}


def protocol() -> dict[str, Any]:
    """Returns what the numbers depend on."""
    here = Path(__file__).parent
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return {**describe_machine(), "diffusers": version("diffusers"), "commit": commit.stdout.strip()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny batches: shows that it runs, says nothing of speed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write the numbers")
    words = parser.parse_args()
    set_threads(None)
    result = measure(words.quick, choose_device("auto"))
    words.out.parent.mkdir(parents=True, exist_ok=True)
    words.out.write_text(json.dumps({"protocol": protocol(), **result}, indent=1) + "\n")
    slow = [row["ratio"] for row in result["rows"] if row["ratio"] >= 1]
    print(f"faster in {len(result['rows']) - len(slow)} of {len(result['rows'])} cases")
    return 1 if slow and not words.quick else 0


if __name__ == "__main__":
    sys.exit(main())
