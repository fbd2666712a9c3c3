r"""cmm benchmark: measures a suite of cases."""

__all__ = ["run"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import compose, suite_settings
from ..errors import UsageError, nearest
from ..evaluation.benchmark import run_suite
from ..evaluation.suites import SUITES
from ..machine import free_cores, set_threads
from ..training.settings import read_settings
from ..values import fits


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    name = str(config["suite"])
    if name not in SUITES:
        raise UsageError(f"There is no suite '{name}'; {nearest(name, SUITES)}")
    kind = SUITES[name]
    group = {**suite_settings(name), **config["settings"]}
    suite = kind(read_settings(kind.kind, group, "settings"), compose, config["only"])
    workers = kind.workers if config["workers"] is None else config["workers"]
    if not fits(workers, int) or workers < 1:
        raise UsageError(f"workers={workers} is not possible; it is a whole number from 1.")
    set_threads(config["threads"] or free_cores())
    out = Path(config["out"]).expanduser()
    run_suite(suite, out, min(workers, free_cores()))
    print((out / f"{name}.md").read_text())
    print(f"{out / name}.json, {out / name}.md, {out / name}.png")
