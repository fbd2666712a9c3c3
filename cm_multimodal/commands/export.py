r"""cmm export: writes the bundle to share."""

__all__ = ["run"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..training.run import export


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    if config["run"] is None:
        raise UsageError("Say which run to export: run=runs/NAME.")
    folder = Path(config["run"]).expanduser()
    out = Path(config["out"]).expanduser() if config["out"] else folder / "bundle"
    card = export(folder, out, config["ema_std"])
    print(f"{out}: {card.objective} on {card.modality}, {card.samples_seen:,} samples seen; use it with bundle={out}")
