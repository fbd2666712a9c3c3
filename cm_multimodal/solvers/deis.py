r"""DEIS: Adams-Bashforth on \(dy / d\rho = \hat\varepsilon\), with the noise extrapolated as a polynomial.

On the clock of the path this is tAB, :math:`y_b = y_a + \int \hat\varepsilon_{poly}(t(\rho)) \, d\rho`; in the noise ratio
itself it is \(\rho\)AB. With n points the order is n, but for what the lower
orders of its first steps leave; the paper's "tAB-r" has r + 1 points. tAB depends on the path.

References:
    | Fast Sampling of Diffusion Models with Exponential Integrator (Zhang & Chen, 2022), equations 14 and 15
"""

__all__ = ["DEIS"]

import torch

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from torch import Tensor

from ..paths import Path
from .base import Linear
from .multistep import Multistep, gauss, lagrange_weights

CLOCKS: dict[str, Callable[[Path, Tensor], Tensor]] = {
    "time": lambda path, ratio: path.time_of(ratio), "ratio": lambda path, ratio: ratio,
}  # fmt: skip


@dataclass(frozen=True)
class DEIS(Multistep):
    """One call a step.

    Arguments:
        points: The points of the polynomial.
        clock: What it is a polynomial in: 'time' (tAB) or 'ratio' (rho-AB).
    """

    points: int = 3
    clock: str = "time"
    grid = "quadratic"
    noise = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clock not in CLOCKS:
            raise ValueError(f"clock is one of {', '.join(CLOCKS)}")

    def step(self, path: Path, nodes: Sequence[Tensor], t: Tensor) -> Linear:
        # d(rho) = cosh(u) du: in u, where ratios from 0 to 80 are a short way, few nodes integrate either clock
        place, share = gauss(torch.asinh(path.noise_ratio(nodes[0])), torch.asinh(path.noise_ratio(t)))
        clock = CLOCKS[self.clock]
        seen = [clock(path, path.noise_ratio(node)) for node in nodes]
        weights = lagrange_weights(seen, clock(path, torch.sinh(place)), torch.cosh(place) * share)
        return Linear(torch.ones_like(weights[0]), weights)
