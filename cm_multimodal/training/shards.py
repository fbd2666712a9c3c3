r"""Weights in parts (FSDP2): each process keeps its share of every tensor, of its averages and of what the optimiser holds.

Objectives call their network as often as their draws ask, which may differ between processes, and some differentiate
it forwards. So an update begins with all weights put together and ends with them apart again: in between each process
computes as if it were alone, and only gradients are summed up, and taken apart, as the backward pass goes. At the most a
process then holds the weights once, the gradients of a block, and its share of everything else.

References:
    | ZeRO: Memory Optimizations Toward Training Trillion Parameter Models (Rajbhandari et al., 2020): stage 2
"""

__all__ = ["apart", "held", "in_parts", "like", "shard", "together", "whole"]

import torch

from collections.abc import Iterable, Mapping
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from typing import Any


def shard(net: nn.Module, processes: int, device: torch.device) -> None:
    """Takes the weights of a network apart, block by block: what stands in a list of modules is a block."""
    mesh = init_device_mesh(device.type, (processes,))
    lists = [part for part in net.modules() if isinstance(part, nn.ModuleList)]
    blocks = [block for part in reversed(lists) for block in part if next(block.parameters(), None) is not None]
    for block in [*blocks, net]:
        fully_shard(block, mesh=mesh, reshard_after_forward=False)
    for part in _parts(net):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
        part.set_reshard_after_backward(False)


def held(weights: Iterable[Tensor]) -> int:
    """Returns how many numbers of some weights this process holds."""
    return sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in weights)


def in_parts(weights: Iterable[Tensor]) -> bool:
    """Says whether there is a weight of which this process holds a part."""
    return any(isinstance(weight, DTensor) for weight in weights)


def together(module: nn.Module) -> None:
    """Puts the weights of all networks in a module together, where they are apart; all processes do."""
    for part in _parts(module):
        part.unshard()


def apart(module: nn.Module) -> None:
    """Lets go of the parts that belong to others."""
    for part in _parts(module):
        part.reshard()


def whole(value: Any) -> Any:
    """Returns a state with every tensor whole; all processes ask for it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: whole(part) for key, part in value.items()}
    return [whole(part) for part in value] if isinstance(value, list) else value


def like(value: Any, other: Any) -> Any:
    """Returns a whole state in parts as another one, of the same form, is; the same where that is whole."""
    if isinstance(other, DTensor):
        return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return {key: like(part, other.get(key)) for key, part in value.items()}
    return value


def _parts(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]
