r"""Checkpoints that exist whole or not at all.

A checkpoint is a folder `step-<samples>`: a bundle (see :mod:`cm_multimodal.bundle`) with the training state in
`training.pt` beside it. It is written under another name, each file synced, the manifest with sizes and checksums last;
then it is renamed. A folder without a manifest that fits its files is not a checkpoint.
"""

__all__ = ["Checkpoint", "latest", "load_state", "prune", "save"]

import hashlib
import json
import os
import shutil
import torch

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor
from typing import Any

from ..bundle import Card, write_bundle
from ..errors import DataError

MANIFEST, STATE, FORMAT = "manifest.json", "training.pt", 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files fit its manifest.

    Arguments:
        folder: Where it lies.
        samples: The training samples seen.
    """

    folder: Path
    samples: int


def save(root: Path, samples: int, card: Card, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> Checkpoint:
    """Writes a checkpoint under `root`; whatever goes wrong, what was there before stays.

    Arguments:
        root: The folder of all checkpoints of a run.
        samples: The training samples seen.
        card: What the map is.
        weights: Its averaged weights.
        state: The training state: tensors, numbers, and mappings and lists of them.
    """
    final = root / f"step-{samples:012d}"
    part = root / f"{final.name}.tmp"
    shutil.rmtree(part, ignore_errors=True)
    try:
        write_bundle(card, weights, part)
        torch.save(dict(state), part / STATE)
        files = {file.name: _entry(file) for file in sorted(part.iterdir())}
        (part / MANIFEST).write_text(json.dumps({"format": FORMAT, "samples": samples, "files": files}, indent=1))
        for file in (*part.iterdir(), part):
            _sync(file)
        if final.exists():
            shutil.rmtree(final)
        os.replace(part, final)
        _sync(root)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise DataError(
            f"The checkpoint '{final}' could not be written: {error}. Earlier ones are untouched."
        ) from error
    return Checkpoint(final, samples)


def latest(root: Path, report: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """Returns the newest checkpoint whose files are all right, and reports each newer one that is not."""
    for folder in sorted(root.glob("step-*[0-9]"), reverse=True):
        try:
            return check(folder)
        except DataError as error:
            report(f"{error} It is not used.")
    return None


def check(folder: Path) -> Checkpoint:
    """Holds a checkpoint's files against its manifest.

    Raises:
        DataError: Something is missing, or differs from the manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise DataError(
                f"The checkpoint '{folder}' is of format {manifest['format']}; this program reads {FORMAT}."
            )
        for name, entry in manifest["files"].items():
            if _entry(folder / Path(name).name) != entry:
                raise DataError(f"The checkpoint '{folder}' is damaged: '{name}' is not what was written.")
        return Checkpoint(folder, int(manifest["samples"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"The checkpoint '{folder}' is damaged: its manifest or a file cannot be read ({error})."
        ) from error


def load_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Reads the training state, to the CPU, without running anything in it."""
    return torch.load(checkpoint.folder / STATE, map_location="cpu", weights_only=True)


def prune(root: Path, keep: int) -> None:
    """Removes all but the newest checkpoints, and what unfinished saves left."""
    for folder in [*sorted(root.glob("step-*[0-9]"))[:-keep], *root.glob("step-*.tmp")]:
        shutil.rmtree(folder, ignore_errors=True)


def _entry(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
