r"""What may be known of a text: some of its tokens."""

__all__ = ["EDITS", "measurement", "shown", "told"]

import torch

from cm_multimodal.editing import Measurement
from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.random import Draws
from collections.abc import Mapping
from torch import Tensor
from typing import Any

EDITS = ("inpaint", "continue")
SHOWN = 0.25  # the share of training samples of which something is shown
MASKS = {"left": ((0.0, 0.5),), "right": ((0.5, 1.0),), "frame": ((0.0, 0.3), (0.7, 1.0))}


def measurement(how: str, options: Mapping[str, Any], shape: tuple[int, ...]) -> Measurement:
    """Returns the measurement of a kind of editing, for one-hot tokens of shape (L, K).

    `continue` knows the first half of a text; `inpaint` what `mask` says: left, right, or frame, all but the middle.

    Raises:
        UsageError: The mask is none of these.
    """
    name = "left" if how == "continue" else str(options["mask"])
    if name not in MASKS:
        raise UsageError(f"mask={name} is no part of a text; {nearest(name, MASKS)}")
    place = (torch.arange(shape[0]) + 0.5) / shape[0]
    where = torch.stack([(place >= begin) & (place < end) for begin, end in MASKS[name]]).any(dim=0)[:, None]
    return Measurement(lambda x: x * where.to(x), lambda x: x, lambda x: told(x, where))


def told(x: Tensor, where: Tensor) -> Tensor:
    """Returns what a network is told of samples, with shape (B, L, K + 1): their known tokens, and ones where they lie.

    Arguments:
        x: The samples, with shape (B, L, K).
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
