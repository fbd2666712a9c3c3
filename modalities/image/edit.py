r"""What may be known of a picture: some of its pixels, its luminance, its means over squares."""

__all__ = ["EDITS", "measurement"]

import numpy as np
import torch

from cm_multimodal.editing import Measurement, masked
from cm_multimodal.errors import UsageError, nearest
from collections.abc import Mapping
from pathlib import Path
from PIL import Image
from torch import Tensor
from torch.nn import functional
from typing import Any

EDITS = ("inpaint", "colour", "enlarge")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def measurement(how: str, options: Mapping[str, Any], shape: tuple[int, ...]) -> Measurement:
    """Returns the measurement of a kind of editing, for pictures of shape (C, H, W).

    Raises:
        UsageError: There is no such kind, or an option or the pictures do not fit it.
    """
    if how == "inpaint":
        return masked(_mask(str(options["mask"]), shape))
    return _luminance(shape) if how == "colour" else _means(options["factor"], shape)


def _luminance(shape: tuple[int, ...]) -> Measurement:
    if shape[0] != 3:
        raise UsageError("how=colour needs a model of colour pictures, and this one draws grey ones.")
    weights = torch.tensor(LUMA).reshape(3, 1, 1)
    return Measurement(
        lambda x: (x * weights.to(x)).sum(1, keepdim=True), lambda grey: grey.expand(-1, 3, -1, -1)
    )  # the nearest colours of a luminance would be tinted: it is made of green above all


def _means(factor: object, shape: tuple[int, ...]) -> Measurement:
    if type(factor) is not int or factor < 2 or shape[1] % factor or shape[2] % factor:
        sides = f"{shape[1]} and {shape[2]}"
        raise UsageError(f"factor={factor} is not possible; it is a whole number from 2 that divides {sides}.")
    return Measurement(
        lambda x: functional.avg_pool2d(x, factor),
        lambda small: functional.interpolate(small, scale_factor=factor, mode="nearest"),
    )


def _mask(name: str, shape: tuple[int, ...]) -> Tensor:
    height, width = shape[1:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    halves = {
        "left": columns < width // 2, "right": columns >= width // 2,
        "top": rows < height // 2, "bottom": rows >= height // 2,
        "frame": ~_middle(rows, height) | ~_middle(columns, width),
    }  # fmt: skip
    if name in halves:
        return halves[name].expand(height, width)
    if not Path(name).is_file():
        raise UsageError(f"mask={name} is no file, and no part of a picture; {nearest(name, halves)}")
    try:
        pixels = np.asarray(Image.open(name).convert("L"))
    except (OSError, ValueError) as error:
        raise UsageError(f"The mask '{name}' is no picture: {error}.") from error
    if pixels.shape != (height, width):
        raise UsageError(
            f"The mask '{name}' has {pixels.shape[0]}x{pixels.shape[1]} pixels, the model's pictures {height}x{width}."
        )
    return torch.from_numpy(pixels > 127)


def _middle(place: Tensor, length: int) -> Tensor:
    return (place >= length // 4) & (place < length - length // 4)
