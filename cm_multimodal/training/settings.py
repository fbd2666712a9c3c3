r"""The settings of a training: the `train` and `optimizer` groups of the configuration."""

__all__ = ["OptimizerSettings", "TrainSettings", "read_settings"]

import dataclasses
import math

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import UsageError, nearest
from ..values import check_values

OPTIMIZERS, SCHEDULES = ("adamw", "muon"), ("constant", "cosine")

T = TypeVar("T")


@dataclass(frozen=True)
class TrainSettings:
    """The `train` group.

    Arguments:
        samples: The samples of the whole training.
        batch: The global batch size.
        micro_batch: The largest number of samples that a process holds in memory at a time; all unless given.
        precision: 'auto', 'float32', 'bf16' or 'float64'.
        device: 'auto', 'cpu' or 'cuda'.
        threads: CPU threads of a process; its share of the free cores unless given.
        workers: Processes that prepare batches ahead; none: batches are prepared on the device, when they are needed.
        channels_last: Whether convolutions use that memory format.
        compile: Whether the network is compiled.
        shard: Whether each of several processes keeps a part of the weights, of their averages and of the optimiser's state.
        drop_label: How often a class is replaced by "none".
        augment: The modality's augmentation settings.
        log_every: Updates between rows of the log.
        checkpoint_every: Samples between checkpoints.
        preview_every: Samples between previews.
        keep: How many checkpoints stay, at least two, beside the best one.
    """

    samples: int
    batch: int
    micro_batch: int | None = None
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    workers: int = 0
    channels_last: bool = False
    compile: bool = False
    shard: bool = False
    drop_label: float = 0.0
    augment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    log_every: int = 20
    checkpoint_every: int = 50_000
    preview_every: int = 50_000
    keep: int = 2

    def __post_init__(self) -> None:
        whole = ("samples", "batch", "log_every", "checkpoint_every", "preview_every", "keep")
        for name in whole:
            if getattr(self, name) < 1:
                raise UsageError(f"train.{name}={getattr(self, name)} is not possible; it is a whole number from 1.")
        if self.keep < 2:
            raise UsageError("train.keep=1 would leave no checkpoint while one is being written; use at least 2.")
        for name in ("micro_batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"train.{name}={value} is not possible; it is a whole number from 1.")
        if self.workers < 0:
            raise UsageError(f"train.workers={self.workers} is not possible; it is a whole number from 0.")
        if not 0 <= self.drop_label <= 1:
            raise UsageError(f"train.drop_label={self.drop_label} is not possible; it is a share between 0 and 1.")


@dataclass(frozen=True)
class OptimizerSettings:
    """How weights are updated: the `optimizer` group.

    Arguments:
        name: 'adamw', or 'muon' for the matrices between a network's ends.
        lr: The highest learning rate.
        betas: Adam's two averages.
        weight_decay: Decoupled weight decay.
        warmup: The samples over which the rate grows from zero.
        schedule: What follows: 'constant' or 'cosine' (down to zero at the end).
        clip: The largest norm of a gradient.
        skip_limit: The number of skipped updates in a row that ends the run.
    """

    name: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 10_000
    schedule: str = "constant"
    clip: float = 1.0
    skip_limit: int = 5

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise UsageError(f"There is no optimizer.name '{self.name}'; {nearest(self.name, OPTIMIZERS)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"optimizer.betas={list(self.betas)} is not possible; each lies between 0 and 1.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"optimizer.lr={self.lr} is not possible; a learning rate is a positive number.")
        for name, least in {"weight_decay": 0, "warmup": 0, "clip": 1e-12, "skip_limit": 1}.items():
            if getattr(self, name) < least:
                raise UsageError(f"optimizer.{name}={getattr(self, name)} is not possible; it is at least {least}.")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"There is no optimizer.schedule '{self.schedule}'; {nearest(self.schedule, SCHEDULES)}")

    def rate(self, seen: int, total: int) -> float:
        """Returns the learning rate after a number of samples."""
        ramp = min(1.0, seen / self.warmup) if self.warmup else 1.0
        fade = 0.5 * (1 + math.cos(math.pi * min(seen / total, 1.0))) if self.schedule == "cosine" else 1.0
        return self.lr * ramp * fade


def read_settings(kind: type[T], group: Mapping[str, Any], name: str) -> T:
    """Makes settings of a group of the configuration.

    Raises:
        UsageError: A key is unknown, or a value is of another type or out of range.
    """
    if not isinstance(group, Mapping):
        raise UsageError(f"{name}={group} is not possible; set {name}.KEY=VALUE instead.")
    known = {field.name: field.type for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in group:
        if key not in known:
            raise UsageError(f"There is no setting '{name}.{key}'; {nearest(key, known)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in group.items()}
    check_values(name, values, known)
    return kind(**values)
