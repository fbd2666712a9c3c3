r"""U-Nets for sounds: over frequency and time for spectrograms, over time alone for waveforms and wavelets.

size   width  levels      blocks  patch  for
xs        32  1, 2             1      2  32x32 log-mel, on a CPU in minutes
s         40  1, 2, 2          1      4  half a second of the complex transform, on a CPU with patience
m         96  1, 2, 4, 4       2      2  a second of it, on a GPU
l        128  1, 2, 4, 4       3      2  the same, larger

With `net.patch` above 1 the grid is cut into patches whose elements are channels. What a sound is depends on its frequency,
and a convolution cannot tell one from another: networks over frequency and time are told, by the channels
:math:`\cos(\pi k (f + 1/2) / F)`, k from 1 to 4. Time has no such mark, so that any length can be drawn where attention goes
along frequency alone (`net.frequency_attention`).
"""

__all__ = ["SIZES", "build_net"]

import dataclasses
import math
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.modality import TensorSpec
from cm_multimodal.nets.unet import UNet, UNetShape
from cm_multimodal.values import check_values
from collections.abc import Mapping
from dataclasses import dataclass
from einops import rearrange
from torch import Tensor, nn
from typing import Any, get_type_hints

WAVES = 4


@dataclass(frozen=True)
class Size:
    """A preset.

    Arguments:
        channels: The width of the first level.
        multipliers: The width of each level as a multiple of the first; each level halves the grid.
        blocks: Residual blocks per level.
        attention: The levels with attention, counted from 0.
        middle_attention: Whether the bottom has attention.
        frequency_attention: Whether attention goes along frequency only.
        dropout: The dropout rate.
        embedding: The width of the condition embedding as a multiple of the first level.
        patch: The side of a patch.
        known: Whether the network is told a part of a sample, to complete it.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...] = ()
    middle_attention: bool = True
    frequency_attention: bool = False
    dropout: float = 0.0
    embedding: int = 4
    patch: int = 1
    known: bool = False

    def __post_init__(self) -> None:
        small = self.channels <= 4096 and self.blocks <= 64 and self.embedding <= 64 and 0 <= self.dropout < 1
        levels = 1 <= len(self.multipliers) <= 8 and all(1 <= m <= 64 for m in self.multipliers)
        if not (small and levels and min(self.channels, self.blocks, self.embedding, self.patch) >= 1):
            raise UsageError(
                "net: channels (to 4,096), blocks and embedding (to 64), multipliers (1 to 8 of them, to 64) and patch are "
                "whole numbers from 1, and dropout lies between 0 and 1."
            )


SIZES = {
    "xs": Size(32, (1, 2), 1, (1,), middle_attention=False, patch=2),
    "s": Size(40, (1, 2, 2), 1, (2,), patch=4),
    "m": Size(96, (1, 2, 4, 4), 2, (2, 3), patch=2),
    "l": Size(128, (1, 2, 4, 4), 3, (2, 3), patch=2),
}


class PatchedUNet(nn.Module):
    """Creates a U-Net on patches of a grid of one or two dimensions.

    Arguments:
        unet: The U-Net; its extra channels are those of `known`, in patches, and of the frequencies.
        patch: The side of a patch.
        known: Whether it is told a part of a sample.
    """

    def __init__(self, unet: UNet, patch: int, known: bool = False) -> None:
        super().__init__()
        self.unet, self.patch, self.known = unet, patch, known

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        """Returns a tensor of the state's shape, (B, C, *), of a state and times with shape (B,), as `UNet` does."""
        p, parts = self.patch, [x]
        if self.known:
            nothing = torch.zeros(len(x), x.shape[1] + 1, *x.shape[2:], dtype=x.dtype, device=x.device)
            parts.append(nothing if cond.known is None else cond.known.to(x.dtype))
        if x.ndim == 3:
            inside = [rearrange(part, "b c (t p) -> b (c p) t", p=p) for part in parts]
            out = self.unet(torch.cat(inside, dim=1), n_s, n_t, cond)
            return rearrange(out, "b (c p) t -> b c (t p)", p=p)
        inside = [rearrange(part, "b c (f p) (t q) -> b (c p q) f t", p=p, q=p) for part in parts]
        out = self.unet(torch.cat([*inside, _frequencies(inside[0])], dim=1), n_s, n_t, cond)
        return rearrange(out, "b (c p q) f t -> b c (f p) (t q)", p=p, q=p)


def _frequencies(x: Tensor) -> Tensor:
    """Returns waves over the frequencies of a grid, with shape (B, 4, F, T)."""
    place = (torch.arange(x.shape[2], dtype=x.dtype, device=x.device) + 0.5) / x.shape[2]
    waves = torch.cos(math.pi * torch.arange(1, WAVES + 1, dtype=x.dtype, device=x.device)[:, None] * place)
    return waves[None, :, :, None].expand(len(x), -1, -1, x.shape[3])


def build_net(config: Mapping[str, Any], spec: TensorSpec, two_times: bool) -> nn.Module:
    """Builds a network from the `net` group: a `size` and, after it, any setting of the preset.

    Raises:
        UsageError: A name is unknown or a number out of range.
    """
    name, kinds = str(config.get("size", "xs")), get_type_hints(Size)
    if name not in SIZES:
        raise UsageError(f"There is no size '{name}'; {nearest(name, SIZES)}")
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config.items() if key != "size"
    }
    for key in given:
        if key not in kinds:
            raise UsageError(f"There is no setting 'net.{key}'; {nearest(key, kinds)}")
    check_values("net", given, kinds)
    size = dataclasses.replace(SIZES[name], **given)
    channels, *sides = spec.shape
    if any(side % size.patch for side in sides):
        raise UsageError(f"net.patch={size.patch} does not divide the grid, {'x'.join(map(str, sides))}.")
    if size.frequency_attention and len(sides) == 1:
        raise UsageError("net.frequency_attention=true: a waveform has no frequencies to attend along.")
    shape = UNetShape(
        size.channels, size.multipliers, size.blocks, size.attention, size.middle_attention, size.frequency_attention,
        dropout=size.dropout, embedding=size.embedding,
    )  # fmt: skip
    dims, inside = len(sides), size.patch ** len(sides)
    extra = (WAVES if dims > 1 else 0) + ((channels + 1) * inside if size.known else 0)
    return PatchedUNet(
        UNet(dims, channels * inside, shape, two_times, len(spec.classes), extra), size.patch, size.known
    )
