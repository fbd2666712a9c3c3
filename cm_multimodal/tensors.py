r"""Small operations on tensors of shape \((B, *)\) that every other module shares."""

__all__ = ["expand_right", "masked_mean", "position_mask", "real_elements", "row_mean", "where_rows"]

import torch

from torch import Tensor


def expand_right(t: Tensor, x: Tensor) -> Tensor:
    """Appends dimensions of size one to `t`, with shape (B, ...), until it broadcasts against `x`, with shape (B, *)."""
    if t.ndim > x.ndim:
        raise ValueError(f"a tensor of shape {tuple(t.shape)} does not broadcast to {tuple(x.shape)}")
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Averages over everything but the first dimension, with shape (B,); padding, where `mask` is zero, does not count.

    Arguments:
        values: Per-element values, with shape (B, *).
        mask: Ones for real positions, with shape (B, *) or a shape that broadcasts to the right of it.
    """
    if mask is None:
        return row_mean(values)
    return (values * position_mask(mask, values)).flatten(1).sum(dim=1) / real_elements(values, mask)


def real_elements(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Counts the elements of each sample of `values`, with shape (B, *), that are no padding, at least one."""
    if mask is None:
        return torch.full_like(values.flatten(1)[:, 0], values[0].numel())
    return position_mask(mask, values).flatten(1).sum(dim=1).clamp_min(1.0)


def position_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Expands a mask, with shape (B, ...), to the shape and type of `x`, with shape (B, *)."""
    return expand_right(mask.to(x.dtype), x).expand_as(x)


def where_rows(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Takes `new` for the rows that are marked, with shape (B,), and `old`, with shape (B, *), for the others."""
    return torch.where(expand_right(rows, old), new, old)


def row_mean(values: Tensor) -> Tensor:
    """Averages over everything but the first dimension, with shape (B,); what has that shape stays as it is."""
    return values.flatten(1).mean(dim=1) if values.ndim > 1 else values
