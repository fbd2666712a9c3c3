r"""Snapshots of power-function averages, kept for reconstruction after training."""

__all__ = ["forget_snapshots", "read_snapshots", "write_snapshots"]

import safetensors.torch

from collections.abc import Mapping, Sequence
from pathlib import Path
from safetensors import SafetensorError
from torch import Tensor

from ..ema import Average, PowerFunction, Snapshot
from ..errors import DataError
from ..files import write_tensors


def write_snapshots(
    averages: Sequence[Average], weights: Sequence[Mapping[str, Tensor]], seen: int, folder: Path
) -> None:
    """Writes the power-function averages, with their whole weights; a run with one width keeps none."""
    pairs = zip(averages, weights, strict=True)
    widths = [(average.decay.std, own) for average, own in pairs if isinstance(average.decay, PowerFunction)]
    if len(widths) < 2:
        return
    folder.mkdir(exist_ok=True)
    for std, own in widths:
        write_tensors(folder / f"{seen:012d}-{std}.safetensors", own)


def forget_snapshots(folder: Path, after: int) -> None:
    """Removes the snapshots that a resumed run will write again, or not at all."""
    for file in folder.glob("*.safetensors"):
        seen = file.stem.partition("-")[0]
        if seen.isdecimal() and int(seen) > after:
            file.unlink()


def read_snapshots(folder: Path, until: int) -> list[Snapshot]:
    """Reads the snapshots up to a number of samples.

    Raises:
        DataError: A file is none.
    """
    shots = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            seen, std = file.stem.split("-")
            if int(seen) <= until:
                shots.append(Snapshot(float(std), int(seen), safetensors.torch.load_file(file)))
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"The snapshot '{file}' cannot be read: {error}. Remove it.") from error
    return shots
