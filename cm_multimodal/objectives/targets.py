r"""Target networks: whose weights compute the side of a loss that has no gradient."""

__all__ = ["Averaged", "Online", "Target"]

import copy
import torch

from abc import ABC, abstractmethod
from torch import Tensor, nn

from ..maps import SolutionMap


class Target(nn.Module, ABC):
    """The weights of a target. What it holds is part of an objective's state: saved, not exported."""

    @abstractmethod
    def prepare(self, flow_map: SolutionMap) -> None:
        """Gets ready for a map, before training begins or goes on."""

    @abstractmethod
    def follow(self, flow_map: SolutionMap, keep: float | None = None) -> None:
        """Follows the map after an update of its weights.

        Arguments:
            flow_map: The map.
            keep: The share of the old weights that is kept; its own unless given.
        """

    @abstractmethod
    def map(self, flow_map: SolutionMap) -> SolutionMap:
        """Returns the map with the target's weights."""


class Online(Target):
    """The weights that learn, as they are."""

    def prepare(self, flow_map: SolutionMap) -> None:
        pass

    def follow(self, flow_map: SolutionMap, keep: float | None = None) -> None:
        pass

    def map(self, flow_map: SolutionMap) -> SolutionMap:
        return flow_map


class Averaged(Target):
    """A moving average of the weights that learn, in a map of its own.

    Arguments:
        keep: The share of the old average that an update keeps.
    """

    def __init__(self, keep: float = 0.999) -> None:
        super().__init__()
        if not 0 <= keep <= 1:
            raise ValueError("keep is a share between 0 and 1")
        self.keep = keep
        self.average: SolutionMap | None = None

    def prepare(self, flow_map: SolutionMap) -> None:
        self.average = copy.deepcopy(flow_map)
        if isinstance(self.average, nn.Module):
            self.average.requires_grad_(False)

    @torch.no_grad()
    def follow(self, flow_map: SolutionMap, keep: float | None = None) -> None:
        pairs = list(zip(_weights(self.average), _weights(flow_map), strict=True))
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        if numbers:
            share = 1 - (self.keep if keep is None else keep)
            torch._foreach_lerp_([old for old, _ in numbers], [new for _, new in numbers], share)
        for old, new in pairs:
            if not old.is_floating_point():
                old.copy_(new)

    def map(self, flow_map: SolutionMap) -> SolutionMap:
        if self.average is None:
            self.prepare(flow_map)
        assert self.average is not None
        return self.average


def _weights(flow_map: object) -> list[Tensor]:
    """Returns all parameters and buffers; a map that is known exactly has none."""
    return list(flow_map.state_dict().values()) if isinstance(flow_map, nn.Module) else []
