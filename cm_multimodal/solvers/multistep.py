r"""Linear multistep integration: each step uses the predictions of the last few grid times, one call a step.

The first steps have fewer predictions. The weights are integrals of the polynomial through them,

.. math:: w_j = \int_a^b k(u) \prod_{i \ne j} \frac{c(u) - c_i}{c_j - c_i} \, du ,

on some clock c and with some kernel k, by Gauss-Legendre quadrature in float64: to rounding, as all of them are smooth.
"""

__all__ = ["Multistep", "gauss", "lagrange_weights"]

import numpy as np
import torch

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from torch import Tensor
from typing import ClassVar

from ..batch import Conditions
from ..maps import SolutionMap
from ..paths import Path
from ..random import Draws
from .base import Field, Knot, Linear, Solver, fresh_noise

NODES, SHARES = (torch.from_numpy(a) / 2 for a in np.polynomial.legendre.leggauss(32))
FEW_STEPS = 15


@dataclass(frozen=True)
class Multistep(Solver):
    """A solver with a memory.

    Arguments:
        points: The number of predictions that a step uses, once there are so many.

    Attributes:
        noise: Whether predictions are the noise.
        most: The most points there are weights for.
        tapers: Whether the last of few steps use fewer points, where the extrapolation reaches far.
    """

    points: int = 1
    noise: ClassVar[bool] = False
    tapers: ClassVar[bool] = False
    most: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if not (type(self.points) is int and 1 <= self.points <= self.most):
            raise ValueError(f"points is a whole number from 1 to {self.most}")

    @property
    def least_steps(self) -> int:
        return self.points

    @abstractmethod
    def step(self, path: Path, nodes: Sequence[Tensor], t: Tensor) -> Linear:
        """Returns the step from the newest of the nodes, the times of the predictions, to a time t, for steps in rows."""

    def correction(self, path: Path, nodes: Sequence[Tensor]) -> Linear | None:
        """Returns the same step once there is a prediction at its end, which is the newest node; none unless defined."""
        return None

    def __call__(
        self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions, draws: Draws | None = None
    ) -> Tensor:
        field, knots = Field(flow_map, cond, self.noise), Knot.of(flow_map.path, times).unbind()
        y = before = field.enter(x, knots[0])
        seen: list[Tensor] = []
        better: Linear | None = None
        for index, (linear, correction) in enumerate(self._plan(flow_map.path, times)):
            now = field.predict(y, knots[index])
            y = y if better is None else better(before, [now, *seen])
            seen = [now, *seen][: len(linear.weights)]
            z = None if linear.noise is None else fresh_noise(draws, index, y)
            before, y, better = y, linear(y, seen, z), correction
        return field.leave(y, knots[-1], x)

    def _plan(self, path: Path, times: Tensor) -> list[tuple[Linear, Linear | None]]:
        """Returns each step and its correction; steps with equally many points are made at once."""
        plan: list[tuple[Linear, Linear | None]] = []
        begin = 0
        for points, group in groupby(self._points(len(times) - 1)):
            end = begin + len(list(group))
            nodes, ends = [times[begin - back : end - back] for back in range(points)], times[begin + 1 : end + 1]
            corrections = self.correction(path, [ends, *nodes])
            after = [None] * (end - begin) if corrections is None else corrections.unbind()
            plan += zip(self.step(path, nodes, ends).unbind(), after, strict=True)
            begin = end
        return plan

    def _points(self, steps: int) -> list[int]:
        """Returns the number of points of each step: one more at a time, and fewer at the end if they taper."""
        tapers = self.tapers and steps < FEW_STEPS
        most = [min(self.points, steps - index) if tapers else self.points for index in range(steps)]
        return list(accumulate(most[1:], lambda count, limit: min(count + 1, limit), initial=1))


def gauss(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the positions and weights of a quadrature between two tensors, with a new first dimension."""
    shape = (-1, *(1,) * low.ndim)
    place, share = NODES.to(low.device).reshape(shape), SHARES.to(low.device).reshape(shape)
    return low + (high - low) * (0.5 + place), (high - low) * share


def lagrange_weights(nodes: Sequence[Tensor], at: Tensor, kernel: Tensor) -> list[Tensor]:
    """Returns the integral of each Lagrange polynomial of the nodes against a kernel, given at quadrature points.

    Arguments:
        nodes: The positions of the predictions, each with shape () or (B,).
        at: The quadrature points on the same clock, with shape (Q, *).
        kernel: The kernel there, times the quadrature's weights, with shape (Q, *).
    """
    weights = []
    for j, node in enumerate(nodes):
        basis = kernel
        for i, other in enumerate(nodes):
            basis = basis if i == j else basis * (at - other) / (node - other)
        weights.append(basis.sum(dim=0))
    return weights
