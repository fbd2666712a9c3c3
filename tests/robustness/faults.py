r"""Faults to inject into a training process: each is called once, before the program starts, and patches what it must.

They are given to :func:`harness.start` and run in the child; nothing of this is in the program itself.
"""

import contextlib
import dataclasses
import errno
import multiprocessing
import os
import resource
import signal
import torch

from cm_multimodal.derivatives import ForwardMode
from cm_multimodal.generation import sampling
from cm_multimodal.training import callbacks, checkpoints, validation
from cm_multimodal.training.module import TrainingModule
from cm_multimodal.training.world import find_world
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def before_step(step: int, action: Callable[[], object]) -> None:
    """Does something before a step of the training, counted from 0 over the whole run."""
    original = TrainingModule.training_step

    def wrapped(self: TrainingModule, *arguments: Any) -> None:
        if self.seen // self.batch == step:
            action()
        original(self, *arguments)

    TrainingModule.training_step = wrapped


def send(*numbers: int) -> None:
    """Sends signals to this process."""
    for number in numbers:
        os.kill(os.getpid(), number)


def kill_at(step: int) -> None:
    """The process is killed before a step."""
    before_step(step, partial(send, signal.SIGKILL))


def signal_at(step: int, *numbers: int, rank: int | None = None) -> None:
    """The process gets signals before a step; of several processes, the one named."""
    if rank in (None, find_world().rank):
        before_step(step, partial(send, *numbers))


def signal_in_preview(number: int) -> None:
    """The process gets a signal while the first chunk of a preview is drawn."""
    _once(sampling, "_chunk", partial(send, number))


def signal_in_validation(number: int) -> None:
    """The process gets a signal when the held-out loss is about to be measured."""
    _once(validation, "assemble", partial(send, number))


def in_save(count: int, point: str, action: Callable[[], object]) -> None:
    """Does something while the checkpoint of a number is being saved: before a file of it, before or after the rename."""
    saves = 0
    write_bundle, save, replace = checkpoints.write_bundle, checkpoints.torch.save, checkpoints.os.replace

    def at(here: str, work: Callable[..., object], *arguments: Any) -> None:
        nonlocal saves
        saves += here == "weights"
        hit = saves == count
        if hit and point == here:
            action()
        work(*arguments)
        if hit and here == "rename" and point == "renamed":
            action()

    def replaced(source: Path, target: Path) -> None:
        at("rename", replace, source, target) if Path(target).name.startswith("step-") else replace(source, target)

    checkpoints.write_bundle = partial(at, "weights", write_bundle)
    checkpoints.torch = _with(checkpoints.torch, save=partial(at, "state", save))
    checkpoints.os = _with(checkpoints.os, replace=replaced)


def kill_in_save(count: int, point: str) -> None:
    """The process is killed while it saves a checkpoint."""
    in_save(count, point, partial(send, signal.SIGKILL))


def signals_in_save(count: int, *numbers: int) -> None:
    """The process gets signals while it saves a checkpoint."""
    in_save(count, "state", partial(send, *numbers))


def no_space(step: int, bytes_left: int) -> None:
    """From a step on no file can grow beyond a number of bytes: writes of larger ones fail half-way."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    before_step(step, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard)))


def read_only(step: int, folder: str) -> None:
    """From a step on a folder cannot be written to."""
    before_step(step, lambda: os.chmod(folder, 0o555))


def not_finite(what: str, step: int, count: int = 1, rank: int | None = None) -> None:
    """From a step on, for a number of steps, the loss, a gradient or a tangent is not finite."""
    original = TrainingModule.training_step
    mine = rank in (None, find_world().rank)

    def wrapped(self: TrainingModule, *arguments: Any) -> None:
        hit = mine and step <= self.seen // self.batch < step + count
        with _poisoned(self, what) if hit else contextlib.nullcontext():
            original(self, *arguments)

    TrainingModule.training_step = wrapped


def drift(step: int, rank: int) -> None:
    """The weights of one process move by themselves, by little."""
    original, mine = TrainingModule.training_step, find_world().rank == rank

    def wrapped(self: TrainingModule, *arguments: Any) -> None:
        if mine and self.seen // self.batch == step:
            self.weights[0].data.add_(1e-6)
        original(self, *arguments)

    TrainingModule.training_step = wrapped


def no_log(step: int) -> None:
    """From a step on there is no room for another row of the log."""

    def full(file: Path, row: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    before_step(step, lambda: setattr(callbacks, "append", full))


def elsewhere(rank: int, folder: str) -> None:
    """One process works in another folder, as one does that does not see the shared disk."""
    if find_world().rank == rank:
        os.chdir(folder)


def wrong_tangents() -> None:
    """Forward-mode differentiation gives tangents that are off by half."""
    original = ForwardMode.__call__
    ForwardMode.__call__ = lambda *arguments: 1.5 * original(*arguments)


def kill_worker(step: int) -> None:
    """A process that prepares data is killed before a step."""
    before_step(step, lambda: multiprocessing.active_children()[0].kill())


@contextlib.contextmanager
def _poisoned(module: TrainingModule, what: str) -> Any:
    if what == "loss":
        original = module.objective.loss
        module.objective.loss = lambda *arguments: dataclasses.replace(
            loss := original(*arguments), value=loss.value * torch.nan
        )
        yield
        del module.objective.loss
    elif what == "gradient":
        handle = module.weights[0].register_hook(lambda gradient: gradient * torch.inf)
        yield
        handle.remove()
    else:
        original = ForwardMode.__call__
        ForwardMode.__call__ = lambda *arguments: original(*arguments) * torch.nan
        yield
        ForwardMode.__call__ = original


def _once(module: Any, name: str, action: Callable[[], object]) -> None:
    original, done = getattr(module, name), []

    def wrapped(*arguments: Any) -> object:
        if not done:
            done.append(True)
            action()
        return original(*arguments)

    setattr(module, name, wrapped)


class _with:
    """A module with some names replaced, for one of its users."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
