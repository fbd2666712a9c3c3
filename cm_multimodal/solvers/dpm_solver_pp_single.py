r"""DPM-Solver++, singlestep: :mod:`.dpm_solver` in the denoised state.

References:
    | DPM-Solver++ (Lu et al., 2022), algorithm 1
"""

__all__ = ["DPMSolverPPSingle"]

from dataclasses import dataclass

from .dpm_solver import DPMSolver


@dataclass(frozen=True)
class DPMSolverPPSingle(DPMSolver):
    """As many calls a step as the order, but for one on the last.

    Arguments:
        order: 1 (DDIM), 2 or 3.
    """

    noise = False
