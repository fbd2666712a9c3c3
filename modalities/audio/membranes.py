r"""Struck membranes, computed: a data set that needs no file. It is synthetic.

A round membrane of fundamental f that is struck at a distance r from its centre swings in modes,

.. math::

    y(t) = \sum_{m, n} \frac{J_m(z_{mn} r)}{z_{mn} J_{m+1}(z_{mn})^2} e^{-d z_{mn} t} \sin(2 \pi f_{mn} t),
    \qquad f_{mn} = f z_{mn} / z_{01},

with the n-th zero z of the Bessel function J of order m, up to the highest frequency that the rate can hold. The classes
are six drums, each a fourth above the one before; where and how hard they are struck, and how they are damped, vary.

References:
    | The Physics of Musical Instruments (Fletcher & Rossing, 1998), section 3.5
"""

__all__ = ["DRUMS", "membranes"]

import math
import torch

from cm_multimodal.random import uniform
from scipy.special import jn_zeros, jv
from torch import Tensor

DRUMS = ("60 Hz", "80 Hz", "107 Hz", "143 Hz", "190 Hz", "254 Hz")
LOWEST, FOURTH = 60.0, 4 / 3
ORDERS, ZEROS = 5, 4
DETUNING = 0.02


def membranes(seed: int, ids: Tensor, rate: int, length: int) -> tuple[Tensor, Tensor]:
    """Returns waveforms, with shape (N, length), in float32, and their drums, with shape (N,): ids count through them."""
    drum = ids % len(DRUMS)
    u = uniform(seed, "membranes", ids, (4,)).double()
    pitch = LOWEST * FOURTH ** drum.double() * (1 + DETUNING * (2 * u[:, 0] - 1))
    place, damping, onset = 0.9 * u[:, 1], 2 + 6 * u[:, 2], 0.1 * u[:, 3] * length / rate
    time = (torch.arange(length).double() / rate - onset[:, None]).clamp_min(0.0)
    wave = torch.zeros(len(ids), length, dtype=torch.float64)
    first = float(jn_zeros(0, 1)[0])
    for order in range(ORDERS):
        for zero in map(float, jn_zeros(order, ZEROS)):
            frequency = pitch * zero / first
            size = torch.from_numpy(jv(order, zero * place.numpy())) / (zero * float(jv(order + 1, zero)) ** 2)
            decay = torch.exp(-(damping * zero)[:, None] * time)
            heard = torch.where(frequency < 0.45 * rate, size, 0.0)
            wave += heard[:, None] * decay * torch.sin(2 * math.pi * frequency[:, None] * time)
    return wave.float(), drum
