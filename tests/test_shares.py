r"""Which part of a synthetic data set is one process's, and how many processes a machine has cores for."""

import os
import pytest
import torch

from cm_multimodal.errors import UsageError
from cm_multimodal.synthesis import making
from cm_multimodal.synthesis.share import Share, find_share
from cm_multimodal.training import world
from types import SimpleNamespace


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four that torchrun started take two of eight cores each; where only one is theirs, there is nothing to share."""
    counts: list[int] = []
    monkeypatch.setattr(making, "pool", lambda count, threads: counts.append(count))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    job = SimpleNamespace(order=SimpleNamespace(threads=None), model=SimpleNamespace(device=torch.device("cpu")))
    for free, local in ((8, "1"), (8, "4"), (1, "4")):
        monkeypatch.setattr(world, "free_cores", lambda free=free: free)
        for name, value in {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_WORLD_SIZE": local}.items():
            monkeypatch.setenv(name, value)
        making._workers(job, None, 100, "local")  # type: ignore[arg-type]
    assert counts == [8, 2]
    there = {"address": "tcp://there:15000", "size": 4}
    assert [world.World(**there, local_size=local).cores() for local in (1, 4, 128)] == [1, 1, 1]
    monkeypatch.setattr(world, "free_cores", lambda: 16)
    assert [world.World(**there, local_size=local).cores() for local in (1, 4, 8)] == [16, 16, 8]


def test_where_a_share_comes_from() -> None:
    """Arrays may begin anywhere and skip numbers; without one, all is this process's."""
    array = {"COUNT": "4", "MIN": "10", "MAX": "25", "STEP": "5"}
    tasks = [
        {f"SLURM_ARRAY_TASK_{key}": value for key, value in {**array, "ID": str(n)}.items()} for n in (10, 15, 20, 25)
    ]
    assert [find_share(None, task) for task in tasks] == [Share(rank, 4) for rank in range(4)]
    assert find_share(None, {}) == Share(0, 1)
    assert find_share("3/8", tasks[0]) == Share(3, 8)
    for wrong in ("8/8", "1", "-1/2", "a/b"):
        with pytest.raises(UsageError, match="is not possible"):
            find_share(wrong, {})
    with pytest.raises(UsageError, match="some numbers are left out"):
        find_share(None, {**tasks[0], "SLURM_ARRAY_TASK_MAX": "40"})
