r"""What travels together through objectives, maps and networks: clean samples and what is known about them."""

__all__ = ["Batch", "Conditions", "told"]

import torch

from dataclasses import dataclass
from torch import Tensor

from .random import Draws


@dataclass(frozen=True)
class Conditions:
    """What a network is told about each sample besides its noisy state and times.

    Arguments:
        label: The class, with shape (B,) and int64; the number of classes stands for "none"; absent without classes.
        mask: Ones for real positions and zeros for padding, with shape (B, L...); absent where nothing is padded.
        dropout: Where dropout masks are drawn from; absent switches dropout off.
        known: What is known of the clean sample, with shape (B, *): a part of it and where it lies (`told`), or what
            else the modality tells of it; absent tells nothing.
    """

    label: Tensor | None = None
    mask: Tensor | None = None
    dropout: Draws | None = None
    known: Tensor | None = None

    def take(self, rows: Tensor | slice) -> "Conditions":
        """Returns the conditions of some of the rows."""
        return Conditions(
            None if self.label is None else self.label[rows],
            None if self.mask is None else self.mask[rows],
            None if self.dropout is None else self.dropout.take(rows),
            None if self.known is None else self.known[rows],
        )

    def to(self, device: torch.device) -> "Conditions":
        """Returns the conditions on a device."""
        return Conditions(
            None if self.label is None else self.label.to(device),
            None if self.mask is None else self.mask.to(device),
            None if self.dropout is None else self.dropout.to(device),
            None if self.known is None else self.known.to(device),
        )


def told(x: Tensor, where: Tensor) -> Tensor:
    """Returns what a network is told of clean samples, with shape (B, C + 1, *): their known part, and ones where it lies.

    Arguments:
        x: The samples, with shape (B, C, *).
        where: Ones where they are known and zeros elsewhere; it broadcasts to (B, 1, *).
    """
    where = where.to(x).expand(len(x), 1, *x.shape[2:])
    return torch.cat([x * where, where], dim=1)


@dataclass(frozen=True)
class Batch:
    """Clean samples in the model's space.

    Arguments:
        x: The samples, with shape (B, *).
        cond: Their conditions.
    """

    x: Tensor
    cond: Conditions = Conditions()
