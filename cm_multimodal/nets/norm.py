r"""Group normalisation that can be differentiated forwards in any memory format.

The native forward rule fails on channels-last tensors, so that under forward-mode differentiation the same function is
written out in primitive operations.

A scale and a shift per sample cost nothing: the channels of all samples are those of one sample, whose weights are the
adapted ones.
"""

__all__ = ["GroupNorm"]

import torch

from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from ..tensors import expand_right


class GroupNorm(nn.Module):
    """Normalises groups of channels to zero mean and unit variance, then rescales each channel.

    Arguments:
        channels: The number of channels.
        groups: The largest number of groups; fewer where they would hold less than four channels or not divide them.
    """

    def __init__(self, channels: int, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        groups = min(groups, max(1, channels // 4))
        while channels % groups:
            groups -= 1
        self.groups, self.eps = groups, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised state, with shape (B, C, *)."""
        if forward_ad.unpack_dual(x).tangent is None:
            return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        grouped = x.unflatten(1, (self.groups, -1))
        over = tuple(range(2, grouped.ndim))
        centred = grouped - grouped.mean(dim=over, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(dim=over, keepdim=True) + self.eps)
        weight, bias = (expand_right(p[None], x) for p in (self.weight, self.bias))
        return torch.addcmul(bias, (centred * scale).flatten(1, 2), weight)

    def adapted(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Returns the normalised state, with shape (B, C, *), times one plus `scale`, plus `shift`.

        Arguments:
            x: The state, with shape (B, C, *).
            scale: What is added to the scale of each channel, with a shape that broadcasts against the state's.
            shift: What is added to each channel, likewise.
        """
        per_sample = scale.numel() == shift.numel() == len(x) * x.shape[1]
        if not per_sample or not x.is_contiguous() or forward_ad.unpack_dual(x).tangent is not None:
            return torch.addcmul(shift, self(x), 1 + scale)
        scale, shift = scale.flatten(1), shift.flatten(1)
        weight, bias = (
            torch.addcmul(self.weight, self.weight, scale),
            torch.addcmul(self.bias + shift, self.bias, scale),
        )
        channels = x.view(1, -1, *x.shape[2:])
        normed = F.group_norm(channels, len(x) * self.groups, weight.flatten(), bias.flatten(), self.eps)
        return normed.view(x.shape)
