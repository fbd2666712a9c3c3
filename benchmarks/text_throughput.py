r"""Characters per second in a few network calls, against an autoregressive network of as many parameters.

The other one, which draws a character a call, is the evaluation's own. It is recurrent, so that its state is its cache, and
hardly trained, which its speed does not depend on. Both draw the same number of texts at once and take turns in one
process, on the same threads; a ratio is the median over the rounds of the map's characters per second over the other's.

    python benchmarks/text_throughput.py RUN [--quick]
"""

import argparse
import json
import statistics
import time
import torch

from cm_multimodal.evaluation.protocol import commit
from cm_multimodal.generation.sampling import collect, make_plan
from cm_multimodal.machine import describe_machine, set_threads
from cm_multimodal.model import Model
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from modalities.text.language import THREADS, Language
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "text_throughput.json"
CALLS, TEXTS, ROUNDS = (1, 2, 4, 8, 32), (1, 16, 256), 5


def seconds(draw: Callable[[], object]) -> float:
    """Returns how long it takes."""
    begin = time.perf_counter()
    draw()
    return time.perf_counter() - begin


def drawing(model: Model, texts: int, calls: int) -> Callable[[], object]:
    """Returns what draws so many texts at once in so many calls."""
    bundle = replace(model.bundle, card=replace(model.bundle.card, chunk=texts))
    return partial(collect, bundle, make_plan(bundle, texts, calls))


def race(model: Model, other: Language, rounds: int) -> list[dict[str, Any]]:
    """Lets both take turns, and returns a row for each number of texts and of calls."""
    length, rows = model.bundle.card.spec.shape[0], []
    for texts in TEXTS:
        ways = {calls: drawing(model, texts, calls) for calls in CALLS} | {0: partial(other.sample, texts, length, 0)}
        times: dict[int, list[float]] = {calls: [] for calls in ways}
        for draw in ways.values():
            draw()
        for turn in range(rounds):
            for calls in sorted(ways, reverse=turn % 2 == 1):
                times[calls].append(seconds(ways[calls]))
        pace = {calls: texts * length / statistics.median(times[calls]) for calls in ways}
        for calls in CALLS:
            ratio = statistics.median(b / a for a, b in zip(times[calls], times[0], strict=True))
            rows.append({"texts": texts, "calls": calls, "characters_per_s": [pace[calls], pace[0]], "ratio": ratio})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a run of characters")
    parser.add_argument("--quick", action="store_true", help="one round: shows that it runs, says little of speed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write the numbers")
    words = parser.parse_args()
    set_threads(THREADS)
    torch.set_grad_enabled(False)
    model = Model.load(words.run)
    size = sum(weight.numel() for weight in model.bundle.flow_map.parameters())
    other = Language(["".join(map(chr, range(32, 127))) * 2], parameters=size)
    sizes = {"map": size, "other": sum(weight.numel() for weight in other.net.parameters())}
    rows = race(model, other, 1 if words.quick else ROUNDS)
    record = {"parameters": sizes, "length": model.bundle.card.spec.shape[0], **describe_machine(), "commit": commit()}
    words.out.parent.mkdir(parents=True, exist_ok=True)
    words.out.write_text(json.dumps({"protocol": record, "rows": rows}, indent=1) + "\n")
    for row in rows:
        ours, others = row["characters_per_s"]
        print(
            f"{row['texts']:4} texts in {row['calls']:2} calls: {ours:9,.0f} characters/s, {row['ratio']:5.2f} times "
            f"the autoregressive network's {others:,.0f}"
        )


if __name__ == "__main__":
    main()
