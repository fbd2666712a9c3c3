r"""A transformer on grids of any dimension, cut into patches.

Blocks are modulated by the times and the class as in DiT, with shift, scale and gate that begin at zero; queries and keys
are normalised. A learned embedding names each patch's place.

References:
    | Scalable Diffusion Models with Transformers (Peebles & Xie, 2022)
"""

__all__ = ["Block", "Transformer", "TransformerShape", "modulate"]

import math
import torch

from dataclasses import dataclass
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Conditions
from .attention import angles, turned
from .embeddings import ConditionEmbedding


@dataclass(frozen=True)
class TransformerShape:
    """The size of a transformer.

    Arguments:
        width: The number of channels of a patch.
        depth: The number of blocks.
        heads: The number of heads; it divides the width.
        patch: The side of a patch.
    """

    width: int
    depth: int
    heads: int
    patch: int = 2


class Transformer(nn.Module):
    """Predicts a state from a noisy one.

    Arguments:
        side: The lengths of the grid, such as (height, width); the patch's side divides them.
        channels: The channels of the state.
        shape: The size.
        two_times: Whether the network is told the target time.
        classes: The number of classes.
    """

    def __init__(
        self, side: tuple[int, ...], channels: int, shape: TransformerShape, two_times: bool, classes: int = 0
    ) -> None:
        super().__init__()
        if any(length % shape.patch for length in side):
            raise ValueError(f"patches of side {shape.patch} do not fill a grid of {side}")
        letters = "abc"[: len(side)]
        self.grid = f"n ch {' '.join(f'({k} p{k})' for k in letters)}"
        self.patches = f"n ({' '.join(letters)}) (ch {' '.join(f'p{k}' for k in letters)})"
        self.pieces = {f"p{k}": shape.patch for k in letters}
        self.counts = {k: length // shape.patch for k, length in zip(letters, side, strict=True)}
        size, count = channels * shape.patch ** len(side), math.prod(length // shape.patch for length in side)
        self.embedding = ConditionEmbedding(shape.width, two_times, classes)
        self.enter, self.out = nn.Linear(size, shape.width), nn.Linear(shape.width, size)
        self.place = nn.Parameter(0.02 * torch.randn(count, shape.width))
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.modulation = nn.Linear(shape.width, 2 * shape.width)
        for layer in (self.out, self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        """Returns a tensor of the shape of `x`, (B, C, *), at times n with shape (B,)."""
        told = self.embedding(n_s, n_t, cond)[:, None]
        h = self.enter(rearrange(x, f"{self.grid} -> {self.patches}", **self.pieces)) + self.place
        for block in self.blocks:
            h = block(h, told)
        shift, scale = self.modulation(told).chunk(2, dim=-1)
        out = self.out(modulate(h, shift, scale))
        return rearrange(out, f"{self.patches} -> {self.grid}", **self.counts, **self.pieces)


class Block(nn.Module):
    """Attention and a perceptron, each modulated and gated.

    Arguments:
        width: The number of channels.
        heads: The number of heads; where places are told, twice their number divides the width.
        rotary: Whether queries and keys are turned by their place in a line, so that only distances count.
    """

    def __init__(self, width: int, heads: int, rotary: bool = False) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        """Returns the patches, with shape (B, *, L, C), told of the others of their line, and of an embedding.

        Arguments:
            h: The patches, in lines of L.
            told: The embedding, with shape (B, 1, C), or another that broadcasts against the patches.
        """
        one, two, gate, three, four, last = self.modulation(told).chunk(6, dim=-1)
        h = h + gate * self._attend(modulate(h, one, two))
        return h + last * self.perceptron(modulate(h, three, four))

    def _attend(self, h: Tensor) -> Tensor:
        lines = self.qkv(h).flatten(0, -3)
        q, k, v = rearrange(lines, "n l (three h c) -> three n h l c", three=3, h=self.heads)
        q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if self.rotary:
            places = angles(h.shape[-2], q.shape[-1]).to(q)
            q, k = turned(q, places), turned(k, places)
        out = rearrange(F.scaled_dot_product_attention(q, k, v), "n h l c -> n l (h c)")
        return self.project(out).reshape(h.shape)


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Returns a state, with shape (*, C), normalised over its channels, times one plus a scale, plus a shift."""
    return F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift
