r"""What every objective is.

An objective composes an identity of the solution map, a step, a velocity source, a stop-gradient, a metric and a
measure of times into one number to minimise. It declares what it learns and what it needs.
"""

__all__ = ["Objective", "requires"]

import torch

from abc import ABC, abstractmethod
from torch import nn

from ..batch import Batch
from ..derivatives import perturbed
from ..errors import UsageError
from ..losses import Loss
from ..maps import FlowMap, SolutionMap
from ..random import Draws
from .targets import Online, Target


class Objective(nn.Module, ABC):
    """Learns a part of the solution map. Helpers that are learned along with it are its parameters.

    Attributes:
        learned: Which parts of the map it learns: any of 'diagonal', 'edge' and 'triangle'.
        two_times: Whether the network is told the target time.
        group: How many neighbouring samples belong together, and have to come together.
        target: Whose weights compute its targets.
    """

    learned: frozenset[str]
    two_times: bool
    group: int = 1

    def __init__(self, target: Target | None = None) -> None:
        super().__init__()
        self.target = Online() if target is None else target

    @abstractmethod
    def loss(self, flow_map: SolutionMap, batch: Batch, draws: Draws, progress: float) -> Loss:
        """Returns the loss of a batch.

        Arguments:
            flow_map: The map that learns.
            batch: Clean samples and their conditions.
            draws: Where random numbers come from, keyed by the batch's global sample ids.
            progress: The share of the training that is done, between 0 and 1.
        """

    def prepare(self, flow_map: SolutionMap) -> None:
        """Gets ready for a map before training begins or goes on."""
        self.target.prepare(flow_map)

    def updated(self, flow_map: SolutionMap, progress: float) -> None:
        """Is told that the map's weights were updated."""
        self.target.follow(flow_map)

    def self_check(self, flow_map: SolutionMap, batch: Batch) -> list[str]:
        """Proves before the first step that what the objective relies on works here; returns sentences for the log.

        Raises:
            UsageError: It cannot work here: a network that is blind to the target time, a limit that the path does not have,
                a derivative that the network cannot give.
        """
        if isinstance(flow_map, FlowMap):
            requires(
                self.learned <= {"edge"} or not flow_map.scaling.edge_only,
                "objective.scaling=edm_floor knows jumps to clean data only, and this objective learns more; "
                "use objective.scaling=rotation.",
            )
        if self.two_times and isinstance(flow_map, FlowMap):
            _check_two_times(flow_map, batch)
        return []


def _check_two_times(flow_map: FlowMap, batch: Batch) -> None:
    probe, rows = perturbed(flow_map), torch.arange(len(batch.x), device=batch.x.device)
    x, s = Draws(0, rows).noise("state", tuple(batch.x.shape[1:]), torch.float64), torch.ones_like(rows).double()
    s = flow_map.path.time_of(s)
    with torch.no_grad():
        near, far = (probe.network(x, s, share * s, batch.cond) for share in (0.9, 0.1))
    requires(
        not torch.equal(near, far),
        "This network takes no account of the target time, and the objective learns jumps to any; objective=flow_matching, "
        "denoising, easy_consistency or continuous_consistency learn with one time.",
    )


def requires(fact: bool, sentence: str) -> None:
    """Raises a UsageError with a sentence unless something is so."""
    if not fact:
        raise UsageError(sentence)
