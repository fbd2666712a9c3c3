r"""What every solver is: an integrator of the probability-flow ODE that uses the map's diagonal alone."""

__all__ = ["Solver"]

from abc import ABC, abstractmethod
from torch import Tensor

from ..batch import Conditions
from ..maps import SolutionMap


class Solver(ABC):
    """Follows the flow down a grid of times."""

    def needs(self, steps: int) -> frozenset[str]:
        """Returns which parts of the map must have been learned."""
        return frozenset({"diagonal"})

    @abstractmethod
    def __call__(self, flow_map: SolutionMap, x: Tensor, times: Tensor, cond: Conditions) -> Tensor:
        """Returns the states at the last time, with shape (B, *).

        Arguments:
            flow_map: The map; only its diagonal is asked.
            x: States at the first time, with shape (B, *).
            times: The decreasing grid on the map's path, with shape (steps + 1,), or (steps + 1, B) for one grid a sample.
                To clean samples it ends in 0.
            cond: The conditions.
        """
