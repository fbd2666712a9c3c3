r"""Samples per second of `cmm synth`, against the bare network and against the consistency pipeline of `diffusers`.

All three make as many pictures in one call each, one PNG a picture but for the bare network, whose calls are repeated with
the inputs of a real one. `diffusers` has the `UNet2DModel` that comes nearest to as many parameters, and saves what its
pipeline returns. They take turns in one process, on the same threads; a ratio is the median over the rounds. The look for
copies (`report=`) is left out.

    python benchmarks/synth_throughput.py RUN [--n 2048] [--threads 1] [--rounds 5]
"""

import argparse
import contextlib
import diffusers
import io
import json
import statistics
import tempfile
import time
import torch

from cm_multimodal.evaluation.protocol import commit
from cm_multimodal.generation.sampling import draw, make_plan, map_of
from cm_multimodal.machine import describe_machine, set_threads
from cm_multimodal.model import Model
from cm_multimodal.synthesis.making import synthesize
from cm_multimodal.synthesis.order import Order
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "synth_throughput.json"
WIDTHS = range(16, 257, 8)


def bare(model: Model, n: int) -> Callable[[], None]:
    """Returns what calls the network alone, as often as n samples need."""
    bundle = model.bundle
    plan = make_plan(bundle, n)
    inputs: list[Any] = []
    with contextlib.closing(_Hook(bundle.flow_map.net, inputs)):
        draw(bundle, map_of(bundle, plan, "cpu"), plan, 0)
    arguments, options = inputs[0]

    @torch.no_grad()
    def call() -> None:
        for _ in range(0, n, bundle.card.chunk):
            bundle.flow_map.net(*arguments, **options)

    return call


class _Hook:
    """Notes the inputs of a network until it is closed."""

    def __init__(self, net: torch.nn.Module, inputs: list[Any]) -> None:
        self.handle = net.register_forward_pre_hook(lambda _, *given: inputs.append(given), with_kwargs=True)

    def close(self) -> None:
        self.handle.remove()


def synth(run: str, n: int, threads: int) -> Callable[[], None]:
    """Returns what makes a set of n pictures."""

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for _ in synthesize(
                Order(run, n=n, report=False, device="cpu", threads=threads), Path(folder), processes=1
            ):
                pass

    return call


def pipeline(model: Model, n: int) -> tuple[Callable[[], None], int]:
    """Returns what makes n pictures with `diffusers`, and the number of its network's parameters."""
    card = model.bundle.card
    size = sum(weight.numel() for weight in model.bundle.flow_map.net.parameters())
    nets = {width: _unet(card.spec.shape, len(card.spec.classes), width) for width in WIDTHS}
    net = min(nets.values(), key=lambda net: abs(_count(net) - size)).eval()
    pipe = diffusers.ConsistencyModelPipeline(net, diffusers.CMStochasticIterativeScheduler())
    pipe.set_progress_bar_config(disable=True)

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for start in range(0, n, card.chunk):
                labels = torch.arange(start, start + card.chunk) % max(len(card.spec.classes), 1)
                raw = pipe(card.chunk, labels if card.spec.classes else None, 1, output_type="np").images
                for index, picture in enumerate(_pictures(raw)):
                    picture.save(Path(folder) / f"{start + index:06d}.png")

    return call, _count(net)


def _pictures(raw: Any) -> list[Any]:
    grey = raw.shape[-1] == 1
    return diffusers.utils.numpy_to_pil(raw.repeat(3, axis=-1) if grey else raw)


def _unet(shape: tuple[int, ...], classes: int, width: int) -> diffusers.UNet2DModel:
    return diffusers.UNet2DModel(
        sample_size=shape[-1], in_channels=shape[0], out_channels=shape[0], layers_per_block=1, norm_num_groups=8,
        block_out_channels=(width, 2 * width, 2 * width), num_class_embeds=classes or None,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def _count(net: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def seconds(call: Callable[[], None]) -> float:
    """Returns how long it takes."""
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        call()
    return time.perf_counter() - begin


def main() -> None:
    """Lets all take turns, prints the ratios, and writes them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    for name, usual in (("n", 2048), ("threads", 1), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    words = parser.parse_args()
    set_threads(words.threads)
    model = Model.load(words.run)
    other, theirs = pipeline(model, words.n)
    ways = {"synth": synth(words.run, words.n, words.threads), "bare": bare(model, words.n), "diffusers": other}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(words.rounds):
        for name in sorted(ways, reverse=turn % 2 == 1):
            times[name].append(seconds(ways[name]))
    pairs = {name: zip(times["synth"], times[name], strict=True) for name in ("bare", "diffusers")}
    ratios = {name: statistics.median(b / a for a, b in pair) for name, pair in pairs.items()}
    pace = {name: words.n / statistics.median(values) for name, values in times.items()}
    ours = _count(model.bundle.flow_map.net)
    for name, value in pace.items():
        print(f"{name:>9}: {value:,.0f} samples/s")
    print(
        f"cmm synth makes {ratios['bare']:.2f} of the bare network's samples/s, {ratios['diffusers']:.2f} of diffusers'"
    )
    print(f"parameters: {ours:,} here, {theirs:,} of diffusers' network")
    record = {
        "n": words.n, "threads": words.threads, "shape": list(model.bundle.card.spec.shape), "parameters": [ours, theirs],
        "samples_per_s": pace, "ratios": ratios, "seconds": times, "machine": describe_machine(), "commit": commit(),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
