r"""cmm evaluate: scores a run or a bundle against its test set."""

__all__ = ["run"]

from collections.abc import Mapping
from pathlib import Path
from rich.console import Console
from typing import Any

from ..errors import DataError, UsageError
from ..evaluation.protocol import Protocol
from ..evaluation.report import table, write_report
from ..evaluation.runner import evaluate, real_row, reference
from ..generation.sampling import make_plan
from ..training.records import read_config
from ..values import fits
from .source import folder_of, load

WIDTH = 100


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    folder, model = folder_of(config), load(config)
    config = {**config, "seeds": None if config["seeds"] is None else whole_numbers("seeds", config)}
    whole = read_config(folder) if config["run"] is not None else {}
    data = {**_group(whole, "data"), **config["data"]}
    settings = {
        **_group(whole, "evaluation"),
        **{k: config[k] for k in ("n", "seeds", "features") if config[k] is not None},
    }
    ground = reference(model.bundle, data, settings)
    how = {key: config[key] for key in ("guidance", "interval")}
    make_plan(model.bundle, ground.n, solver=None, **how)  # says at once what cannot be
    protocol = Protocol.of(model.bundle, ground, data, str(model.device), how)
    rows = [real_row(model, ground)]
    for row in evaluate(model, ground, whole_numbers("steps", config), whole_numbers("diagonal", config), **how):
        rows.append(row)
        print(f"{row.method}, {row.steps} steps, seed {row.seed}: {row.sentence()}", flush=True)
    words = [how["guidance"], *(how["interval"] or ())] if how["guidance"] != 1 else []
    usual = "-".join(["evaluation", *(["guidance"] if words else []), *(f"{word:g}" for word in words)])
    out = Path(config["out"]).expanduser() if config["out"] else folder / usual
    write_report(protocol, rows, out)
    Console(width=max(Console().width, WIDTH)).print(table(rows, protocol))
    print(f"{out / 'metrics.json'}, {out / 'quality.png'}")


def _group(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
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
