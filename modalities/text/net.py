r"""Networks for tokens: convolutions and attention in one block, told the times; they name probabilities.

size  channels  blocks  heads  for
xs          96       3      4  a closed grammar, on a CPU in minutes
s          128       6      4  characters, on a CPU with patience
m          384       8      6  pieces of words, on a GPU
l          768      12     12  the same, larger

A block is a dilated convolution along the tokens, attention (`net.attention`: in every how many blocks; 0: in none) and
a perceptron, each modulated by the times and the class, and gated. Convolutions learn spelling in a small fraction of the
updates that attention alone needs; their dilations are 1, 2, 4 and again. Queries and keys are normalised, and turned by
their place (rotary positions), so that only distances count.

The output is a softmax over the tokens, from which clean states are mixed: one-hot tokens themselves, or the vertices
\(e_k\) of tokens that are embedded, all of one length. Of a token noisy by the ratio \(\rho\), by itself, the posterior has
the logits \(\alpha \langle x, e_k \rangle / \sigma^2\). The network is told this posterior beside the state, so that it
reads words instead of noise, and its logits are added to what it says (the logit skip): it needs to learn only what the
tokens have to do with each other.

References:
    | Scalable Diffusion Models with Transformers (Peebles & Xie, 2022): modulation and gates
    | RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021)
    | Query-Key Normalization for Transformers (Henry et al., 2020)
"""

__all__ = ["SIZES", "build_net"]

import dataclasses
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.modality import TensorSpec
from cm_multimodal.nets.attention import angles, turned
from cm_multimodal.nets.embeddings import ConditionEmbedding
from cm_multimodal.nets.transformer import modulate
from cm_multimodal.values import check_values
from collections.abc import Mapping
from dataclasses import dataclass
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from typing import Any, get_type_hints

DILATIONS = (1, 2, 4)
SURE = 30.0  # how far below the likeliest token, in logits, its noisy value alone may put another


@dataclass(frozen=True)
class Size:
    """A preset.

    Arguments:
        channels: The width of a token.
        blocks: The number of blocks.
        heads: The heads of attention; they divide the channels.
        attention: In every how many blocks there is attention; 0: in none.
        kernel: The tokens that a convolution sees, odd; 0: there are none.
        expand: The width of the perceptron as a multiple of that of a token.
        dropout: The dropout rate inside the perceptrons.
        known: Whether the network is told a part of a sample, to complete it.
    """

    channels: int
    blocks: int
    heads: int = 4
    attention: int = 1
    kernel: int = 3
    expand: int = 3
    dropout: float = 0.0
    known: bool = False

    def __post_init__(self) -> None:
        fits = min(self.channels, self.blocks, self.heads, self.expand) >= 1 and self.channels % (2 * self.heads) == 0
        small = self.channels <= 8192 and self.blocks <= 128 and self.expand <= 16 and 0 <= self.dropout < 1
        seen = 0 <= self.kernel <= 31 and (self.kernel % 2 == 1 or self.kernel == 0) and self.attention >= 0
        if not (fits and small and seen and (self.kernel or self.attention)):
            raise UsageError(
                "net: channels (to 8,192), blocks (to 128), heads and expand (to 16) are whole numbers from 1, twice the "
                "heads divide the channels, kernel is odd (to 31) or 0, attention is at least 0, not both are 0, and "
                "dropout lies between 0 and 1."
            )


SIZES = {"xs": Size(96, 3), "s": Size(128, 6), "m": Size(384, 8, 6, expand=4), "l": Size(768, 12, 12, expand=4)}


class Mixer(nn.Module):
    """Creates a network for tokens, one-hot or embedded.

    Arguments:
        spec: The shape, (L, D), the deviation and the classes of its tensors.
        size: The size.
        two_times: Whether it is told the target time.
        vertices: The embeddings, with shape (K, D); none: tokens are one-hot, and K is D.

    Attributes:
        names_clean: That it can only name clean states, so that the map's scaling is the endpoint one.
        grows: The layers whose inputs may come to be more, the new ones after the others.
    """

    names_clean = True
    grows = ("enter",)

    def __init__(self, spec: TensorSpec, size: Size, two_times: bool, vertices: Tensor | None) -> None:
        super().__init__()
        channels = spec.shape[1]
        tokens = channels if vertices is None else len(vertices)
        self.vertices: Tensor | None
        self.register_buffer("vertices", None if vertices is None else vertices.clone())
        self.places: Tensor
        self.register_buffer("places", angles(spec.shape[0], size.channels // size.heads), persistent=False)
        self.sigma_data, self.told = spec.sigma_data, (channels + 1) * size.known
        self.embedding = ConditionEmbedding(size.channels, two_times, len(spec.classes))
        self.enter = nn.Linear(channels + tokens + self.told, size.channels)
        self.blocks = nn.ModuleList(
            Block(
                size,
                DILATIONS[number % len(DILATIONS)],
                bool(size.attention) and (number + 1) % size.attention == 0,
                number,
            )
            for number in range(size.blocks)
        )
        self.modulation, self.out = nn.Linear(size.channels, 2 * size.channels), nn.Linear(size.channels, tokens)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        """Returns probabilities, with shape (B, L, K), of a scaled state, (B, L, D), and times, with shape (B,)."""
        alone = self._posterior(x, n_s)
        parts = [x, alone.softmax(dim=-1).to(x.dtype)]
        if self.told:
            nothing = torch.zeros(*x.shape[:2], self.told, dtype=x.dtype, device=x.device)
            parts.append(nothing if cond.known is None else cond.known.to(x.dtype))
        told = self.embedding(n_s, n_t, cond)
        h, places = self.enter(torch.cat(parts, dim=-1)), self.places.to(x.dtype)
        for block in self.blocks:
            h = block(h, told, places, cond)
        shift, scale = self.modulation(told)[:, None].chunk(2, dim=-1)
        logits = self.out(modulate(h, shift, scale)).to(alone.dtype)
        return (logits + alone).softmax(dim=-1)

    def _posterior(self, x: Tensor, n_s: Tensor) -> Tensor:
        """Returns the logits of each token by itself: those of its noisy value, which c_in has scaled."""
        ratio = self.sigma_data * torch.tan(n_s)
        slope = torch.hypot(torch.full_like(ratio, self.sigma_data), ratio) / ratio.square().clamp_min(1e-9)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        with torch.autocast(x.device.type, enabled=False):
            along = exact if self.vertices is None else exact @ self.vertices.T
        logits = slope[:, None, None].to(exact.dtype) * along
        return (logits - logits.amax(dim=-1, keepdim=True)).clamp_min(-SURE)


class Block(nn.Module):
    """A convolution, attention and a perceptron, each modulated and gated.

    Arguments:
        size: The size.
        dilation: The distance of the tokens that the convolution sees.
        attends: Whether there is attention.
        number: Which block it is, for its dropout mask.
    """

    def __init__(self, size: Size, dilation: int, attends: bool, number: int) -> None:
        super().__init__()
        width, self.dropout, self.stream = size.channels, size.dropout, f"dropout/{number}"
        self.near = None
        if size.kernel:
            self.near = nn.Conv1d(width, width, size.kernel, padding=dilation * (size.kernel // 2), dilation=dilation)
        self.attention = Attention(width, size.heads) if attends else None
        self.wide, self.narrow = nn.Linear(width, size.expand * width), nn.Linear(size.expand * width, width)
        self.parts = (self.near is not None) + attends + 1
        self.modulation = nn.Linear(width, 3 * self.parts * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, told: Tensor, places: Tensor, cond: Conditions) -> Tensor:
        """Returns the tokens, with shape (B, L, C), told an embedding with shape (B, C), and the angles of their places."""
        three = iter(self.modulation(told)[:, None].chunk(3 * self.parts, dim=-1))
        if self.near is not None:
            shift, scale, gate = next(three), next(three), next(three)
            h = h + gate * F.silu(self.near(modulate(h, shift, scale).transpose(1, 2)).transpose(1, 2))
        if self.attention is not None:
            shift, scale, gate = next(three), next(three), next(three)
            h = h + gate * self.attention(modulate(h, shift, scale), places)
        shift, scale, gate = next(three), next(three), next(three)
        wide = F.silu(self.wide(modulate(h, shift, scale)))
        if self.dropout and cond.dropout is not None:
            wide = wide * cond.dropout.dropout_mask(self.stream, tuple(wide.shape[1:]), self.dropout)
        return h + gate * self.narrow(wide)


class Attention(nn.Module):
    """Attention over all tokens, of queries and keys of one length; how sharp it may be is learned.

    Arguments:
        width: The channels of a token.
        heads: The number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.sharpness = heads, nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, h: Tensor, places: Tensor) -> Tensor:
        """Returns what each token sees, with shape (B, L, C), by the angles of their places."""
        q, k, v = rearrange(self.qkv(h), "b l (three h c) -> three b h l c", three=3, h=self.heads)
        q, k = (turned(F.rms_norm(each, each.shape[-1:]), places) for each in (q, k))
        out = F.scaled_dot_product_attention(q * self.sharpness, k, v)
        return self.project(rearrange(out, "b h l c -> b l (h c)"))


def build_net(
    config: Mapping[str, Any], spec: TensorSpec, two_times: bool, vertices: Tensor | None = None
) -> nn.Module:
    """Builds a network from the `net` group: a `size` and, after it, any setting of the preset.

    Arguments:
        config: The group.
        spec: The shape, deviation and classes of its tensors.
        two_times: Whether it is told the target time.
        vertices: The embeddings of the tokens, with shape (K, D), if they are embedded.

    Raises:
        UsageError: A name is unknown or a number out of range.
    """
    name, kinds = str(config.get("size", "xs")), get_type_hints(Size)
    if name not in SIZES:
        raise UsageError(f"There is no size '{name}'; {nearest(name, SIZES)}")
    given = {key: value for key, value in config.items() if key != "size"}
    for key in given:
        if key not in kinds:
            raise UsageError(f"There is no setting 'net.{key}'; {nearest(key, kinds)}")
    check_values("net", given, kinds)
    return Mixer(spec, dataclasses.replace(SIZES[name], **given), two_times, vertices)
