r"""What a form of files has to say."""

__all__ = ["DATA", "Format", "Packed", "Piece", "folder_of_class", "write_npz"]

import hashlib
import numpy as np
import tempfile

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...files import replaced
from ...generation.sampling import Samples
from ...modality import Modality

DATA = "data"
RESERVED = '%/\\:*?"<>|'  # what some file system, or the escape itself, would misread
LONGEST = 200  # bytes of a folder's name, for which most file systems have 255
Piece = Any


@dataclass(frozen=True)
class Format(ABC):
    """A form of files.

    Arguments:
        modality: What the samples are.
        kind: The suffix of their files.
        classes: The names of their classes.
        seed: The seed that they were drawn with.
    """

    modality: Modality
    kind: str
    classes: tuple[str, ...]
    seed: int

    @abstractmethod
    def encode(self, samples: Samples, folder: Path) -> Piece:
        """Makes of a chunk of samples what `close` puts together; chunks may be encoded in threads side by side."""

    @abstractmethod
    def close(self, pieces: Sequence[Piece], shard: int, folder: Path) -> list[str]:
        """Writes a shard, and returns the files of its samples, in their order, relative to the folder."""

    def check(self) -> None:  # noqa: B027 (most need nothing)
        """Raises a UsageError where this form does not suit the samples, or something is not installed."""

    def names(self, samples: Samples) -> list[str]:
        """Returns the names of samples, with the folder of their class."""
        places = [f"{folder_of_class(self.classes[label])}/" if label >= 0 else "" for label in samples.label.tolist()]
        return [f"{place}{number:06d}" for place, number in zip(places, samples.sample_id.tolist(), strict=True)]

    def contents(self, samples: Samples) -> list[tuple[str, bytes]]:
        """Returns the names, without a folder, and the bytes of the files of samples."""
        names = [f"{number:06d}" for number in samples.sample_id.tolist()]
        with tempfile.TemporaryDirectory() as folder:
            files = self.modality.write(samples.raw, names, Path(folder), self.kind)
            return [(file.name, file.read_bytes()) for file in files]


class Packed(Format):
    """All samples of a shard in one file.

    Attributes:
        suffix: That of the file.
    """

    suffix: str

    @abstractmethod
    def pack(self, pieces: Sequence[Piece], file: Path) -> None:
        """Writes the file of a shard."""

    def close(self, pieces: Sequence[Piece], shard: int, folder: Path) -> list[str]:
        name, count = PurePosixPath(DATA, f"{shard:05d}.{self.suffix}"), sum(len(piece) for piece in pieces)
        if count:
            (folder / DATA).mkdir(exist_ok=True)
            with replaced(folder / name) as part:
                self.pack(pieces, part)
        return [str(name)] * count


def folder_of_class(name: str) -> str:
    """Returns the folder of a class: its name, in which what a file system would misread is escaped as by hexadecimal."""
    wrong = [c in RESERVED or not c.isprintable() for c in name]
    if not name.strip() or name.startswith("."):
        wrong[:1] = [True]
    whole = "".join(_escaped(c) if bad else c for c, bad in zip(name, wrong, strict=False)) or "%00"
    if len(whole.encode()) <= LONGEST:
        return whole
    return f"{whole.encode()[:LONGEST].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _escaped(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", errors="replace"))


def write_npz(arrays: Mapping[str, Any], samples: Samples, seed: int, file: Path) -> None:
    """Writes arrays of samples, with their classes and numbers, as a compressed archive without objects."""
    label, number = samples.label.numpy(), samples.sample_id.numpy()
    with replaced(file) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays, label=label, sample_id=number, seed=np.int64(seed))
