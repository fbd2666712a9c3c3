r"""cmm tune-steps: searches where a few steps should lie, by the run's own metric."""

__all__ = ["run"]

import dataclasses
import json
import statistics

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..evaluation.tuning import tune
from ..files import write_text
from ..values import fits
from .evaluate import ground_of
from .source import folder_of, load

HOW = ("sampler", "solver", "gamma", "guidance", "interval", "path")


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    for key in ("steps", "evaluations"):
        if not (fits(config[key], int) and config[key] >= 1):
            raise UsageError(f"{key}={config[key]} is not possible; it is a whole number from 1.")
    model = load(config)
    ground, _ = ground_of(config, model)
    how = {key: config[key] for key in HOW}
    tuned = tune(model, ground, config["steps"], config["evaluations"], lambda line: print(line, flush=True), **how)
    method = config["solver"]["name"] or config["sampler"] or "map"
    usual = folder_of(config) / "tuned" / f"{method}-steps{config['steps']}.json"
    out = Path(config["out"]).expanduser() if config["out"] else usual
    out.parent.mkdir(parents=True, exist_ok=True)
    seeds = list(ground.settings.get("seeds", (0,)))
    protocol = {"n": ground.n, "seeds": seeds, "features": ground.extractor, "steps": config["steps"], **how}
    write_text(out, json.dumps({**dataclasses.asdict(tuned), "protocol": protocol}, indent=1) + "\n")
    means = {name: statistics.fmean(values) for name, values in tuned.scores.items()}
    print(f"Fréchet to the test split: {means['usual']:.3f} with the usual grid, {means['tuned']:.3f} with this one.")
    print(f"{out}; use it with grid={out}")
