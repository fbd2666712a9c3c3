r"""cmm train: trains a run, or goes on with it."""

__all__ = ["run"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..training.run import train
from ..training.world import find_world


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    folder = Path(config["runs"]) / (config["name"] or config["modality"])
    train(config, folder)
    if find_world().main:
        print(f"{folder}: preview in {folder / 'samples'}; next: cmm sample run={folder} steps=2")
