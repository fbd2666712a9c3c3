r"""A file for each sample, in a folder for each class: what `data=folder` reads, and most programs besides."""

__all__ = ["FolderFormat"]

from collections.abc import Sequence
from pathlib import Path

from ...generation.sampling import Samples
from .base import DATA, Format, Piece


class FolderFormat(Format):
    """A file each, in a folder for each class."""

    def encode(self, samples: Samples, folder: Path) -> Piece:
        files = self.modality.write(samples.raw, self.names(samples), folder / DATA, self.kind)
        return [file.relative_to(folder).as_posix() for file in files]

    def close(self, pieces: Sequence[Piece], shard: int, folder: Path) -> list[str]:
        return [file for piece in pieces for file in piece]
