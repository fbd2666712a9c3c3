r"""cmm evaluate: scores a run or a bundle against its test set."""

__all__ = ["data_of", "ground_of", "labels_of", "run"]

from collections.abc import Mapping
from pathlib import Path
from rich.console import Console
from typing import Any

from ..errors import DataError, UsageError
from ..evaluation.protocol import Protocol
from ..evaluation.reference import Reference, reference
from ..evaluation.report import tables, write_report
from ..evaluation.runner import EULER, baselines, evaluate, real_row, roads
from ..model import Model
from ..training.records import read_config
from ..values import fits
from .source import decoder_of, folder_of, load

WIDTH = 100
HOW = ("sampler", "gamma", "guidance", "interval", "grid")
# what a verb may set of the `evaluation` group
PROTOCOL = ("n", "seeds", "features", "feature_weights", "also", "language_model", "baselines")


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    folder, model = folder_of(config), load(config)
    ground, data = ground_of(config, model)
    how, solver = {key: config[key] for key in HOW}, config["solver"]
    if not isinstance(solver, Mapping) or solver.get("name") is None:
        raise UsageError(f"solver={solver} follows no diagonal; name a solver: solver=euler.")
    counts = (whole_numbers("steps", config), whole_numbers("diagonal", config))
    roads(model, ground, *counts, solver, **how)
    protocol = Protocol.of(
        model.bundle, ground, data, str(model.device), {**how, "solver": solver, "decoder": decoder_of(config)}
    )
    rows = []
    for row in evaluate(model, ground, *counts, solver, **how):
        rows.append(row)
        print(f"{row.method}, {row.steps} steps, seed {row.seed}: {row.sentence()}", flush=True)
    size = sum(weight.numel() for weight in model.bundle.flow_map.parameters())
    others = baselines(ground, size) if ground.settings.get("baselines") else []
    rows = [real_row(ground), *others, *rows]
    out = Path(config["out"]).expanduser() if config["out"] else folder / _usual(protocol)
    write_report(protocol, rows, out)
    for table in tables(rows, protocol):
        Console(width=max(Console().width, WIDTH)).print(table)
    print(f"{out / 'metrics.json'}, {out / 'quality.png'}")


def _usual(protocol: Protocol) -> str:
    """Returns the name of a folder that says what differs from the usual way."""
    words = ["evaluation"]
    if protocol.guidance != 1:
        words += ["guidance", *(f"{number:g}" for number in (protocol.guidance, *(protocol.interval or ())))]
    if protocol.decoder is not None:
        words += ["decoder", protocol.decoder]
    if protocol.solver != EULER:
        words.append("-".join(str(value) for value in protocol.solver.values()))
    if protocol.sampler is not None:
        words += [protocol.sampler] if protocol.gamma is None else [f"gamma-{protocol.gamma:g}"]
    if protocol.grid is not None:
        words.append("grid")
        words += (
            [Path(protocol.grid).stem] if isinstance(protocol.grid, str) else [f"{ratio:g}" for ratio in protocol.grid]
        )
    return "-".join(words)


def ground_of(config: Mapping[str, Any], model: Model) -> tuple[Reference, Mapping[str, Any]]:
    """Returns what a verb's samples are held against, and the data settings: the run's own, unless others are given."""
    config = {**config, "seeds": None if config["seeds"] is None else whole_numbers("seeds", config)}
    given = {key: config[key] for key in PROTOCOL if config.get(key) is not None}
    data = data_of(config)
    return reference(model.bundle, data, {**_group(config, "evaluation"), **given}), data


def data_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the data settings of a verb: the run's own, in the place of which others may be given."""
    return {**_group(config, "data"), **config["data"]}


def labels_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns which classes a run was told, in the place of which others may be said, as of a bundle."""
    given = {key: value for key, value in config["labels"].items() if value is not None}
    if given and config["confidence"] is None:
        raise UsageError("labels= says what the classifier of confidence= is told; name a probability too.")
    return {**_group(config, "labels"), **given}


def _group(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    whole = read_config(folder_of(config)) if config["run"] is not None else {}
    group = whole.get(name, {})
    if not isinstance(group, Mapping):
        raise DataError(f"The run's configuration has no settings under '{name}', but {str(group)[:80]!r}.")
    return group


def whole_numbers(key: str, config: Mapping[str, Any]) -> list[int]:
    """Returns a list of whole numbers; one number is a list of one."""
    values = config[key] if isinstance(config[key], list) else [config[key]]
    if not all(fits(value, int) for value in values):
        raise UsageError(f"{key}={config[key]} is not possible; give whole numbers: '{key}=[1,2,4,8]'.")
    return values
