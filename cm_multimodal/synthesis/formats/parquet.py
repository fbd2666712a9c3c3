r"""Columnar files, as many data sets are shared: the bytes of each file, or the text, with its class; written by pyarrow.

References:
    | Hugging Face datasets: pictures and sounds are a struct of `bytes` and `path`
"""

__all__ = ["ParquetFormat"]

import importlib.util

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...generation.sampling import Samples
from .base import Packed, Piece


class ParquetFormat(Packed):
    """Columnar files, as many data sets are shared."""

    suffix = "parquet"

    def check(self) -> None:
        if not importlib.util.find_spec("pyarrow"):
            raise UsageError(
                "format=parquet is written by pyarrow, which is not installed: type 'pip install pyarrow'."
            )

    def encode(self, samples: Samples, folder: Path) -> Piece:
        if "txt" in self.modality.kinds:
            media: list[Any] = self.modality.arrays(samples.raw)["x"].tolist()
        else:
            media = [{"bytes": content, "path": name} for name, content in self.contents(samples)]
        return list(zip(media, samples.label.tolist(), samples.sample_id.tolist(), strict=True))

    def pack(self, pieces: Sequence[Piece], file: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        rows = [row for piece in pieces for row in piece]
        media, labels, numbers = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
        columns = {self.modality.name: media, "label": labels, "sample_id": numbers}
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
