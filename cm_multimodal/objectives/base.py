r"""What every objective is.

An objective composes an identity of the solution map, a step, a velocity source, a stop-gradient, a metric and a
measure of times into one number to minimise. It declares what it learns and what it needs.
"""

__all__ = ["Objective"]

from abc import ABC, abstractmethod
from torch import nn

from ..batch import Batch
from ..losses import Loss
from ..maps import SolutionMap
from ..random import Draws


class Objective(nn.Module, ABC):
    """Learns a part of the solution map. Helpers that are learned along with it are its parameters.

    Attributes:
        learned: Which parts of the map it learns: any of 'diagonal', 'edge' and 'triangle'.
        two_times: Whether the network is told the target time.
    """

    learned: frozenset[str]
    two_times: bool

    @abstractmethod
    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        """Returns the loss of a batch.

        Arguments:
            flow_map: The map that learns.
            batch: Clean samples and their conditions.
            draws: Where random numbers come from, keyed by the batch's global sample ids.
            progress: The share of the training that is done, between 0 and 1.
        """

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        """Proves before the first step that what the objective relies on works here; returns sentences for the log."""
        return []
