r"""Self-attention over the positions of a grid, and how positions in a line are told (rotary embedding).

References:
    | RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021)
"""

__all__ = ["Among", "GridAttention", "angles", "heads_of", "turned"]

import torch

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from typing import Literal

from .norm import GroupNorm

Among = Literal["all", "first", "frame"]


class GridAttention(nn.Module):
    """Multi-head self-attention with normalised queries and keys, added to its input.

    Arguments:
        channels: The number of channels.
        heads: The number of heads.
        groups: The largest number of groups of the normalisation.
        among: Which positions attend to each other: all; those along the first dimension of the grid (first), so that all
            other dimensions may have any length; or those of one place in it (frame).
    """

    def __init__(self, channels: int, heads: int, groups: int, among: Among = "all") -> None:
        super().__init__()
        self.heads, self.among = heads, among
        self.norm = GroupNorm(channels, groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the attended state, with shape (B, C, *)."""
        normed = self.norm(x)
        if self.among == "all" or x.ndim == 3:
            return x + self._attended(normed)
        rows = "(b p) c f" if self.among == "first" else "(b f) c p"
        places = normed.flatten(3)
        attended = self._attended(rearrange(places, f"b c f p -> {rows}"))
        sizes = {"b": len(x), **({"p": places.shape[3]} if self.among == "first" else {"f": places.shape[2]})}
        return x + rearrange(attended, f"{rows} -> b c f p", **sizes).reshape(x.shape)

    def _attended(self, x: Tensor) -> Tensor:
        tokens = rearrange(x, "b c ... -> b (...) c")
        q, k, v = rearrange(self.qkv(tokens), "b n (three h c) -> three b h n c", three=3, h=self.heads)
        q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        out = F.scaled_dot_product_attention(q, k, v)
        out = self.out(rearrange(out, "b h n c -> b n (h c)"))
        return out.transpose(1, 2).reshape(x.shape)


def heads_of(channels: int, width: int) -> int:
    """Returns the number of heads of at least a given width that divide the channels."""
    heads = max(1, channels // width)
    while channels % heads:
        heads -= 1
    return heads


def angles(length: int, channels: int) -> Tensor:
    """Returns the cosines and sines, with shape (2, L, C / 2), of angles that grow with the place in a line."""
    half = channels // 2
    rate = 10_000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * rate
    return torch.stack([angle.cos(), angle.sin()]).float()


def turned(x: Tensor, places: Tensor) -> Tensor:
    """Turns pairs of channels of queries or keys, with shape (*, L, C), by `angles`: then only distances count."""
    (cos, sin), (one, two) = places, x.chunk(2, dim=-1)
    return torch.cat([one * cos - two * sin, one * sin + two * cos], dim=-1)
