r"""SDE-DPM-Solver: multistep on the reverse-time SDE, in the noise, with fresh noise in every step.

References:
    | DPM-Solver++ (Lu et al., 2022), equations 16 and 17
"""

__all__ = ["SDEDPMSolver"]

from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor

from .exponential import Exponential


@dataclass(frozen=True)
class SDEDPMSolver(Exponential):
    """One call a step. It is fragile in few steps: what a step takes out and adds is more than is left.

    Arguments:
        points: The predictions that a step uses, from 1 to 3.
    """

    points: int = 1
    sde = True
    noise = True

    def weights(self, nodes: Sequence[Tensor], b: Tensor) -> list[Tensor]:
        return self.exact(nodes, nodes[0], b)
