r"""Networks for clips: a U-Net that works within frames and between them, and a transformer that does so by turns.

    net.name=unet         every block of a U-Net of pictures is followed by a convolution along time and, at the levels of
                          `time_attention`, by attention along it
    net.name=transformer  patches of frames attend to those of their frame and to those of their place by turns, the latter
                          told by rotary angles how far apart they are

size   U-Net: width  levels      blocks    transformer: width  depth  patch    for
xs               32  1, 2             1                   96      6      4    4x12x12 and 8x16x16, on a CPU in minutes
s                48  1, 2, 2          2                  192      8      4    16x32x32, on a CPU with patience
m                96  1, 2, 4          2                  384     12      4    16x32x32 and 16x64x64, on a GPU
l               128  1, 2, 4, 4       3                  768     14      4    the same, larger

`net.patch` above 1 cuts the frames of the U-Net into patches as well, whose pixels are channels: for large frames.
That the weights are shared by all frames is what forms the pictures in them: with frames as channels the same budget gives
motion, and nothing that moves. With `net.known` the network is told frames of a clip beside the noisy ones, and where they
lie, so that the same weights draw, predict and fill in.

References:
    | Video Diffusion Models (Ho et al., 2022): space and time factorised, zero at the start
    | Latte: Latent Diffusion Transformer for Video Generation (Ma et al., 2024): spatial and temporal blocks by turns
"""

__all__ = ["NETS", "FrameTransformer", "build_net"]

import dataclasses
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.modality import TensorSpec
from cm_multimodal.nets.embeddings import ConditionEmbedding
from cm_multimodal.nets.transformer import Block, modulate
from cm_multimodal.nets.unet import UNet, UNetShape
from cm_multimodal.values import check_values
from collections.abc import Mapping
from dataclasses import dataclass
from einops import rearrange
from torch import Tensor, nn
from typing import Any, get_type_hints


@dataclass(frozen=True)
class UNetSize:
    """A preset of the U-Net.

    Arguments:
        channels: The width of the first level.
        multipliers: The width of each level as a multiple of the first; each level halves the frames' sides.
        blocks: Residual blocks per level.
        attention: The levels with attention within frames, counted from 0.
        time_attention: The levels with attention along time; the bottom always has it.
        middle_attention: Whether the bottom has attention within frames.
        dropout: The dropout rate.
        embedding: The width of the condition embedding as a multiple of the first level.
        patch: The side of the patches that frames are cut into, whose pixels are channels.
        known: Whether the network is told frames, to complete a clip.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...] = ()
    time_attention: tuple[int, ...] = ()
    middle_attention: bool = False
    dropout: float = 0.0
    embedding: int = 4
    patch: int = 1
    known: bool = False

    def __post_init__(self) -> None:
        small = self.channels <= 4096 and self.blocks <= 64 and self.embedding <= 64 and 0 <= self.dropout < 1
        levels = 1 <= len(self.multipliers) <= 8 and all(1 <= m <= 64 for m in self.multipliers)
        if not (
            small and levels and self.patch <= 256 and min(self.channels, self.blocks, self.embedding, self.patch) >= 1
        ):
            raise UsageError(
                "net: channels (to 4,096), blocks and embedding (to 64), multipliers (1 to 8 of them, to 64) and patch (to "
                "256) are whole numbers from 1, and dropout lies between 0 and 1."
            )

    def net(self, spec: TensorSpec, two_times: bool, extra: int) -> nn.Module:
        """Returns the network."""
        shape = UNetShape(
            self.channels, self.multipliers, self.blocks, self.attention, self.middle_attention, dropout=self.dropout,
            embedding=self.embedding, frames=True, time_attention=self.time_attention,
        )  # fmt: skip
        check_patch(self.patch, spec)
        pixels = self.patch**2
        unet = UNet(3, spec.shape[0] * pixels, shape, two_times, len(spec.classes), extra * pixels)
        return Patched(unet, self.patch) if self.patch > 1 else unet


@dataclass(frozen=True)
class TransformerSize:
    """A preset of the transformer.

    Arguments:
        width: The number of channels of a patch.
        depth: The number of blocks, even: they work within frames and along time by turns.
        heads: The number of heads.
        patch: The side of a patch; it divides the frames' sides.
        known: Whether the network is told frames, to complete a clip.
    """

    width: int
    depth: int
    heads: int
    patch: int = 4
    known: bool = False

    def __post_init__(self) -> None:
        small = self.width <= 8192 and self.depth <= 128 and self.patch <= 256
        if not small or min(self.width, self.depth, self.heads, self.patch) < 1 or self.width % (2 * self.heads):
            raise UsageError(
                "net: width (to 8,192), depth (to 128), heads and patch are whole numbers from 1, and twice the heads "
                "divide the width."
            )
        if self.depth % 2:
            raise UsageError(
                f"net.depth={self.depth} is odd; blocks within frames and along time go by turns, so it is even."
            )

    def net(self, spec: TensorSpec, two_times: bool, extra: int) -> nn.Module:
        """Returns the network."""
        check_patch(self.patch, spec)
        return FrameTransformer(spec, self, two_times, extra)


SIZES: Mapping[str, Mapping[str, UNetSize | TransformerSize]] = {
    "unet": {
        "xs": UNetSize(32, (1, 2), 1, time_attention=(1,)),
        "s": UNetSize(48, (1, 2, 2), 2, time_attention=(1, 2)),
        "m": UNetSize(96, (1, 2, 4), 2, (2,), (1, 2), middle_attention=True),
        "l": UNetSize(128, (1, 2, 4, 4), 3, (2, 3), (1, 2, 3), middle_attention=True),
    },
    "transformer": {
        "xs": TransformerSize(96, 6, 4),
        "s": TransformerSize(192, 8, 6),
        "m": TransformerSize(384, 12, 6),
        "l": TransformerSize(768, 14, 12),
    },
}
NETS = tuple(SIZES)


def check_patch(patch: int, spec: TensorSpec) -> None:
    """Raises a UsageError where patches do not fill frames."""
    if any(side % patch for side in spec.shape[2:]):
        raise UsageError(f"net.patch={patch} does not divide the frames, {spec.shape[2]}x{spec.shape[3]}.")


class Patched(nn.Module):
    """Lets a network work on patches of frames, whose pixels are its channels.

    Arguments:
        net: The network.
        patch: The side of a patch.
    """

    def __init__(self, net: nn.Module, patch: int) -> None:
        super().__init__()
        self.net, self.patch = net, patch

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        """Returns what the network makes of a state and what comes with it, with shape (B, C, T, H, W)."""
        frames, patches, sides = "b c t (h p) (w q)", "b (c p q) t h w", {"p": self.patch, "q": self.patch}
        inside = rearrange(x, f"{frames} -> {patches}", **sides)
        return rearrange(self.net(inside, n_s, n_t, cond), f"{patches} -> {frames}", **sides)


class FrameTransformer(nn.Module):
    """Predicts a clip from a noisy one by attention within frames and along time, by turns.

    Arguments:
        spec: The shape, (C, T, H, W), and the classes of its tensors.
        size: The size.
        two_times: Whether it is told the target time.
        extra: The channels that come after those of the state.
    """

    def __init__(self, spec: TensorSpec, size: TransformerSize, two_times: bool, extra: int) -> None:
        super().__init__()
        channels, _, high, wide = spec.shape
        self.sides = {"p": size.patch, "q": size.patch}
        self.high, pixels = high // size.patch, size.patch**2
        self.embedding = ConditionEmbedding(size.width, two_times, len(spec.classes))
        self.enter = nn.Linear((channels + extra) * pixels, size.width)
        self.place = nn.Parameter(0.02 * torch.randn(self.high * (wide // size.patch), size.width))
        self.blocks = nn.ModuleList(Block(size.width, size.heads, bool(n % 2)) for n in range(size.depth))
        self.modulation, self.out = nn.Linear(size.width, 2 * size.width), nn.Linear(size.width, channels * pixels)
        for layer in (self.out, self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        """Returns a tensor with shape (B, C, T, H, W).

        Arguments:
            x: The scaled state and what comes with it, with shape (B, C + extra, T, H, W).
            n_s: The source times in [0, pi/2], with shape (B,), or (B, 1, T, 1, 1) where they differ by frame.
            n_t: The target times, likewise.
            cond: The conditions; only the class is used.
        """
        told = self.embedding(*(n if n.ndim == 1 else n[:, 0, :, 0, 0] for n in (n_s, n_t)), cond)
        within = told[:, None, None] if told.ndim == 2 else told[:, :, None]
        h = self.enter(rearrange(x, "b c t (h p) (w q) -> b t (h w) (c p q)", **self.sides)) + self.place
        for number, block in enumerate(self.blocks):
            h = block(h.transpose(1, 2), within.transpose(1, 2)).transpose(1, 2) if number % 2 else block(h, within)
        shift, scale = self.modulation(within).chunk(2, dim=-1)
        out = self.out(modulate(h, shift, scale))
        return rearrange(out, "b t (h w) (c p q) -> b c t (h p) (w q)", h=self.high, **self.sides)


class Told(nn.Module):
    """Tells a network what is known of each clip, in channels after those of the state.

    Arguments:
        net: The network.
        channels: How many they are.

    Attributes:
        grows: The layers whose inputs may come to be more, the new ones after the others.
    """

    grows = ("net.enter", "net.net.enter")

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        """Returns what the network makes of a state, with shape (B, C, T, H, W)."""
        known = torch.zeros_like(x[:, :1]).expand(-1, self.channels, -1, -1, -1) if cond.known is None else cond.known
        return self.net(torch.cat([x, known.to(x.dtype)], dim=1), n_s, n_t, cond)


def build_net(config: Mapping[str, Any], spec: TensorSpec, two_times: bool) -> nn.Module:
    """Builds a network from the `net` group: its `name`, a `size` and, after them, any setting of the preset.

    Raises:
        UsageError: A name is unknown or a number out of range.
    """
    name, size = str(config.get("name", "unet")), str(config.get("size", "xs"))
    if name not in SIZES:
        raise UsageError(f"There is no network net.name={name} for clips; {nearest(name, SIZES)}")
    if size not in SIZES[name]:
        raise UsageError(f"There is no size '{size}'; {nearest(size, SIZES[name])}")
    preset = SIZES[name][size]
    kinds = get_type_hints(type(preset))
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.items()
        if key not in ("name", "size")
    }
    for key in given:
        if key not in kinds:
            raise UsageError(f"There is no setting 'net.{key}' of net.name={name}; {nearest(key, kinds)}")
    check_values("net", given, kinds)
    preset = dataclasses.replace(preset, **given)
    told = spec.shape[0] + 1 if preset.known else 0
    net = preset.net(spec, two_times, told)
    return Told(net, told) if told else net
