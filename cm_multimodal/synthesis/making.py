r"""Making a data set of generated samples, shard by shard, by any number of processes.

Samples are drawn in whole chunks and written by threads beside, at most `batch` chunks being on their way at a time. A shard
whose record is there is done; a process that is killed loses the shards it had begun. What is drawn, and every byte that is
written, is a function of the plan, whoever draws it. So processes need nothing of one another but the folder: torchrun, srun
and arrays of SLURM give each its part of the shards, and whoever finds all of them there finishes the set.
"""

__all__ = ["Progress", "synthesize"]

import concurrent.futures
import contextlib
import functools
import numpy as np
import os
import time
import torch

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor
from typing import Any

from .. import signals
from ..errors import UsageError, nearest
from ..files import sync, write_tensors
from ..generation.sampling import Samples, draw, map_of
from ..training.world import find_world
from ..workers import Workers, pool, ray_pool
from .audit import audited
from .finish import finish
from .order import Job, Order
from .record import Row, SetFolder, Shard, checksum_of
from .share import Share

LAUNCHERS = ("local", "ray")
WRITERS = 4
EVERY = 2.0  # seconds between two reports
VOID, DOUBTFUL = "empty", "doubtful"


@dataclass(frozen=True)
class Progress:
    """How far a set is, counted in drawn samples of all shards of this process; and how long the rest will take."""

    done: int
    total: int
    samples_per_s: float
    seconds_left: float


def synthesize(
    order: Order,
    out: Path,
    batch: int = 4,
    processes: int | None = None,
    share: Share = Share(),
    launcher: str = "local",
) -> Iterator[Progress]:
    """Makes the shards of an order that are not there yet, and finishes the set when all are there.

    Arguments:
        order: What is wanted.
        out: The folder of the set.
        batch: Chunks on their way at a time, from the first number to the last byte.
        processes: How many processes of this machine share the work; on a CPU as many as it has cores for unless given.
        share: The part of this process among others that were started elsewhere.
        launcher: 'local', or 'ray': then the cluster decides how many processes there are.

    Raises:
        UsageError: The order is not possible, or the folder holds something else.
        DataError: A model or data that are needed are damaged.
        Interrupted: A signal to stop came; shards that were finished stay.
    """
    job, folder = order.open(), SetFolder(out)
    job.read_ahead()
    folder.claim(job.words)
    with folder.held(f"share-{share.rank}-of-{share.size}"):
        yield from _synthesize(job, folder, batch, processes, share, launcher)


def _synthesize(
    job: Job, folder: SetFolder, batch: int, processes: int | None, share: Share, launcher: str
) -> Iterator[Progress]:
    mine = range(share.rank, job.shards, share.size)
    missing = [number for number in mine if not folder.whole(number)]
    lent = _workers(job, processes, len(missing), launcher)
    counts = {number: min(job.shard, job.plan.n - number * job.shard) for number in mine}
    total, begin = sum(counts.values()), time.monotonic()
    before = total - sum(counts[number] for number in missing)
    done, said = before, begin
    made = _alone(job, folder, missing, batch) if lent is None else _together(job.order, folder, missing, batch, lent)
    for samples in made:
        done, now = done + samples, time.monotonic()
        if done < total and now - said < EVERY:
            continue
        said, pace = now, (done - before) / max(now - begin, 1e-9)
        yield Progress(done, total, pace, (total - done) / pace)
    if all(folder.shard(number) for number in range(job.shards)):
        with folder.held("finish", wait=True):
            finish(job, folder)


def _workers(
    job: Job, processes: int | None, shards: int, launcher: str
) -> contextlib.AbstractContextManager[Workers] | None:
    """Returns the processes that make shards; none where this one does it alone."""
    threads, gpu = job.order.threads or 1, job.model.device.type == "cuda"
    if launcher not in LAUNCHERS:
        raise UsageError(f"There is no launcher '{launcher}'; {nearest(str(launcher), LAUNCHERS)}")
    if launcher == "ray":
        if processes is not None:
            raise UsageError(
                f"processes={processes} is not possible with launcher=ray: its cluster decides how many there are."
            )
        return ray_pool(threads, gpu)
    count = min(processes or (1 if gpu else find_world().cores() // threads), shards)
    return pool(count, threads) if count > 1 else None


def _together(
    order: Order, folder: SetFolder, shards: Sequence[int], batch: int, lent: contextlib.AbstractContextManager[Workers]
) -> Iterator[int]:
    with lent as workers:
        what, here = (order.to_json(), folder.folder.resolve(), batch), Path.cwd()
        jobs = [workers.submit(_one, number, *what, here) for number in shards]
        for done in concurrent.futures.as_completed(jobs):
            yield done.result()
            signals.check()


@functools.lru_cache(maxsize=1)
def _opened(order: str) -> Job:
    return Order.from_json(order).open()


def _one(number: int, order: str, folder: Path, batch: int, here: Path) -> int:
    """Makes one shard, in a process that keeps the model for the next, and returns how many samples were drawn for it.

    Relative paths mean there what they mean here.
    """
    os.chdir(here)
    job = _opened(order)
    SetFolder(folder).claim(job.words)
    return sum(_alone(job, SetFolder(folder), [number], batch))


def _alone(job: Job, folder: SetFolder, shards: Sequence[int], batch: int) -> Iterator[int]:
    """Makes shards, one after the other; yields how many samples were drawn, chunk by chunk."""
    flow_map = map_of(job.model.bundle, job.plan, job.model.device)
    if job.sieve is not None:
        _ = job.sieve.fitted  # the network is asked by this thread alone
    closing: deque[Future[int]] = deque()
    with ThreadPoolExecutor(min(batch, WRITERS)) as writers:
        for number in shards:
            under_way: deque[Future[Any]] = deque(closing)
            parts = []
            for start in job.starts(number):
                signals.check()
                samples = draw(job.model.bundle, flow_map, job.plan, start, job.model.device)
                looked = None if job.sieve is None else job.sieve.see(samples.raw)
                parts.append(writers.submit(_encode, job, samples, looked, folder))
                under_way.append(parts[-1])
                _wait(under_way, batch)
                yield len(samples.raw)
            closing.append(writers.submit(_close, job, number, parts, folder))
            _wait(deque(closing), batch)
            while closing and closing[0].done():
                closing.popleft().result()
        while closing:
            closing.popleft().result()


def _wait(under_way: deque[Future[Any]], batch: int) -> None:
    """Waits until fewer than `batch` pieces of work are under way."""
    while under_way and sum(not each.done() for each in under_way) >= batch:
        under_way.popleft().result()


@dataclass(frozen=True)
class _Part:
    """A chunk that was encoded: who is in it, who is not, and the samples of it that are looked at for copies."""

    samples: Samples
    confidence: list[float | None]
    left_out: Mapping[str, tuple[int, ...]]
    piece: Any
    seen: Samples


def _encode(job: Job, samples: Samples, looked: np.ndarray | None, folder: SetFolder) -> _Part:
    void = job.model.bundle.modality.void(samples.raw)
    doubtful, sure = torch.zeros_like(void), None
    if job.sieve is not None and looked is not None:
        sure = job.sieve.confidence(looked, samples.label)
        doubtful = ~void & (sure < job.sieve.least)
    left_out = {VOID: _numbers(samples, void), DOUBTFUL: _numbers(samples, doubtful)}
    kept = ~(void | doubtful)
    rest = samples.only(kept)
    confidence = [None] * len(rest.raw) if sure is None else [round(value, 4) for value in sure[kept].tolist()]
    piece = job.form.encode(rest, folder.folder)
    wanted = audited(job.plan.n) if job.looks else torch.zeros(0, dtype=torch.int64)
    seen = rest.only(torch.isin(rest.sample_id, wanted))
    return _Part(
        Samples(rest.raw[:0].clone(), rest.label, rest.sample_id, rest.calls), confidence, left_out, piece, seen
    )


def _numbers(samples: Samples, which: Tensor) -> tuple[int, ...]:
    return tuple(samples.sample_id[which].tolist())


def _close(job: Job, number: int, waiting: Sequence[Future[_Part]], folder: SetFolder) -> int:
    """Writes what is left of a shard, waits for the disk, and says that it is there."""
    parts = [part.result() for part in waiting]
    samples = Samples.joined([part.samples for part in parts])
    places = job.form.close([part.piece for part in parts], number, folder.folder)
    confidence = [value for part in parts for value in part.confidence]
    rows = map(Row, samples.sample_id.tolist(), samples.label.tolist(), places, confidence)
    reasons = {key: sum((part.left_out[key] for part in parts), ()) for key in (VOID, DOUBTFUL)}
    if seen := [part.seen for part in parts if len(part.seen.raw)]:
        _keep(Samples.joined(seen), folder.looked_at / f"{number:05d}.safetensors")
    paths = {name: folder.folder / name for name in dict.fromkeys(places)}
    for path in paths.values():
        sync(path)
    files = {name: (path.stat().st_size, checksum_of(path)) for name, path in paths.items()}
    left_out = {key: numbers for key, numbers in reasons.items() if numbers}
    folder.write_shard(Shard(number, parts[0].samples.calls, tuple(rows), left_out, files))
    return number


def _keep(samples: Samples, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    write_tensors(file, {"raw": samples.raw, "sample_id": samples.sample_id})
