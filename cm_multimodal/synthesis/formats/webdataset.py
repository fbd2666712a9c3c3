r"""Tar archives that WebDataset streams: the files of a sample lie side by side under its number.

References:
    | WebDataset: https://github.com/webdataset/webdataset
"""

__all__ = ["WebDatasetFormat"]

import io
import tarfile

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ...generation.sampling import Samples
from .base import Packed, Piece


class WebDatasetFormat(Packed):
    """Tar archives; a sample's files lie side by side under its number."""

    suffix = "tar"

    def encode(self, samples: Samples, folder: Path) -> Piece:
        labels = samples.label.tolist() if self.classes else [None] * len(samples.raw)
        return [(*content, label) for content, label in zip(self.contents(samples), labels, strict=True)]

    def pack(self, pieces: Sequence[Piece], file: Path) -> None:
        with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content, label in (row for piece in pieces for row in piece):
                _add(archive, name, content)
                if label is not None:
                    _add(archive, f"{PurePosixPath(name).stem}.cls", str(label).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
