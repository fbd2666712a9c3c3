r"""U-Nets for pictures, in four sizes.

size   width  levels         blocks  attention   parameters (32x32 RGB)   for
xs        32  1, 2                2  none        1.0 M                    8x8 on a CPU, minutes
s         48  1, 2, 2             2  8x8, 7x7    4.0 M                    28x28 and 32x32 on a CPU, an hour
m        128  2, 2, 2             4  16x16       58 M                     32x32 on a GPU (the field's DDPM++)
l        192  1, 2, 3, 4          3  16x16, 8x8  261 M                    64x64 on GPUs
"""

__all__ = ["SIZES", "build_net"]

import dataclasses

from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.modality import TensorSpec
from cm_multimodal.nets.unet import UNet, UNetShape
from cm_multimodal.values import fits
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """A preset; `attention` names resolutions in pixels."""

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...] = ()
    middle_attention: bool = True
    dropout: float = 0.0
    embedding: int = 4


SIZES = {
    "xs": Size(32, (1, 2), 2, middle_attention=False),
    "s": Size(48, (1, 2, 2), 2, (8, 7)),
    "m": Size(128, (2, 2, 2), 4, (16,)),
    "l": Size(192, (1, 2, 3, 4), 3, (16, 8)),
}
LIMITS = {"channels": 4096, "blocks": 64, "embedding": 64}


def build_net(config: Mapping[str, Any], spec: TensorSpec, two_times: bool) -> UNet:
    """Builds a U-Net from the `net` group: a `size` and, after it, any setting of the preset.

    Raises:
        UsageError: A name is unknown or a number out of range.
    """
    overrides: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key != "size"
    }
    if len(spec.shape) != 3:
        raise UsageError(f"Pictures have channels, a height and a width, not a shape of {spec.shape}.")
    name = str(config.get("size", "xs"))
    if name not in SIZES:
        raise UsageError(f"There is no size '{name}'; {nearest(str(name), SIZES)}")
    known = {field.name for field in dataclasses.fields(Size)}
    for key in overrides:
        if key not in known:
            raise UsageError(f"There is no setting 'net.{key}'; {nearest(key, known)}")
    size = dataclasses.replace(SIZES[name], **overrides)
    _check(size)
    return UNet(2, spec.shape[0], _shape(size, spec), two_times, len(spec.classes))


def _shape(size: Size, spec: TensorSpec) -> UNetShape:
    side, levels = max(spec.shape[1:]), []
    for level in range(len(size.multipliers)):
        levels += [level] if side in size.attention else []
        side = -(-side // 2)
    return UNetShape(
        size.channels, size.multipliers, size.blocks, tuple(levels), size.middle_attention, dropout=size.dropout,
        embedding=size.embedding,
    )  # fmt: skip


def _check(size: Size) -> None:
    for name, most in LIMITS.items():
        value = getattr(size, name)
        if type(value) is not int or not 1 <= value <= most:
            raise UsageError(f"net.{name}={value} is not possible; it is a whole number from 1 to {most}.")
    for name in ("multipliers", "attention"):
        if not fits(getattr(size, name), tuple[int, ...]):
            raise UsageError(
                f"net.{name}={getattr(size, name)} is not possible; give whole numbers: 'net.{name}=[1,2]'."
            )
    if not 1 <= len(size.multipliers) <= 8 or not all(type(m) is int and 1 <= m <= 64 for m in size.multipliers):
        raise UsageError(
            f"net.multipliers={list(size.multipliers)} is not possible; give 1 to 8 whole numbers up to 64."
        )
    if not fits(size.dropout, float) or not 0 <= size.dropout < 1:
        raise UsageError(f"net.dropout={size.dropout} is not possible; it lies between 0 and 1.")
