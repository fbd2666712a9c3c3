r"""Processes that work for another one: on this machine, or where a cluster of Ray has room.

Those of this machine have their own threads, leave signals to the one that started them, and end when it does.
"""

__all__ = ["Workers", "pool", "ray_pool"]

import concurrent.futures
import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
import torch

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any, Protocol, TypeVar

from . import signals
from .errors import DataError, UsageError

LOOK_EVERY_S = 0.5

T = TypeVar("T")


class Workers(Protocol):
    """What work is submitted to."""

    def submit(self, work: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Lets a function of a module be called with plain arguments, somewhere, at some time."""


@contextlib.contextmanager
def pool(count: int, threads: int = 1) -> Iterator[Workers]:
    """Gives processes to submit work to. An error, or a signal to stop, ends them at once, whatever they are at.

    Arguments:
        count: How many.
        threads: The CPU threads of each.

    Raises:
        DataError: One of them has died.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with concurrent.futures.ProcessPoolExecutor(count, context, _begin, (threads, stop)) as executor:
        try:
            yield executor
        except BrokenProcessPool as error:
            raise DataError(
                "A process that was at work has died, most likely for want of memory. What was finished stays: the same "
                "command goes on, with fewer processes if you like."
            ) from error
        except BaseException:
            stop.set()
            raise
        finally:
            executor.shutdown(cancel_futures=True)


def _begin(threads: int, stop: Event) -> None:
    torch.set_num_threads(threads)
    for number in signals.CODES:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end, args=(stop,), daemon=True).start()


def _end(stop: Event) -> None:
    """Ends this process when it is told to, or when the one that started it was killed: nobody would tell it."""
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive() and not stop.wait(LOOK_EVERY_S):
        pass
    os._exit(1)


@contextlib.contextmanager
def ray_pool(threads: int = 1, gpu: bool = False) -> Iterator[Workers]:
    """Gives the workers of a cluster of Ray: the one that `RAY_ADDRESS` names, or one of this machine's own cores.

    Arguments:
        threads: The CPU threads that each piece of work takes.
        gpu: Whether it takes a GPU.

    Raises:
        UsageError: Ray is not installed, or does not answer.
    """
    if not importlib.util.find_spec("ray"):
        raise UsageError(
            "launcher=ray needs Ray, which is not installed: type 'pip install ray', or leave launcher= out."
        )
    ray = _ray()
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    except ConnectionError as error:
        raise UsageError(f"There is no cluster of Ray where RAY_ADDRESS says: {error}") from error
    try:
        yield _Ray({"num_cpus": threads, "num_gpus": int(gpu)})
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError(
            "launcher=ray needs Ray, which is not installed: type 'pip install ray', or leave launcher= out."
        ) from error


@dataclass(frozen=True)
class _Ray:
    """A cluster that each piece of work asks for its resources."""

    needs: dict[str, int]

    def submit(self, work: Callable[..., T], /, *arguments: Any) -> Future[T]:
        return _ray().remote(**self.needs)(work).remote(*arguments).future()
