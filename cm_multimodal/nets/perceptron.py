r"""A residual perceptron on vectors, for data whose map is known."""

__all__ = ["Perceptron"]

from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Conditions
from .embeddings import ConditionEmbedding


class Perceptron(nn.Module):
    """Residual layers on vectors, with shape (B, D), told one time or two.

    Arguments:
        dimensions: The length D of a vector.
        width: The number of hidden channels.
        depth: The number of hidden layers.
        two_times: Whether it is told the target time.
    """

    def __init__(self, dimensions: int, width: int, depth: int, two_times: bool) -> None:
        super().__init__()
        self.embedding = ConditionEmbedding(width, two_times)
        self.enter, self.out = nn.Linear(dimensions, width), nn.Linear(width, dimensions)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.shifts = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        told = self.embedding(n_s, n_t, cond).to(x.dtype)
        h = self.enter(x)
        for layer, shift in zip(self.layers, self.shifts, strict=True):
            h = h + layer(F.silu(h + shift(told)))
        return self.out(F.silu(h))
