r"""SDE-DPM-Solver++: multistep on the reverse-time SDE, in the denoised state, with fresh noise in every step.

With one point this is DDIM with \(\eta = 1\).

References:
    | DPM-Solver++ (Lu et al., 2022), equation 18 and appendix B
"""

__all__ = ["SDEDPMSolverPP"]

from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor

from .exponential import Exponential


@dataclass(frozen=True)
class SDEDPMSolverPP(Exponential):
    """One call a step.

    Arguments:
        points: The predictions that a step uses, from 1 to 3.
        published: Whether two points have the weights of the authors' code, the middle of the line for its integral.
    """

    points: int = 2
    published: bool = False
    sde = True

    def weights(self, nodes: Sequence[Tensor], b: Tensor) -> list[Tensor]:
        return self.midpoint(nodes, b) if self.published and len(nodes) == 2 else self.exact(nodes, nodes[0], b)
