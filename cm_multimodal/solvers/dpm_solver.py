r"""DPM-Solver, singlestep: exponential Runge-Kutta in \(\lambda\), from the noise.

With the zeroth and first moments of the kernel k of :mod:`.exponential` over a step of length h from a,

.. math:: M_0(a, b) = \int_0^h k \, d\tau, \qquad M_1(a, b) = \int_0^h k \, \tau / h \, d\tau,

and predictions \(m_0\) at a, \(m_1\) at \(\lambda_a + r_1 h\) and \(m_2\) at \(\lambda_a + r_2 h\), the second order adds
\(M_0 m_0 + M_0 (m_1 - m_0) / 2 r_1\) with \(r_1 = 1/2\), and the third \(M_0 m_0 + M_1 (m_2 - m_0) / r_2\), where \(m_2\) is
made in a state with \(M_0 m_0 + M_1 (m_1 - m_0) r_2 / r_1\) over its own step, \(r_1 = 1/3, r_2 = 2/3\).

References:
    | DPM-Solver (Lu et al., 2022), algorithms 1 and 2
"""

__all__ = ["DPMSolver"]

import torch

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from torch import Tensor

from ..paths import Path
from .base import Linear
from .runge_kutta import RungeKutta, Stage


@dataclass(frozen=True)
class DPMSolver(RungeKutta):
    """As many calls a step as the order, but for one on the last.

    Arguments:
        order: 1 (DDIM), 2 or 3.
    """

    order: int = 2
    grid = "log_snr"
    noise = True

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError("order is 1, 2 or 3")

    @property
    def calls_a_step(self) -> int:
        return self.order

    def stages(self, path: Path, s: Tensor, t: Tensor) -> Sequence[Stage]:
        high, low = path.noise_ratio(s), path.noise_ratio(t)
        if self.order == 1:
            return [Stage(t, self._linear(high, low))]
        if self.order == 2:
            middle = torch.sqrt(high * low)
            return [
                Stage(path.time_of(middle), self._linear(high, middle)),
                Stage(t, self._linear(high, low, (0.0, 1.0))),
            ]
        first, second = (high * (low / high) ** far for far in (1 / 3, 2 / 3))
        return [
            Stage(path.time_of(first), self._linear(high, first)),
            Stage(path.time_of(second), self._linear(high, second, slope=(-2.0, 2.0))),
            Stage(t, self._linear(high, low, slope=(-1.5, 0.0, 1.5))),
        ]

    def _linear(self, high: Tensor, low: Tensor, mean: Sequence[float] = (1.0,), slope: Sequence[float] = ()) -> Linear:
        """Returns the step whose weights are these shares of the two moments."""
        zeroth, first = self._moments(high, low)
        shares = zip_longest(mean, slope, fillvalue=0.0)
        carry = torch.ones_like(low) if self.noise else low / high
        return Linear(carry, [zeroth * m + first * k for m, k in shares])

    def _moments(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.log(high / low)
        if self.noise:
            return low - high, low - (high - low) / h
        zeroth = 1 - low / high
        return zeroth, 1 - zeroth / h
