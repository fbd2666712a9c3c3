r"""Many pictures in one file: idx (the MNIST layout) and .npz of encoded pictures.

An idx file is four bytes (0, 0, type, number of dimensions), the sides as big-endian 32-bit numbers, then the values. A
packed file holds the arrays `blob` (all JPEG or PNG files end to end), `offsets` (where each begins, and the end of the
last) and `labels`.

A header is believed only up to `max_bytes`, and only if the file holds what it promises, no less and no more.
"""

__all__ = ["Packed", "read_idx", "read_packed"]

import gzip
import io
import math
import numpy as np
import zipfile
import zlib

from cm_multimodal.errors import DataError
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO

from .pictures import Opener

DAMAGE = (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error)
BYTES = 8  # the type of an idx file of unsigned bytes
PIECE_BYTES = 2**24


@dataclass(frozen=True)
class Packed:
    """Encoded pictures.

    Arguments:
        openers: What opens each of them.
        labels: Their classes, with shape (N,).
    """

    openers: tuple[Opener, ...]
    labels: np.ndarray


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(f"'{file}' is damaged: {str(error).rstrip('.')}. Copy or download it again.")


def _idx_shape(stream: IO[bytes] | gzip.GzipFile, dimensions: int, max_bytes: int) -> tuple[int, ...]:
    header = stream.read(4 + 4 * dimensions)
    if header[:4] != bytes([0, 0, BYTES, dimensions]) or len(header) < 4 + 4 * dimensions:
        raise ValueError(f"it does not begin like an idx file of bytes in {dimensions} dimensions")
    shape = tuple(int(side) for side in np.frombuffer(header, ">u4", offset=4))
    if not 0 < math.prod(shape) <= max_bytes:
        raise ValueError(f"its header promises {' x '.join(map(str, shape))} bytes (data.max_bytes={max_bytes})")
    return shape


def _read(stream: IO[bytes] | gzip.GzipFile, count: int) -> bytearray:
    """Returns up to `count` bytes; memory grows with what is there, not with what was promised."""
    content = bytearray()
    while piece := stream.read(min(PIECE_BYTES, count - len(content))):
        content += piece
    return content


def read_idx(file: Path, dimensions: int, max_bytes: int) -> np.ndarray:
    """Returns the unsigned bytes of an idx file, plain or compressed (.gz), in the shape of its header.

    Raises:
        DataError: The file is damaged, or larger than `max_bytes`.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            shape = _idx_shape(stream, dimensions, max_bytes)
            content = _read(stream, math.prod(shape) + 1)
        if len(content) != math.prod(shape):
            held = "more" if len(content) > math.prod(shape) else f"{len(content):,}"
            raise ValueError(f"its header promises {math.prod(shape):,} bytes, and it holds {held}")
    except DAMAGE as error:
        raise _damaged(file, error) from error
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_packed(file: Path, max_bytes: int) -> Packed:
    """Returns the encoded pictures of an .npz file and their labels; nothing in it is unpickled.

    Raises:
        DataError: The file is damaged, or larger than `max_bytes`.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(info.file_size for info in archive.infolist()) > max_bytes:
                raise ValueError(f"it unpacks to more than data.max_bytes={max_bytes}")
        with np.load(file, allow_pickle=False) as arrays:
            blob, offsets, labels = arrays["blob"].tobytes(), arrays["offsets"], arrays["labels"]
        if offsets.shape != (labels.size + 1,) or {offsets.dtype.kind, labels.dtype.kind} - set("iu"):
            raise ValueError("its pictures and labels do not belong together")
    except DAMAGE as error:
        raise _damaged(file, error) from error
    return Packed(tuple(partial(io.BytesIO, blob[start:end]) for start, end in pairwise(offsets.tolist())), labels)
