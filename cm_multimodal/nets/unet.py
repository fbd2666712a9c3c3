r"""The U-Net on grids of one, two or three dimensions.

Residual blocks, \(h + \mathrm{conv}(\mathrm{silu}(\mathrm{AdaGN}(\mathrm{conv}(\mathrm{silu}(\mathrm{GN}(h))))))\), see
the times and the class through a scale and a shift of their second normalisation; self-attention follows them at chosen
resolutions. Every block of the way down leaves its state to one of the way up.

Where the first dimension of the grid counts the frames of a clip, all of this works within frames, with the same weights for
each, and every block is followed by what passes between frames: a convolution and, at chosen resolutions, attention along
time at every place. Both begin at zero, so that a network of still pictures is where one of clips can begin.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), appendix B
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), section 3
    | Video Diffusion Models (Ho et al., 2022), section 3: space and time factorised
"""

__all__ = ["UNet", "UNetShape"]

import torch

from collections.abc import Callable
from dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Conditions
from .attention import Among, GridAttention, heads_of
from .embeddings import ConditionEmbedding
from .norm import GroupNorm

ConvNd = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS: dict[int, Callable[..., ConvNd]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


BOTTOM = -1  # the level of the middle


@dataclass(frozen=True)
class UNetShape:
    """The size of a U-Net.

    Arguments:
        channels: The width of the first level.
        multipliers: The width of each level as a multiple of the first; each level halves the grid.
        blocks: Residual blocks per level (one more on the way up).
        attention: The levels with attention, counted from 0; the middle always has it where `middle_attention`.
        middle_attention: Whether the bottom has attention.
        first_only: Whether attention goes along the first dimension of the grid only.
        head_width: The least number of channels of an attention head.
        groups: The largest number of groups of a normalisation.
        embedding: The width of the condition embedding as a multiple of the first level.
        dropout: The dropout rate inside residual blocks.
        frames: Whether the first dimension of the grid counts frames: blocks and halving then go along the others only.
        time_attention: The levels with attention along time, where there are frames; the bottom always has it.
    """

    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    middle_attention: bool = True
    first_only: bool = False
    head_width: int = 64
    groups: int = 32
    embedding: int = 4
    dropout: float = 0.0
    frames: bool = False
    time_attention: tuple[int, ...] = ()

    def widths(self) -> list[int]:
        """Returns the number of channels of each level."""
        return [self.channels * m for m in self.multipliers]


class ResidualBlock(nn.Module):
    """Two convolutions with group normalisation, the second adapted to the conditions, around a skip connection."""

    def __init__(self, dims: int, c_in: int, c_out: int, shape: UNetShape, name: str) -> None:
        super().__init__()
        self.norm_in = GroupNorm(c_in, shape.groups)
        self.conv_in = convolution(dims, c_in, c_out, shape.frames)
        self.modulation = nn.Linear(shape.channels * shape.embedding, 2 * c_out)
        self.norm_out = GroupNorm(c_out, shape.groups)
        self.conv_out = zero(convolution(dims, c_out, c_out, shape.frames))
        self.skip = CONVOLUTIONS[dims](c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.dropout, self.stream = shape.dropout, f"dropout/{name}"

    def forward(self, x: Tensor, embedding: Tensor, cond: Conditions) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = _on_grid(self.modulation(embedding), h).chunk(2, dim=1)
        h = F.silu(self.norm_out.adapted(h, scale, shift))
        if self.dropout and cond.dropout is not None:
            h = h * cond.dropout.dropout_mask(self.stream, tuple(h.shape[1:]), self.dropout)
        return self.skip(x) + self.conv_out(h)


class UNet(nn.Module):
    """Creates a U-Net. It works on whole grids: sequences with padding want a network on tokens.

    Arguments:
        dims: The number of grid dimensions, 1, 2 or 3.
        channels: The number of channels of the state.
        shape: The size of the network.
        two_times: Whether it is told the target time.
        classes: The number of classes, or 0.
        extra: The number of channels that come after those of the state: positions, say, or what is known of a sample.
        out: The number of channels that it returns; none: those of the state.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        shape: UNetShape,
        two_times: bool,
        classes: int = 0,
        extra: int = 0,
        out: int | None = None,
    ) -> None:
        super().__init__()
        self.dims, widths = dims, shape.widths()
        self.embedding = ConditionEmbedding(shape.channels * shape.embedding, two_times, classes)
        self.enter = convolution(dims, channels + extra, widths[0], shape.frames)
        self.down, self.up, left = nn.ModuleList(), nn.ModuleList(), [widths[0]]
        width = widths[0]
        for level, target in enumerate(widths):
            for index in range(shape.blocks):
                self.down.append(Stage(dims, width, target, shape, level, f"down{level}.{index}"))
                width = target
                left.append(width)
            if level < len(widths) - 1:
                self.down.append(convolution(dims, width, width, shape.frames, stride=2))
                left.append(width)
        self.middle_in = Stage(dims, width, width, shape, BOTTOM, "middle.0")
        self.middle_out = Stage(dims, width, width, shape, None, "middle.1")
        for level, target in reversed(list(enumerate(widths))):
            for index in range(shape.blocks + 1):
                grow = level < len(widths) - 1 and index == 0
                self.up.append(UpStage(dims, width, left.pop(), target, shape, grow, level, f"up{level}.{index}"))
                width = target
        self.norm = GroupNorm(width, shape.groups)
        self.leave = zero(convolution(dims, width, out or channels, shape.frames))

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        """Returns a tensor with shape (B, out, *).

        Arguments:
            x: The scaled state and what comes with it, with shape (B, C + extra, *).
            n_s: The source times in [0, pi/2], with shape (B,) or (B, 1, *) where they differ by position.
            n_t: The target times, likewise.
            cond: The conditions; only the class and the dropout masks are used.
        """
        if cond.mask is not None:
            raise ValueError("the U-Net works on whole grids, without padding")
        if n_s.ndim > 1:
            n_s, n_t = n_s.squeeze(1), n_t.squeeze(1)
        embedding = self.embedding(n_s, n_t, cond)
        h = self.enter(x)
        left = [h]
        for part in self.down:
            h = part(h, embedding, cond) if isinstance(part, Stage) else part(h)
            left.append(h)
        h = self.middle_out(self.middle_in(h, embedding, cond), embedding, cond)
        for part in self.up:
            h = part(h, left.pop(), embedding, cond)
        return self.leave(F.silu(self.norm(h)))


class Stage(nn.Module):
    """A residual block, attention at chosen levels, and what passes between frames where there are any.

    Arguments:
        dims: The number of grid dimensions.
        c_in: The channels of the state.
        c_out: The channels that it returns.
        shape: The size of the network.
        level: Which level it is of, `BOTTOM`, or none, without attention.
        name: What its dropout masks are called.
    """

    def __init__(self, dims: int, c_in: int, c_out: int, shape: UNetShape, level: int | None, name: str) -> None:
        super().__init__()
        self.block = ResidualBlock(dims, c_in, c_out, shape, name)
        attends = shape.middle_attention if level == BOTTOM else level in shape.attention
        among: Among = "frame" if shape.frames else "first" if shape.first_only else "all"
        heads = heads_of(c_out, shape.head_width)
        self.attention = GridAttention(c_out, heads, shape.groups, among) if attends else None
        in_time = level is not None and level in (BOTTOM, *shape.time_attention)
        self.between = BetweenFrames(c_out, shape, in_time) if shape.frames else None

    def forward(self, x: Tensor, embedding: Tensor, cond: Conditions) -> Tensor:
        h = self.block(x, embedding, cond)
        h = h if self.attention is None else self.attention(h)
        return h if self.between is None else self.between(h)


class BetweenFrames(nn.Module):
    """A convolution along time and, where asked for, attention along it, both added and zero at the start.

    Arguments:
        channels: The channels of the state.
        shape: The size of the network.
        attends: Whether there is attention.
    """

    def __init__(self, channels: int, shape: UNetShape, attends: bool) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, shape.groups)
        self.conv = zero(nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0)))
        heads = heads_of(channels, shape.head_width)
        self.attention = GridAttention(channels, heads, shape.groups, "first") if attends else None

    def forward(self, x: Tensor) -> Tensor:
        """Returns the state, with shape (B, C, T, H, W)."""
        h = x + self.conv(F.silu(self.norm(x)))
        return h if self.attention is None else self.attention(h)


class UpStage(nn.Module):
    """A stage of the way up: it joins the state of a stage of the way down, on a finer grid where `grow`."""

    def __init__(
        self, dims: int, width: int, skip: int, target: int, shape: UNetShape, grow: bool, level: int, name: str
    ) -> None:
        super().__init__()
        self.grow = convolution(dims, width, width, shape.frames) if grow else None
        self.stage = Stage(dims, width + skip, target, shape, level, name)

    def forward(self, x: Tensor, skip: Tensor, embedding: Tensor, cond: Conditions) -> Tensor:
        if self.grow is not None:
            x = self.grow(F.interpolate(x, size=skip.shape[2:], mode="nearest"))
        return self.stage(torch.cat([x, skip], dim=1), embedding, cond)


def convolution(dims: int, c_in: int, c_out: int, frames: bool, stride: int = 1) -> ConvNd:
    """Returns a convolution over three places in each dimension of a grid; within frames, over one frame in the first."""
    over = (1, *(dims - 1) * (3,)) if frames else dims * (3,)
    steps, padding = (tuple(n if size > 1 else one for size in over) for n, one in ((stride, 1), (1, 0)))
    return CONVOLUTIONS[dims](c_in, c_out, over, steps, padding)


def zero(layer: ConvNd) -> ConvNd:
    """Starts a convolution at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _on_grid(values: Tensor, x: Tensor) -> Tensor:
    """Brings values per sample or position, with shape (B, *, C), to a grid that broadcasts against (B, C, *)."""
    values = values.movedim(-1, 1)
    if values.ndim == 2:
        return values.reshape(*values.shape, *(1,) * (x.ndim - 2))
    size = [1 if n == 1 else full for n, full in zip(values.shape[2:], x.shape[2:], strict=True)]
    return values if list(values.shape[2:]) == size else F.interpolate(values, size=size, mode="nearest")
