"""Draws the editing figures of the README: in-painted and interpolated samples in one, two and four network calls.

    python benchmarks/editing_figure.py FILE KEY=VALUE...

The keys are those of `cmm edit`: run=RUN, or bundle=BUNDLE with its data; mask=, between=, n=, seed=.
"""

import sys

from cm_multimodal.commands.evaluate import data_of
from cm_multimodal.commands.source import load
from cm_multimodal.config import compose
from cm_multimodal.generation.editing import edit, interpolate
from cm_multimodal.generation.sampling import make_plan
from pathlib import Path

CALLS = {1: "1 call", 2: "2 calls", 4: "4 calls"}


def main(file: Path, words: list[str]) -> Path:
    """Writes the figure, and returns its file."""
    config = compose("edit", words)
    model, n, seed = load(config), config["n"], config["seed"]
    bundle, device = model.bundle, model.device
    given = bundle.modality.dataset(data_of(config)).test
    rows = {"real": given.raw[:n]}
    for calls, name in CALLS.items():
        plan = make_plan(bundle, n, calls, seed, sampler="renoise")
        done = edit(bundle, plan, given, bundle.modality.measurement("inpaint", config), device)
        rows |= {"known": done.known, name: done.raw}
    for calls, name in CALLS.items():
        rows[f"a walk, {name}"] = interpolate(bundle, make_plan(bundle, n, calls, seed), config["between"], device)
    return bundle.modality.preview(rows, file)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), sys.argv[2:]))
