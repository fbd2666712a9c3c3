r"""DPM-Solver++, multistep, in the denoised state: "2M" with two points, "3M" with three.

References:
    | DPM-Solver++ (Lu et al., 2022), algorithm 2 and appendix B
"""

__all__ = ["DPMSolverPP"]

import math

from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor

from .exponential import Exponential


@dataclass(frozen=True)
class DPMSolverPP(Exponential):
    """One call a step; the order is the number of points.

    Arguments:
        points: The predictions that a step uses, from 1 to 3.
        published: Whether the weights are those of the authors' code. With two points they take the middle of the line for
            its integral; with three they lack a factor of 2 on the second difference, and the order is 2.
    """

    points: int = 2
    published: bool = False

    def weights(self, nodes: Sequence[Tensor], b: Tensor) -> list[Tensor]:
        exact = self.exact(nodes, nodes[0], b)
        if not self.published or len(nodes) == 1:
            return exact
        return self.midpoint(nodes, b) if len(nodes) == 2 else self._half_curved(nodes, exact, b)

    def _half_curved(self, nodes: Sequence[Tensor], exact: Sequence[Tensor], b: Tensor) -> list[Tensor]:
        at, kernel = self.kernel(nodes[0], b)
        half = (kernel * (at - nodes[0]) ** 2).sum(dim=0) / 2
        gaps = [math.prod(node - other for other in nodes if other is not node) for node in nodes]
        return [weight - half / gap for weight, gap in zip(exact, gaps, strict=True)]
