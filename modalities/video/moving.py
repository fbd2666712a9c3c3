r"""Pictures that drift and bounce: clips computed from still pictures, by the protocol of Moving MNIST.

A picture begins anywhere in the room that the frame leaves it, moves with a constant velocity of random direction, and is
reflected by the walls,

.. math:: p \leftarrow \operatorname{clip}(p + v, 0, \text{room}), \qquad v \leftarrow -v \text{ where that was clipped};

it is drawn at the whole part of its place, and where two meet, the brighter pixel is seen. Here the speed varies from clip
to clip. What the clips show is as real as the pictures are; how it moves is synthetic.

References:
    | Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015), section 4.1
"""

__all__ = ["Motion", "moving", "places"]

import math
import torch

from cm_multimodal.random import Draws
from dataclasses import dataclass
from torch import Tensor


@dataclass(frozen=True)
class Motion:
    """How pictures move.

    Arguments:
        frames: The frames of a clip.
        size: The pixels of a frame's side.
        together: The pictures in a clip.
        slowest: The lowest speed, in pixels a frame.
        fastest: The highest.
    """

    frames: int
    size: int
    together: int = 1
    slowest: float = 0.5
    fastest: float = 1.5


def places(draws: Draws, motion: Motion, room: tuple[int, int]) -> Tensor:
    """Returns where pictures lie, with shape (N, together, frames, 2), in pixels from the top and from the left.

    Arguments:
        draws: Where the numbers come from.
        motion: How they move.
        room: The pixels that a frame is higher and wider than a picture.
    """
    u = draws.uniform("motion", (motion.together, 4))
    wall = torch.tensor(room, dtype=u.dtype)
    angle, speed = 2 * math.pi * u[..., 2], motion.slowest + (motion.fastest - motion.slowest) * u[..., 3]
    place, velocity = u[..., :2] * wall, torch.stack([angle.sin(), angle.cos()], dim=-1) * speed[..., None]
    path = [place]
    for _ in range(motion.frames - 1):
        ahead = place + velocity
        place = ahead.clamp_min(0).minimum(wall)
        velocity = torch.where(place == ahead, velocity, -velocity)
        path.append(place)
    return torch.stack(path, dim=2)


def moving(pictures: Tensor, draws: Draws, motion: Motion) -> tuple[Tensor, Tensor]:
    """Returns clips, with shape (N, frames, 1, size, size), in uint8, and what is in them, with shape (N, together).

    The latter are numbers of pictures.

    Arguments:
        pictures: Grey pictures with shape (M, h, w), in uint8, no larger than a frame.
        draws: Where the numbers come from: a clip is a function of the seed and its id.
        motion: How they move.
    """
    high, wide = pictures.shape[1:]
    which = (draws.uniform("picture", (motion.together,)) * len(pictures)).long()
    corner = places(draws, motion, (motion.size - high, motion.size - wide)).long()
    clips = torch.zeros(len(which), motion.frames, 1, motion.size, motion.size, dtype=torch.uint8)
    clip = torch.arange(len(which))[:, None, None, None]
    frame = torch.arange(motion.frames)[None, :, None, None]
    for one in range(motion.together):
        rows = corner[:, one, :, 0, None, None] + torch.arange(high)[:, None]
        columns = corner[:, one, :, 1, None, None] + torch.arange(wide)
        seen = clips[clip, frame, 0, rows, columns]
        clips[clip, frame, 0, rows, columns] = seen.maximum(pictures[which[:, one], None])
    return clips, which
