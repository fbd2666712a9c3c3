r"""What may be known of a text: some of its tokens."""

__all__ = ["EDITS", "measurement", "shown", "told"]

import torch

from cm_multimodal.editing import Measurement
from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.random import Draws
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from torch import Tensor
from typing import Any

from .tokens import END

EDITS = ("inpaint", "continue")
SHOWN = 0.25  # the share of training samples of which something is shown
MASKS = {"left": ((0.0, 0.5),), "right": ((0.5, 1.0),), "frame": ((0.0, 0.3), (0.7, 1.0))}


@dataclass(frozen=True)
class Part(Measurement):
    """A part of a text. Where it ends is known of the whole text; in front of what is known it must not end.

    Arguments:
        end: The clean state of the token that ends a text, with shape (D,).
    """

    end: Tensor = field(default_factory=lambda: torch.zeros(1))

    def project(self, x: Tensor, value: Tensor) -> Tensor:
        known, where = value[..., :-1], value[..., -1:]
        end = self.end.to(x)
        real = where[..., 0] * (known - end).abs().amax(dim=-1).gt(0)
        before = (real.flip(-1).cumsum(-1).flip(-1) > 0).to(x)[..., None] * (1 - where)
        share = (x @ end / end.square().sum())[..., None]
        x = x - before * (share.clamp_min(0) + 1) * end
        return torch.where(where > 0, known, x)


def measurement(
    how: str, options: Mapping[str, Any], numbers: Callable[[Tensor], Tensor], end: Tensor, mark: Tensor
) -> Measurement:
    """Returns the measurement of a kind of editing, for texts as clean states, with shape (B, L, D).

    `continue` knows the first half of a text; `inpaint` what `mask` says: left, right, or frame, all but the middle; to the
    right belongs where the text ends.

    Arguments:
        how: The kind.
        options: What it depends on: `mask`.
        numbers: Maps states to the numbers of their tokens, with shape (B, L); 0 ends a text.
        end: The state of that one, with shape (D,).
        mark: The state of a token that stands for what is not known, where it is shown.

    Raises:
        UsageError: The mask is none of these.
    """
    name = "left" if how == "continue" else str(options["mask"])
    if name not in MASKS:
        raise UsageError(f"mask={name} is no part of a text; {nearest(name, MASKS)}")

    def where(x: Tensor) -> Tensor:
        lasting = (numbers(x) != END).to(torch.int64).cumprod(dim=-1).sum(dim=-1, keepdim=True).clamp_min(1)
        place = ((torch.arange(x.shape[1], device=x.device) + 0.5) / lasting).clamp_max(1 - 1e-6)
        parts = [(place >= begin) & (place < end) for begin, end in MASKS[name]]
        return torch.stack(parts).any(dim=0)[..., None]

    def shown(value: Tensor) -> Tensor:
        return torch.where(value[..., -1:] > 0, value[..., :-1], mark.to(value))

    return Part(lambda x: told(x, where(x)), shown, lambda x: told(x, where(x)), end)


def told(x: Tensor, where: Tensor) -> Tensor:
    """Returns what a network is told of samples, with shape (B, L, D + 1): their known tokens, and ones where they lie.

    Arguments:
        x: The samples, with shape (B, L, D).
        where: Ones where they are known and zeros elsewhere; it broadcasts to (B, L, 1).
    """
    where = where.to(x).expand(len(x), x.shape[1], 1)
    return torch.cat([x * where, where], dim=-1)


def shown(draws: Draws, length: int) -> Tensor:
    """Returns where training samples are shown, with shape (B, L, 1): of every fourth all but a gap, or any tokens.

    A third of the gaps reach to the end, so that the network learns to go on; a third are no gaps, but places at random.
    """
    u, places = draws.uniform("shown", (4,)), draws.uniform("shown/places", (length,))
    begin, end = u[:, 0] * u[:, 1].sqrt(), u[:, 1].sqrt()
    end = torch.where(u[:, 2] < 1 / 3, 1.0, end)
    place = (torch.arange(length, device=u.device) + 0.5) / length
    gap = (place >= begin[:, None]) & (place < end[:, None])
    gap = torch.where(u[:, 2:3] > 2 / 3, places < u[:, 1:2], gap)
    return (~gap & (u[:, 3:] < SHOWN)).to(u.dtype)[:, :, None]
