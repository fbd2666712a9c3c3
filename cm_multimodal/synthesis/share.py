r"""The part of a data set that is one process's, where several were started apart: every N-th shard, from its own on."""

__all__ = ["Share", "find_share"]

import os
import re

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError
from ..training.world import find_world


@dataclass(frozen=True)
class Share:
    """Which shards are this process's: every `size`-th, from `rank` on."""

    rank: int = 0
    size: int = 1


def find_share(asked: str | None = None, environment: Mapping[str, str] = os.environ) -> Share:
    """Returns the part of this process, as asked, or as torchrun, srun or an array of SLURM says; without them, all.

    Arguments:
        asked: The number of the part, from 0, and how many there are: '3/8'.
        environment: What SLURM says.

    Raises:
        UsageError: What was asked for is no part, or the array of SLURM leaves numbers out.
    """
    if asked is not None:
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(asked))
        if not found or int(found[1]) >= int(found[2]):
            raise UsageError(
                f"share={asked} is not possible; of eight parts the first is share=0/8, the last share=7/8."
            )
        return Share(int(found[1]), int(found[2]))
    world = find_world()
    task, count, first, last, step = (
        int(environment.get(f"SLURM_ARRAY_TASK_{key}", usual))
        for key, usual in (("ID", 0), ("COUNT", 1), ("MIN", 0), ("MAX", 0), ("STEP", 1))
    )
    if "SLURM_ARRAY_TASK_ID" in environment and (last - first) // max(step, 1) + 1 != count:
        raise UsageError(
            f"This array of SLURM has {count} tasks between {first} and {last}, and some numbers are left out: say which "
            "part is this task's, share=0/8 to share=7/8, or share=0/1 for all of it."
        )
    index = (task - first) // max(step, 1) if count > 1 else 0
    return Share(index * world.size + world.rank, count * world.size)
