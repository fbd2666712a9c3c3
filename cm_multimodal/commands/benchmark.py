r"""cmm benchmark: measures a suite of cases."""

__all__ = ["run"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import compose, suite_settings
from ..errors import UsageError, nearest
from ..evaluation.benchmark import run_suite
from ..evaluation.suites import SUITES
from ..evaluation.tables import wanted_names
from ..machine import free_cores, set_threads
from ..training.settings import read_settings
from ..values import fits


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    name = str(config["suite"])
    if name not in SUITES:
        raise UsageError(f"There is no suite '{name}'; {nearest(name, SUITES)}")
    kind = SUITES[name]
    suite = kind(read_settings(kind.kind, suite_settings(name, config["settings"]), "settings"), compose)
    workers, threads = config["workers"], config["threads"]
    for key, value in {"workers": workers, "threads": threads}.items():
        if value is not None and not (fits(value, int) and value >= 1):
            raise UsageError(f"{key}={value} is not possible; it is a whole number from 1.")
    if kind.alone and workers not in (None, 1):
        raise UsageError(f"workers={workers} is not possible: '{name}' has the machine to itself, one case at a time.")
    set_threads(threads or free_cores())
    out = Path(config["out"]).expanduser()
    only = wanted_names(config["only"], suite.kinds, suite.choices())
    run_suite(suite, out, only, min(workers or kind.workers, free_cores()))
    print((out / f"{name}.md").read_text())
    print(f"{out / name}.json, {out / name}.md, {out / name}.png, {out / name}.html")
