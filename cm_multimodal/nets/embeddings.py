r"""Embeddings of times and classes.

Times arrive as \(n \in [0, \pi/2]\) in float64 and are embedded in float32 under any autocast.
"""

__all__ = ["ConditionEmbedding", "TimeFeatures"]

import math
import torch

from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Conditions


class TimeFeatures(nn.Module):
    r"""Sines and cosines of a time at geometrically spaced frequencies.

    Arguments:
        features: The number of features, even.
        lowest: The lowest angular frequency.
        highest: The highest angular frequency; higher ones make derivatives by time noisy.
    """

    def __init__(self, features: int, lowest: float = 0.5, highest: float = 8.0) -> None:
        super().__init__()
        ramp = torch.linspace(math.log(lowest), math.log(highest), features // 2)
        self.frequencies: Tensor
        self.register_buffer("frequencies", ramp.exp(), persistent=False)

    def forward(self, n: Tensor) -> Tensor:
        """Returns the features, with shape (*, features), of times with shape (*)."""
        angle = n.to(self.frequencies.dtype)[..., None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ConditionEmbedding(nn.Module):
    """Embeds the source time, the length of the jump if the network is told the target, and the class.

    Arguments:
        width: The number of channels of the embedding.
        two_times: Whether the network is told the target time.
        classes: The number of classes; one more entry stands for "none".

    Attributes:
        grows: The layers whose inputs may come to be more, the new ones after the others.
    """

    grows = ("mix",)

    def __init__(self, width: int, two_times: bool, classes: int = 0) -> None:
        super().__init__()
        self.features, self.two_times, self.classes = TimeFeatures(width), two_times, classes
        self.mix = nn.Linear(width * (1 + two_times), width)
        self.out = nn.Linear(width, width)
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        """Returns the embedding, with shape (B, *, width), of times with shape (B, *)."""
        with torch.autocast(n_s.device.type, enabled=False):
            parts = [self.features(n_s)] + ([self.features(n_s - n_t)] if self.two_times else [])
            hidden = self.mix(torch.cat(parts, dim=-1))
            if self.label is not None:
                label = torch.full(n_s.shape[:1], self.classes, device=n_s.device) if cond.label is None else cond.label
                entry = self.label(label)
                hidden = hidden + entry.reshape(len(entry), *(1,) * (hidden.ndim - 2), -1)
            return F.silu(self.out(F.silu(hidden)))
