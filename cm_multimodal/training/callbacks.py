r"""What happens beside the updates: the log, checkpoints, previews and the wish to stop."""

__all__ = ["Keeper", "Previewer", "Recorder", "StopSignals"]

import json
import lightning
import math
import signal
import sys
import time

from collections.abc import Callable
from lightning.pytorch.loggers import TensorBoardLogger
from pathlib import Path
from types import FrameType
from typing import Any

from .checkpoints import prune, save
from .module import TrainingModule
from .snapshots import write_snapshots

Publish = Callable[[TrainingModule], Any]
SHOW_EVERY_S = 10.0
SNAPSHOTS = 32  # of each average over a training


class Recorder(lightning.Callback):
    """Writes `metrics.jsonl`, TensorBoard and the progress line.

    Arguments:
        folder: The run's folder.
        every: The number of updates between rows.
        batch: The global batch size.
    """

    def __init__(self, folder: Path, every: int, batch: int) -> None:
        self.file, self.every, self.batch = folder / "metrics.jsonl", every, batch
        self.board = TensorBoardLogger(folder, name="", version="tensorboard")
        self.clock, self.seen, self.shown = 0.0, 0, 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        module = _training(pl_module)
        self.clock, self.seen = time.perf_counter(), module.seen
        forget_after(self.file, module.seen)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        module = _training(pl_module)
        if module.seen // self.batch % self.every or not module.window.counts:
            return
        now = time.perf_counter()
        speed = (module.seen - self.seen) / (now - self.clock)
        self.clock, self.seen = now, module.seen
        row = {"samples": module.seen, **module.window.take(), "lr": module.optimizer.param_groups[0]["lr"]}
        row |= {"samples_per_s": speed, "seconds_left": (module.samples - module.seen) / speed}
        with self.file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self.board.log_metrics({k: v for k, v in row.items() if k != "samples"}, step=module.seen)
        self._show(row, module.samples)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.board.finalize("success")
        if sys.stdout.isatty():
            print(flush=True)

    def _show(self, row: dict[str, Any], total: int) -> None:
        line = (
            f"{row['samples']:>9,}/{total:,} samples  loss {row.get('loss', math.nan):.4f}  "
            f"{row['samples_per_s']:,.0f} samples/s  {_minutes(row['seconds_left'])} left"
        )
        if sys.stdout.isatty():
            print(f"\r{line}   ", end="", flush=True)
        elif time.monotonic() - self.shown > SHOW_EVERY_S or row["samples"] >= total:
            self.shown = time.monotonic()
            print(line, flush=True)


class Keeper(lightning.Callback):
    """Saves checkpoints: each so many samples, and at the end; never amid updates that had to be skipped.

    Arguments:
        root: The folder of checkpoints.
        every: The number of samples between them.
        keep: How many stay.
        publish: Makes the card and the averaged weights of a module.
    """

    def __init__(self, root: Path, every: int, keep: int, publish: Publish) -> None:
        self.root, self.every, self.keep, self.publish = root, every, keep, publish
        self.saved = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.saved = _training(pl_module).seen

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        module = _training(pl_module)
        due = module.seen // self.every > self.saved // self.every or module.seen >= module.samples
        if (due or trainer.should_stop) and not module.skipped:
            self.save(module)

    def save(self, module: TrainingModule) -> None:
        """Saves a checkpoint now."""
        card, weights = self.publish(module)
        share = max(module.samples // SNAPSHOTS, 1)
        if module.seen // share > max(self.saved, 0) // share:
            write_snapshots(module.averages, module.seen, self.root.with_name("ema"))
        save(self.root, module.seen, card, weights, module.training_state())
        prune(self.root, self.keep)
        self.saved = module.seen


class Previewer(lightning.Callback):
    """Draws a preview and the loss by noise ratio as training goes on.

    Arguments:
        every: The number of samples between previews.
        draw: Draws them.
    """

    def __init__(self, every: int, draw: Callable[[TrainingModule], object]) -> None:
        self.every, self.draw, self.last = every, draw, 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.last = _training(pl_module).seen

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        module = _training(pl_module)
        if module.seen // self.every > self.last // self.every or module.seen >= module.samples:
            self.draw(module)
            self.last = module.seen


class StopSignals(lightning.Callback):
    """Turns SIGTERM and Ctrl-C into a wish to stop, granted after the update at hand."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        def wish(number: int, frame: FrameType | None) -> None:
            self.received = self.received or number

        try:
            self.before = {number: signal.signal(number, wish) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread: whoever runs this thread sees to signals
            self.before = {}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        if self.received:
            trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def forget_after(file: Path, seen: int) -> None:
    """Drops the rows of a log that a resumed run will write again."""
    if file.exists():
        rows = [line for line in file.read_text().splitlines() if _samples(line) <= seen]
        file.write_text("".join(f"{row}\n" for row in rows))


def _samples(line: str) -> float:
    try:
        return json.loads(line)["samples"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _training(module: lightning.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module


def _minutes(seconds: float) -> str:
    whole = int(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )
