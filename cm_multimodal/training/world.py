r"""The processes that train one run together.

Each holds the whole network and computes the gradient of its own rows of the global batch; the sum over all of them is
taken explicitly, once an update, after the last micro-batch. No hook on a forward pass is involved, so that a derivative
that an objective takes by itself cannot slip past it.
"""

__all__ = ["World", "find_world"]

import contextlib
import datetime
import hashlib
import os
import re
import torch
import torch.distributed as dist

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from lightning.fabric.plugins.environments import SLURMEnvironment
from torch import Tensor

from ..errors import UsageError, UserError
from ..machine import free_cores

MEETING = datetime.timedelta(minutes=10)  # until all processes are there
PATIENCE = datetime.timedelta(hours=2)  # while one process writes or draws and the others wait


@dataclass(frozen=True)
class World:
    """This process among all of a run; alone unless given otherwise.

    Arguments:
        rank: Its number; 0 is the one that writes.
        size: How many there are.
        local_rank: Its number on its own machine.
        local_size: How many there are on its machine.
        address: Where they meet; a method that torch.distributed understands.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = "env://"

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Connects the processes, as long as the context lasts."""
        if self.size == 1 or dist.is_initialized():
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            store, rank, size = next(dist.rendezvous(self.address, self.rank, self.size, timeout=MEETING))
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"The {self.size} processes of this run did not find each other: {error}") from error
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def device(self, kind: torch.device) -> torch.device:
        """Returns this process's own device of a kind: the GPU of its number, or the only one that it was given.

        Raises:
            UsageError: There are more processes than GPUs.
        """
        if kind.type != "cuda" or self.size == 1:
            return kind
        count = torch.cuda.device_count()
        if self.local_rank >= count > 1:
            raise UsageError(f"{self.local_size} processes cannot share {count} GPUs; start as many as there are GPUs.")
        return torch.device("cuda", self.local_rank if count > 1 else 0)

    def cores(self) -> int:
        """Returns how many cores this process has for itself, at least one.

        What torchrun starts on one machine shares the cores that each of them may use; srun mostly gives each its own.
        """
        free = free_cores()
        if self.address == World.address:
            return max(free // self.local_size, 1)
        return max(min(free, (os.cpu_count() or 1) // self.local_size), 1)

    def rows(self, batch: int) -> slice:
        """Returns which rows of a global batch are this process's."""
        first, last = (batch * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Adds up a tensor over the processes, in place, and returns it."""
        if self.size > 1:
            _reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def max(self, number: float) -> float:
        """Returns the largest of the processes' numbers."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number, dtype=torch.float64)
        _reduce(tensor, dist.ReduceOp.MAX)
        return tensor.item()

    def same(self, content: bytes) -> bool:
        """Says whether all processes hold the same bytes."""
        digest = torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.int64)
        return all(self.max(float(half)) == -self.max(-float(half)) for half in digest >> 12)

    def on_main(self, work: Callable[[], object]) -> None:
        """Lets the main process do something, while the others wait; where it fails, all of them fail."""
        failure: Exception | None = None
        if self.main:
            try:
                work()
            except Exception as error:
                failure = error
        if code := int(self.max(getattr(failure, "exit_code", 1) if failure else 0)):
            raise failure or Elsewhere(code)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Adds up gradients over the processes; a parameter that none of them used keeps none."""
        if self.size == 1:
            return
        used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        shared = [p for p, count in zip(parameters, self.sum_(used).tolist(), strict=True) if count]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in shared])
        for p, gradient in zip(shared, self.sum_(flat).split([p.numel() for p in shared]), strict=True):
            p.grad = torch.empty_like(p).copy_(gradient.view_as(p))


class Elsewhere(UserError):
    """Another process of the run has stopped; it leaves with the same exit code, where that is known."""

    def __init__(self, exit_code: int = 1) -> None:
        super().__init__("Another process of this run could not go on; its message says why.")
        self.exit_code = exit_code


def _reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
    try:
        dist.all_reduce(tensor, operation)
    except RuntimeError as error:
        raise Elsewhere from error


def find_world() -> World:
    """Returns this process's place, as torchrun or srun told it; without them it is alone."""
    env = os.environ
    if int(env.get("WORLD_SIZE", 1)) > 1 and "RANK" in env:
        size = int(env["WORLD_SIZE"])
        local = int(env.get("LOCAL_RANK", env["RANK"])), int(env.get("LOCAL_WORLD_SIZE", size))
        return World(int(env["RANK"]), size, *local)
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        host = SLURMEnvironment.resolve_root_node_address(env.get("SLURM_STEP_NODELIST", "localhost"))
        port = env.get("MASTER_PORT", 15_000 + int(env.get("SLURM_JOB_ID", 0)) % 10_000)
        local = int(env["SLURM_LOCALID"]), int(re.split(r"[(,]", env["SLURM_STEP_TASKS_PER_NODE"])[0])
        return World(int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), *local, f"tcp://{host}:{port}")
    return World()
