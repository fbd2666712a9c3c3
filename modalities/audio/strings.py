r"""Plucked strings, computed: a data set that needs no file. It is synthetic.

A stiff, damped string of fundamental f that is plucked at a share b of its length and released swings in modes,

.. math:: y(t) = \sum_n \frac{\sin(\pi n b)}{n^2} e^{-(d + e n^2) t} \sin(2 \pi f_n t), \qquad f_n = n f \sqrt{1 + B n^2},

up to the highest frequency that the rate can hold. The classes are the twelve notes of the octave from C3; each note is
tuned within five cents, and where it is plucked, how it is damped and how stiff it is vary.

References:
    | The Physics of Musical Instruments (Fletcher & Rossing, 1998), sections 2.7 and 2.18
"""

__all__ = ["NOTES", "fundamental", "strings"]

import math
import torch

from cm_multimodal.random import uniform
from torch import Tensor

NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
LOWEST = 130.8127826502993  # C3, in hertz
DETUNING = 5.0  # cents, at most
MODES = 24


def fundamental(note: Tensor) -> Tensor:
    """Returns the frequencies, in hertz, of notes counted from C3."""
    return LOWEST * 2 ** (note.double() / len(NOTES))


def strings(seed: int, ids: Tensor, rate: int, length: int) -> tuple[Tensor, Tensor]:
    """Returns waveforms, with shape (N, length), in float32, and their notes, with shape (N,): ids count through them."""
    note = ids % len(NOTES)
    u = uniform(seed, "strings", ids, (6,)).double()
    pitch = fundamental(note) * 2 ** ((2 * u[:, 0] - 1) * DETUNING / 1200)
    pluck, damping, high_damping = 0.08 + 0.4 * u[:, 1], 2 + 6 * u[:, 2], 0.02 + 0.1 * u[:, 3]
    stiffness, onset = 1e-4 * u[:, 4], 0.1 * u[:, 5] * length / rate
    time = (torch.arange(length).double() / rate - onset[:, None]).clamp_min(0.0)
    wave = torch.zeros(len(ids), length, dtype=torch.float64)
    for n in range(1, MODES + 1):
        frequency = n * pitch * torch.sqrt(1 + stiffness * n**2)
        size = torch.where(frequency < 0.45 * rate, torch.sin(math.pi * n * pluck) / n**2, 0.0)
        decay = torch.exp(-(damping + high_damping * n**2)[:, None] * time)
        wave += size[:, None] * decay * torch.sin(2 * math.pi * frequency[:, None] * time)
    return wave.float(), note
