r"""Archives of arrays, as `cmm sample format=npz` writes one."""

__all__ = ["NpzFormat"]

import numpy as np

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...generation.sampling import Samples
from .base import Packed, Piece, write_npz


class NpzFormat(Packed):
    """Archives of arrays."""

    suffix = "npz"

    def encode(self, samples: Samples, folder: Path) -> Piece:
        return _Arrays(self.modality.arrays(samples.raw), samples)

    def pack(self, pieces: Sequence[Piece], file: Path) -> None:
        first = pieces[0].arrays
        joined = {key: _joined([piece.arrays[key] for piece in pieces]) for key in first}
        write_npz(joined, Samples.joined([piece.samples for piece in pieces]), self.seed, file)


@dataclass(frozen=True)
class _Arrays:
    arrays: Mapping[str, Any]
    samples: Samples

    def __len__(self) -> int:
        return len(self.samples.raw)


def _joined(values: Sequence[Any]) -> Any:
    """Returns arrays one after the other; what is no array is the same in all of them."""
    return np.concatenate(values) if isinstance(values[0], np.ndarray) and values[0].ndim else values[0]
