r"""Checkpoints that exist whole or not at all.

A checkpoint is a folder `step-<samples>`: a bundle (see :mod:`cm_multimodal.bundle`) with the training state in
`training.pt` beside it. It is written under another name, each file synced, the manifest with sizes and checksums last;
then it is renamed. A folder without a manifest that fits its files is not a checkpoint.
"""

__all__ = ["Checkpoint", "best", "check", "latest", "load_state", "place", "prune", "save", "set_aside"]

import contextlib
import hashlib
import json
import math
import os
import shutil
import torch

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor
from typing import Any

from ..bundle import CARD, WEIGHTS, Card, write_bundle
from ..errors import DataError, Interrupted, UsageError, UserError
from ..files import open_regular, read_text, sync

MANIFEST, STATE, FORMAT = "manifest.json", "training.pt", 2
PLACES = "step-*[0-9]"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files fit its manifest.

    Arguments:
        folder: Where it lies.
        samples: The training samples seen.
        score: The held-out loss of its averaged weights; infinite where it was not measured.
    """

    folder: Path
    samples: int
    score: float = math.inf


def save(
    root: Path,
    samples: int,
    card: Card,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
    score: float = math.inf,
) -> Checkpoint:
    """Writes a checkpoint under `root`, reads it again, and returns it; whatever goes wrong, what was there before stays.

    Arguments:
        root: The folder of all checkpoints of a run.
        samples: The training samples seen.
        card: What the map is.
        weights: Its averaged weights.
        state: The training state: tensors, numbers, and mappings and lists of them.
        score: The held-out loss.

    Raises:
        DataError: It cannot be written.
    """
    final = place(root, samples)
    part = root / f"{final.name}.tmp"
    shutil.rmtree(part, ignore_errors=True)
    try:
        write_bundle(card, weights, part)
        torch.save(dict(state), part / STATE)
        files = {name: _entry(part / name) for name in (CARD, WEIGHTS, STATE)}
        measured = score if math.isfinite(score) else None
        manifest: dict[str, Any] = {"format": FORMAT, "samples": samples, "score": measured, "files": files}
        manifest["checksum"] = _checksum(manifest)
        for file in part.iterdir():
            sync(file)
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for file in (part / MANIFEST, part):
            sync(file)
        if final.exists():
            shutil.rmtree(final)
        os.replace(part, final)
        sync(root)
        return check(final)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise DataError(
            f"The checkpoint '{final}' could not be written: {error}. Earlier ones are untouched; the same command goes "
            "on from the newest of them."
        ) from error


def latest(root: Path, report: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """Returns the newest checkpoint whose files are all right, and reports each newer one that is not."""
    for folder in sorted(root.glob(PLACES), reverse=True):
        try:
            return check(folder)
        except DataError as error:
            report(f"{error} It is not used.")
    return None


def best(root: Path) -> Checkpoint | None:
    """Returns the checkpoint with the lowest held-out loss, going by the manifests."""
    found = []
    for folder in sorted(root.glob(PLACES)):
        with contextlib.suppress(UserError):
            found.append(_described(folder))
    return min((each for each in found if math.isfinite(each.score)), key=lambda each: each.score, default=None)


def place(root: Path, samples: int) -> Path:
    """Returns where the checkpoint of a number of samples lies."""
    return root / f"step-{samples:012d}"


def check(folder: Path) -> Checkpoint:
    """Holds a checkpoint's files against its manifest.

    Raises:
        DataError: Something is missing, or differs from the manifest.
        UsageError: It was written by a newer version of the program.
    """
    return _described(folder, whole=True)


def _described(folder: Path, whole: bool = False) -> Checkpoint:
    """Returns what a manifest describes, its files held against it or not."""
    try:
        manifest = _manifest(folder)
        for name in (CARD, WEIGHTS, STATE) if whole else ():
            if _entry(folder / name) != manifest["files"][name]:
                raise DataError(f"The checkpoint '{folder}' is damaged: '{name}' is not what was written.")
        if len(manifest["files"]) != 3:
            raise ValueError("it names other files than a checkpoint's")
        score = manifest["score"]
        return Checkpoint(folder, int(manifest["samples"]), math.inf if score is None else float(score))
    except UserError:
        raise
    except Exception as error:  # what a hostile file makes of a reader is open
        raise DataError(
            f"The checkpoint '{folder}' is damaged: its manifest or a file cannot be read ({error})."
        ) from error


def _manifest(folder: Path) -> dict[str, Any]:
    """Returns a checkpoint's manifest in today's format."""
    manifest = json.loads(read_text(folder / MANIFEST))
    version = manifest["format"]
    if isinstance(version, int) and version > FORMAT:
        raise UsageError(
            f"The checkpoint '{folder}' is of format {version}, and this program reads formats up to {FORMAT}: it was "
            "written by a newer version. Install that one, or give the run another name=."
        )
    while version != FORMAT:
        manifest = MIGRATIONS[version](manifest)
        version = manifest["format"]
    if manifest["checksum"] != _checksum(manifest):
        raise ValueError("it is not what was written")
    return manifest


def _checksum(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in sorted(manifest.items()) if key != "checksum"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def without_score(manifest: dict[str, Any]) -> dict[str, Any]:
    """From format 1, which did not measure the held-out loss and had no checksum of its own."""
    new = {**manifest, "format": 2, "score": None}
    return {**new, "checksum": _checksum(new)}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: without_score}


def load_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Reads the training state, to the CPU, without running anything in it.

    Raises:
        DataError: It is not a training state.
    """
    file = checkpoint.folder / STATE
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it holds no mapping")
        return state
    except Interrupted:
        raise
    except Exception as error:  # what a hostile file makes of a reader is open
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"The training state '{file}' cannot be read, and nothing in it was run: {reason}") from error


def set_aside(root: Path, used: Checkpoint | None) -> None:
    """Renames what is newer than the checkpoint in use, and damaged: `step-….damaged`."""
    for folder in root.glob(PLACES):
        if used is None or folder.name > used.folder.name:
            shutil.rmtree(folder.with_suffix(".damaged"), ignore_errors=True)
            folder.rename(folder.with_suffix(".damaged"))


def prune(root: Path, keep: int, best: str | None = None) -> None:
    """Removes all but the newest checkpoints and the best, and what unfinished saves left; a failure to is no harm."""
    old = [folder for folder in sorted(root.glob(PLACES))[:-keep] if folder.name != best]
    for folder in [*old, *root.glob("step-*.tmp")]:
        shutil.rmtree(folder, ignore_errors=True)


def _entry(file: Path) -> dict[str, Any]:
    with open_regular(file) as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
