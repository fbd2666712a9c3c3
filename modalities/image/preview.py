r"""Pictures to look at: a labelled grid, and one PNG for each sample."""

__all__ = ["COLUMNS", "block", "enlarged", "factor", "grid", "save", "sheet", "write_files"]

import numpy as np

from cm_multimodal.files import replaced
from collections.abc import Mapping
from pathlib import Path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TARGET = 64  # pixels of a picture on the sheet, about
COLUMNS = 16  # a longer row goes on below
GAP, SPACE, MARGIN = 2, 10, 16  # between pictures, between rows, around the sheet
FONT_SIZE = 16
PAPER, INK = "#ffffff", "#30343b"


def enlarged(raw: Tensor, scale: int) -> list[Image.Image]:
    """Returns raw pictures, with shape (N, C, H, W), enlarged by a whole factor."""
    pixels = raw.detach().cpu().repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    return [Image.fromarray(one[0] if len(one) == 1 else np.moveaxis(one, 0, -1)) for one in pixels.numpy()]


def factor(raw: Tensor) -> int:
    """Returns the whole factor by which pictures, with shape (*, H, W), become about 64 pixels large."""
    return max(1, round(TARGET / max(raw.shape[-2:])))


def save(image: Image.Image, file: Path) -> Path:
    """Writes a PNG beside its place and renames it, so that nobody ever sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file, durable=False) as part:
        image.save(part, format="PNG")
    return file


def block(raw: Tensor, scale: int) -> Image.Image:
    """Lays raw pictures, with shape (N, C, H, W), side by side, in lines of `COLUMNS`."""
    images = enlarged(raw, scale)
    width, height = (side + GAP for side in images[0].size)
    lines = -(-len(images) // COLUMNS)
    page = Image.new("RGB", (min(len(images), COLUMNS) * width - GAP, lines * height - GAP), PAPER)
    for index, image in enumerate(images):
        page.paste(image, (index % COLUMNS * width, index // COLUMNS * height))
    return page


def sheet(blocks: Mapping[str, Image.Image]) -> Image.Image:
    """Lays blocks below each other, with their names at the left."""
    font = ImageFont.load_default(size=FONT_SIZE)
    indent = max((round(font.getlength(name)) + SPACE for name in blocks if name), default=0)
    width = indent + max((part.width for part in blocks.values()), default=0)
    height = sum(part.height + SPACE for part in blocks.values()) - SPACE
    page = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    top = MARGIN
    for name, part in blocks.items():
        middle = MARGIN + indent - SPACE, top + part.height // 2
        ImageDraw.Draw(page).text(middle, name, fill=INK, font=font, anchor="rm")
        page.paste(part, (MARGIN + indent, top))
        top += part.height + SPACE
    return page


def grid(rows: Mapping[str, Tensor], file: Path, scale: int | None = None) -> Path:
    """Writes a sheet with one labelled row for each entry, and returns its file.

    Arguments:
        rows: Raw pictures by the name of the row, with shape (N, C, H, W), in uint8; a row without any is left out.
        file: Where to write it, as a PNG.
        scale: The whole factor by which pictures are enlarged; by default such that they are about 64 pixels large.
    """
    scale = scale or factor(next(iter(rows.values())))
    return save(sheet({name: block(raw, scale) for name, raw in rows.items() if len(raw)}), file)


def write_files(raw: Tensor, names: list[str], folder: Path) -> list[Path]:
    """Writes one PNG for each picture, and returns the files.

    Arguments:
        raw: Pictures with shape (N, C, H, W), in uint8.
        names: Their names without the suffix; a slash in it makes a sub-folder.
        folder: Where to write them.
    """
    images = enlarged(raw, scale=1)
    return [save(image, folder / f"{name}.png") for image, name in zip(images, names, strict=True)]
