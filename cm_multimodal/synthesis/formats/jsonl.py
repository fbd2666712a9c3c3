r"""A text a line, as JSON, with its class and its number."""

__all__ = ["JsonLinesFormat"]

import json

from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError
from ...generation.sampling import Samples
from .base import Packed, Piece


class JsonLinesFormat(Packed):
    """A text a line, as JSON."""

    suffix = "jsonl"

    def check(self) -> None:
        if "txt" not in self.modality.kinds:
            raise UsageError(f"format=jsonl holds texts; samples of the modality '{self.modality.name}' are none.")

    def encode(self, samples: Samples, folder: Path) -> Piece:
        texts, numbers = self.modality.arrays(samples.raw)["x"].tolist(), samples.sample_id.tolist()
        rows = [{"text": text, "sample_id": number} for text, number in zip(texts, numbers, strict=True)]
        labels = samples.label.tolist()
        return [
            {**row, "label": label, "class": self.classes[label]} if self.classes else row
            for row, label in zip(rows, labels, strict=True)
        ]

    def pack(self, pieces: Sequence[Piece], file: Path) -> None:
        lines = (json.dumps(row, ensure_ascii=False) for piece in pieces for row in piece)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
