r"""U-Nets for sounds: over frequency and time for spectrograms, over time alone for waveforms and wavelets.

size   width  levels      blocks  patch  for
xs        32  1, 2             1      2  32x32 log-mel, on a CPU in minutes
s         40  1, 2, 2          1      4  half a second of the complex transform, on a CPU with patience
m         96  1, 2, 4, 4       2      2  a second of it, on a GPU
l        128  1, 2, 4, 4       3      2  the same, larger

With `net.patch` above 1 the grid is cut into patches whose elements are channels. What a sound is depends on its frequency,
and a convolution cannot tell one from another: networks over frequency and time are told, by the channels
:math:`\cos(\pi k (f + 1/2) / F)`, k from 1 to 4. Time has no such mark, so that any length can be drawn where attention goes
along frequency alone (`net.frequency_attention`), unless the network is told the time as well (`net.clock`), which helps
where all clips begin or lie alike.

What is drawn of a noisy spectrogram is above all the same spectrogram, louder here and fainter there, as Wiener's filter has
it: with `net.gain` the U-Net says a factor for each element beside what is added, and is told the elements' amplitudes.
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
SOFT = 1e-4  # keeps the root of a vanishing power smooth


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
        gain: Whether each element of the grid is multiplied by what the U-Net says, before the rest is added.
        clock: Whether the network is told the time within a clip.
        known: Whether the network is told a part of a sample, to complete it, or what else the data tell of it.
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
    gain: bool = False
    clock: bool = False
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
        unet: The U-Net; its extra channels are those of `told`, in patches, of the amplitudes, of the frequencies and times.
        patch: The side of a patch.
        gain: Whether each element of the grid is multiplied, by what half of the U-Net's channels say, before the rest is
            added; the amplitude of the elements is told then too.
        clock: Whether it is told the time within a clip.
        told: The channels of what it is told of a sample, or 0.
    """

    def __init__(self, unet: UNet, patch: int, gain: bool, clock: bool, told: int) -> None:
        super().__init__()
        self.unet, self.patch, self.gain, self.clock, self.told = unet, patch, gain, clock, told

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        """Returns a tensor of the state's shape, (B, C, *), of a state and times with shape (B,), as `UNet` does."""
        p, parts = self.patch, [x]
        if self.told:
            nothing = torch.zeros(len(x), self.told, *x.shape[2:], dtype=x.dtype, device=x.device)
            parts.append(nothing if cond.known is None else cond.known.to(x.dtype))
        if self.gain:
            parts.append(x.square().mean(dim=1, keepdim=True).add(SOFT).sqrt())
        sides, sizes = ("(t p)", {"p": p}) if x.ndim == 3 else ("(f p) (t q)", {"p": p, "q": p})
        grid, patches = f"b c {sides}", f"b (c {' '.join(sizes)}) {'t' if x.ndim == 3 else 'f t'}"
        inside = [rearrange(part, f"{grid} -> {patches}", **sizes) for part in parts]
        if x.ndim > 3:
            inside.append(_waves(inside[0], 2))
        if self.clock:
            inside.append(_waves(inside[0], -1))
        out = rearrange(self.unet(torch.cat(inside, dim=1), n_s, n_t, cond), f"{patches} -> {grid}", **sizes)
        if not self.gain:
            return out
        gain, added = out.chunk(2, dim=1)
        return torch.addcmul(added, gain, x)


def _waves(x: Tensor, dim: int) -> Tensor:
    """Returns waves along a dimension of a grid, with shape (B, 4, *)."""
    place = (torch.arange(x.shape[dim], dtype=x.dtype, device=x.device) + 0.5) / x.shape[dim]
    waves = torch.cos(math.pi * torch.arange(1, WAVES + 1, dtype=x.dtype, device=x.device)[:, None] * place)
    sides = [n if d == dim % x.ndim else 1 for d, n in enumerate(x.shape)][2:]
    return waves.reshape(1, WAVES, *sides).expand(len(x), -1, *x.shape[2:])


def build_net(config: Mapping[str, Any], spec: TensorSpec, two_times: bool, told: int | None = None) -> nn.Module:
    """Builds a network from the `net` group: a `size` and, after it, any setting of the preset.

    Arguments:
        config: The group.
        spec: The shape and classes of its tensors.
        two_times: Whether it is told the target time.
        told: The channels of what it is told of a sample (`net.known`); a part of it, and where it lies, unless given.

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
    one, told = size.patch ** len(sides), (told or channels + 1) if size.known else 0
    waves = WAVES * ((len(sides) > 1) + size.clock)
    extra, out = waves + one * (told + size.gain), one * channels * (1 + size.gain)
    unet = UNet(len(sides), one * channels, shape, two_times, len(spec.classes), extra, out)
    return PatchedUNet(unet, size.patch, size.gain, size.clock, told)
