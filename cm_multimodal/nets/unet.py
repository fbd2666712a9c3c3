r"""The U-Net on grids of one, two or three dimensions.

Residual blocks, \(h + \mathrm{conv}(\mathrm{silu}(\mathrm{AdaGN}(\mathrm{conv}(\mathrm{silu}(\mathrm{GN}(h))))))\), see
the times and the class through a scale and a shift of their second normalisation; self-attention follows them at chosen
resolutions. Every block of the way down leaves its state to one of the way up.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), appendix B
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), section 3
"""

__all__ = ["UNet", "UNetShape"]

import torch

from dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Conditions
from .attention import GridAttention, heads_of
from .embeddings import ConditionEmbedding
from .norm import GroupNorm

ConvNd = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


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

    def widths(self) -> list[int]:
        """Returns the number of channels of each level."""
        return [self.channels * m for m in self.multipliers]


class ResidualBlock(nn.Module):
    """Two convolutions with group normalisation, the second adapted to the conditions, around a skip connection."""

    def __init__(self, dims: int, c_in: int, c_out: int, shape: UNetShape, name: str) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        self.norm_in = GroupNorm(c_in, shape.groups)
        self.conv_in = conv(c_in, c_out, 3, padding=1)
        self.modulation = nn.Linear(shape.channels * shape.embedding, 2 * c_out)
        self.norm_out = GroupNorm(c_out, shape.groups)
        self.conv_out = zero(conv(c_out, c_out, 3, padding=1))
        self.skip = conv(c_in, c_out, 1) if c_in != c_out else nn.Identity()
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
        self.dims, conv, widths = dims, CONVOLUTIONS[dims], shape.widths()
        self.embedding = ConditionEmbedding(shape.channels * shape.embedding, two_times, classes)
        self.enter = conv(channels + extra, widths[0], 3, padding=1)
        self.down, self.up, left = nn.ModuleList(), nn.ModuleList(), [widths[0]]
        width = widths[0]
        for level, target in enumerate(widths):
            for index in range(shape.blocks):
                self.down.append(Stage(dims, width, target, shape, level in shape.attention, f"down{level}.{index}"))
                width = target
                left.append(width)
            if level < len(widths) - 1:
                self.down.append(conv(width, width, 3, stride=2, padding=1))
                left.append(width)
        self.middle_in = Stage(dims, width, width, shape, shape.middle_attention, "middle.0")
        self.middle_out = Stage(dims, width, width, shape, False, "middle.1")
        for level, target in reversed(list(enumerate(widths))):
            for index in range(shape.blocks + 1):
                grow = level < len(widths) - 1 and index == 0
                attend = level in shape.attention
                self.up.append(UpStage(dims, width, left.pop(), target, shape, grow, attend, f"up{level}.{index}"))
                width = target
        self.norm = GroupNorm(width, shape.groups)
        self.leave = zero(conv(width, out or channels, 3, padding=1))

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
    """A residual block and, at chosen resolutions, attention."""

    def __init__(self, dims: int, c_in: int, c_out: int, shape: UNetShape, attention: bool, name: str) -> None:
        super().__init__()
        self.block = ResidualBlock(dims, c_in, c_out, shape, name)
        heads = heads_of(c_out, shape.head_width)
        self.attention = GridAttention(c_out, heads, shape.groups, shape.first_only) if attention else None

    def forward(self, x: Tensor, embedding: Tensor, cond: Conditions) -> Tensor:
        h = self.block(x, embedding, cond)
        return h if self.attention is None else self.attention(h)


class UpStage(nn.Module):
    """A stage of the way up: it joins the state of a stage of the way down, on a finer grid where `grow`."""

    def __init__(
        self, dims: int, width: int, skip: int, target: int, shape: UNetShape, grow: bool, attention: bool, name: str
    ) -> None:
        super().__init__()
        self.grow = CONVOLUTIONS[dims](width, width, 3, padding=1) if grow else None
        self.stage = Stage(dims, width + skip, target, shape, attention, name)

    def forward(self, x: Tensor, skip: Tensor, embedding: Tensor, cond: Conditions) -> Tensor:
        if self.grow is not None:
            x = self.grow(F.interpolate(x, size=skip.shape[2:], mode="nearest"))
        return self.stage(torch.cat([x, skip], dim=1), embedding, cond)


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
