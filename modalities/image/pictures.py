r"""Decoding pictures that others made to uint8 pixels of shape (C, H, W).

Every picture becomes eight bits of grey or RGB: palettes are looked up, transparency is laid on white, 16 bits are
scaled down, CMYK is converted, the orientation a camera noted is applied, and of an animation the first frame counts.
Another size than the wanted one is cropped to its proportions around the centre and resampled with antialiasing.

The bytes are hostile: only the kinds of `FORMATS` are tried, whatever a file is called, and pixels are counted before
they are decoded. A truncated picture counts as broken: it is not padded.
"""

__all__ = ["PICTURE", "Decoded", "common_size", "decode", "fit"]

import numpy as np
import torch
import warnings

from cm_multimodal.errors import DataError
from cm_multimodal.listing import Kind, Opener, attempt_all, reason_of
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from typing import BinaryIO, TypeVar

PICTURE = Kind(
    "picture",
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    (b"\x89PNG", b"\xff\xd8", b"BM", b"GIF8", b"RIFF", b"II", b"MM", b"P"),
)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 2**26  # of one picture: 67 million, more than most cameras have
DEEP = 257  # 65535 / 255
STRIP = 256  # rows converted at a time
TRIED = 1000  # pictures of which one at least has to be good

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Decoded:
    """Pictures, and what was wrong with the others.

    Arguments:
        pixels: The pixels of those that could be read, with shape (M, C, H, W), in uint8.
        reasons: Why not, for each that was tried; empty for those that could be read.
    """

    pixels: Tensor
    reasons: tuple[str, ...]


def _reason_of(error: Exception) -> str:
    unknown = isinstance(error, UnidentifiedImageError)
    return "not a picture, whatever its name says" if unknown else reason_of(error)


def _in_threads(work: Callable[[T], S], items: Sequence[T]) -> list[tuple[S | None, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="(?is).*truncated")
        return attempt_all(work, items, _reason_of)


def _open(stream: BinaryIO) -> Image.Image:
    image = Image.open(stream, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}")
    return image


def _size(opener: Opener) -> tuple[int, int]:
    """Returns the height and the width of a picture as it is looked at, from its header."""
    with opener() as stream, _open(stream) as image:
        noted = image.format != "TIFF" and "exif" in image.info  # Pillow turns the size of a TIFF by itself
        turned = noted and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def common_size(openers: Sequence[Opener]) -> tuple[int, int]:
    """Returns the height and the width that most of the pictures have, going by their headers; the first of equals."""
    found = _in_threads(_size, openers[:TRIED])
    if len(openers) > TRIED and not any(size for size, _ in found):
        raise DataError(f"None of the first {TRIED:,} pictures can be read; the first: {found[0][1]}.")
    votes = Counter(size for size, _ in [*found, *_in_threads(_size, openers[TRIED:])] if size)
    return votes.most_common(1)[0][0] if votes else (1, 1)


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Converts a picture of any mode to 'L' or 'RGB'."""
    if image.mode == "F":
        raise ValueError("the pixels are floating-point numbers without a known range")
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 255 * DEEP:
            raise ValueError("the pixels have more than 16 bits")
        plain = np.empty(deep.shape, np.uint8)
        for row in range(0, len(deep), STRIP):
            plain[row : row + STRIP] = (deep[row : row + STRIP].astype(np.int32) + DEEP // 2) // DEEP
        return Image.fromarray(plain).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Brings a picture to a height and a width: cropped around its centre to their proportions, then resampled."""
    wanted = size[::-1]
    return image if image.size == wanted else ImageOps.fit(image, wanted, Image.Resampling.LANCZOS)


def _pixels(opener: Opener, shape: tuple[int, int, int]) -> np.ndarray:
    channels, height, width = shape
    with opener() as stream, _open(stream) as image:
        image.draft(None, (2 * max(height, width),) * 2)  # a large JPEG is decoded at a fraction of its size
        plain = _eight_bits(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
    return np.asarray(fit(plain, (height, width))).reshape(height, width, channels).transpose(2, 0, 1)


def decode(openers: Sequence[Opener], shape: tuple[int, int, int]) -> Decoded:
    """Decodes pictures, as many at a time as there are processors.

    Arguments:
        openers: What opens each of them.
        shape: The channels (1 or 3), the height and the width to bring them to.
    """
    pixels = np.empty((len(openers), *shape), np.uint8)

    def fill(row: int) -> None:
        pixels[row] = _pixels(openers[row], shape)

    reasons = tuple(reason for _, reason in _in_threads(fill, range(len(openers))))
    good = np.array([not reason for reason in reasons], bool)
    return Decoded(torch.from_numpy(pixels if good.all() else pixels[good]), reasons)
