r"""What may be known of a clip: some of its time, or its log-mel spectrogram."""

__all__ = ["EDITS", "VOCODE", "measurement", "shown", "vocoding"]

import torch

from cm_multimodal.editing import Hint, Measurement, masked
from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.random import Draws
from collections.abc import Mapping
from torch import Tensor
from typing import Any

from .vocoder import Hearsay

EDITS = ("inpaint", "continue")
VOCODE = "vocode"
SHOWN = 0.25  # the share of training samples of which something is shown
MASKS = {"left": ((0.0, 0.5),), "right": ((0.5, 1.0),), "frame": ((0.0, 0.3), (0.7, 1.0))}


def measurement(how: str, options: Mapping[str, Any], shape: tuple[int, ...]) -> Measurement:
    """Returns the measurement of a kind of editing, for tensors of shape (C, *, frames).

    `continue` knows the first half of a clip; `inpaint` what `mask` says: left, right, or frame, all but the middle.

    Raises:
        UsageError: The mask is none of these.
    """
    name = "left" if how == "continue" else str(options["mask"])
    if name not in MASKS:
        raise UsageError(f"mask={name} is no part of a clip; {nearest(name, MASKS)}")
    place = (torch.arange(shape[-1]) + 0.5) / shape[-1]
    where = torch.stack([(place >= begin) & (place < end) for begin, end in MASKS[name]]).any(dim=0)
    return masked(where.expand(1, *shape[1:]))


def vocoding(hearsay: Hearsay) -> Measurement:
    """Returns what a vocoder is told of clips: their log-mel spectrogram, shown by Griffin and Lim's iteration."""
    transform, mel = hearsay.transform, hearsay.mel
    return Hint(
        lambda x: mel.encode(transform.decode(x)),
        lambda told: transform.encode(mel.decode(told)),
        lambda x: hearsay.of(transform.decode(x)),
    )


def shown(draws: Draws, shape: tuple[int, ...]) -> Tensor:
    """Returns what a network is told of training samples, with shape (B, 1, *): of every fourth all but a gap.

    Half of the gaps reach to the end, so that the network learns to go on.
    """
    u = draws.uniform("shown", (4,))
    begin, end = u[:, 0] * u[:, 1].sqrt(), u[:, 1].sqrt()
    end = torch.where(u[:, 2] < 0.5, 1.0, end)
    place = (torch.arange(shape[-1], device=u.device) + 0.5) / shape[-1]
    gap = (place >= begin[:, None]) & (place < end[:, None])
    known = (~gap & (u[:, 3:] < SHOWN)).to(u.dtype)
    return known.reshape(len(u), 1, *(1,) * (len(shape) - 2), -1).expand(-1, -1, *shape[1:])
