r"""Self-attention over the positions of a grid."""

__all__ = ["GridAttention", "heads_of"]

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .norm import GroupNorm


class GridAttention(nn.Module):
    """Multi-head self-attention with normalised queries and keys, added to its input.

    Arguments:
        channels: The number of channels.
        heads: The number of heads.
        groups: The largest number of groups of the normalisation.
        first_only: Whether positions attend along the first dimension of the grid only, so that all other dimensions may
            have any length.
    """

    def __init__(self, channels: int, heads: int, groups: int, first_only: bool = False) -> None:
        super().__init__()
        self.heads, self.first_only = heads, first_only
        self.norm = GroupNorm(channels, groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the attended state, with shape (B, C, *)."""
        if self.first_only and x.ndim > 3:
            return self._along_first(x)
        return x + self._attended(self.norm(x))

    def _along_first(self, x: Tensor) -> Tensor:
        columns = rearrange(self.norm(x).flatten(3), "b c f t -> (b t) c f")
        return x + rearrange(self._attended(columns), "(b t) c f -> b c f t", b=len(x)).reshape(x.shape)

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
