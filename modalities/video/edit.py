r"""What may be known of a clip: some of its frames."""

__all__ = ["EDITS", "copied", "given", "measurement", "shown"]

import torch

from cm_multimodal.batch import told
from cm_multimodal.editing import Measurement
from cm_multimodal.random import Draws
from torch import Tensor

from .noise import SharedNoise

EDITS = ("predict", "fill", "rewind")
SHOWN = 0.5  # the share of training samples of which something is shown


def given(how: str, frames: int) -> Tensor:
    """Returns which frames of a clip a kind of editing knows, with shape (T,).

    `predict` knows the first half of a clip; `rewind` the last half; `fill` all but the middle half.
    """
    place = (torch.arange(frames) + 0.5) / frames
    return {
        "predict": place < 0.5,
        "rewind": place > 0.5,
        "fill": (place < 0.25) | (place > 0.75),
    }[how]


def copied(raw: Tensor, known: Tensor) -> Tensor:
    """Returns clips, with shape (N, T, *), whose frames that are not known are copies of the nearest known one.

    Arguments:
        raw: The clips.
        known: Which frames are known, with shape (T,); of two that are equally near, the earlier one is copied.
    """
    frames = torch.arange(len(known))
    return raw[:, frames[known][(frames[:, None] - frames[known]).abs().argmin(dim=1)]]


def measurement(how: str, shape: tuple[int, ...], noise: SharedNoise) -> Measurement:
    """Returns the measurement of a kind of editing, for tensors of shape (C, T, H, W), whitened against their noise."""
    where = given(how, shape[1]).float().reshape(1, -1, 1, 1).expand(1, *shape[1:])
    return Measurement(
        lambda x: noise.coloured(x) * where.to(x), noise.whitened, lambda x: told(noise.coloured(x), where)
    )


def shown(draws: Draws, shape: tuple[int, ...]) -> Tensor:
    """Returns what a network is told of training samples, with shape (B, 1, T, H, W): of every second all but a gap.

    The gap is a run of frames; half of the gaps reach to the end, so that the network learns to go on.
    """
    u, frames = draws.uniform("shown", (4,)), shape[1]
    length = 1 + (u[:, 0] * (frames - 1)).long()
    begin = (u[:, 1] * (frames - length + 1)).long()
    begin = torch.where(u[:, 2] < 0.5, frames - length, begin)
    place = torch.arange(frames, device=u.device)
    gap = (place >= begin[:, None]) & (place < (begin + length)[:, None])
    known = (~gap & (u[:, 3:] < SHOWN)).to(u.dtype)
    return known.reshape(len(u), 1, -1, 1, 1).expand(-1, -1, *shape[1:])
