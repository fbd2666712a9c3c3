r"""Texts to read: a file each, and a sheet of the same samples in different numbers of calls."""

__all__ = ["sheet", "write_files"]

from cm_multimodal.files import replaced
from collections.abc import Mapping
from pathlib import Path
from torch import Tensor

from .texts import to_texts

SAMPLES = 8
BREAK = " \N{RETURN SYMBOL} "


def write_files(raw: Tensor, names: list[str], folder: Path) -> list[Path]:
    """Writes one text file for each sample, and returns the files.

    Arguments:
        raw: Texts as bytes, with shape (N, W).
        names: Their names without the suffix; a slash in it makes a sub-folder.
        folder: Where to write them.
    """
    files = [folder / f"{name}.txt" for name in names]
    for text, file in zip(to_texts(raw), files, strict=True):
        _save(f"{text}\n", file)
    return files


def sheet(rows: Mapping[str, Tensor], file: Path) -> Path:
    """Writes a text file: for each of the first samples what it is in every row, a line each.

    Arguments:
        rows: Texts by the name of the row, as bytes, with shape (N, W).
        file: Where to write it, without the suffix.
    """
    _save(page(rows), file.with_suffix(".txt"))
    return file.with_suffix(".txt")


def page(rows: Mapping[str, Tensor]) -> str:
    """Returns the text of such a sheet."""
    texts = {name: [BREAK.join(text.splitlines()) for text in to_texts(raw[:SAMPLES])] for name, raw in rows.items()}
    width, most = max((len(name) for name in texts), default=0), max((len(row) for row in texts.values()), default=0)
    blocks = [
        "".join(f"{name:>{width}}  {row[number]}\n" for name, row in texts.items() if number < len(row))
        for number in range(most)
    ]
    return "\n".join(blocks)


def _save(text: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file, durable=False) as part:
        part.write_text(text, encoding="utf-8")
