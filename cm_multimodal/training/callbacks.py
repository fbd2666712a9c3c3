r"""What happens beside the updates: the log, checkpoints, previews and the wish to stop."""

__all__ = ["Keeper", "Previewer", "Recorder", "Stopper"]

import contextlib
import json
import lightning
import math
import os
import sys
import time

from collections.abc import Callable, Mapping, Sequence
from lightning.pytorch.loggers import TensorBoardLogger
from pathlib import Path
from torch import Tensor
from typing import Any

from .. import signals
from ..bundle import Card
from ..clock import minutes
from ..errors import Interrupted
from ..files import write_text
from .checkpoints import Checkpoint, prune, save
from .module import TrainingModule
from .shards import whole
from .snapshots import forget_snapshots, write_snapshots

Averages = Sequence[Mapping[str, Tensor]]
Publish = Callable[[TrainingModule, Averages], tuple[Card, Mapping[str, Tensor]]]
SHOW_EVERY_S = 10.0
SNAPSHOTS = 32  # of each average over a training


class Recorder(lightning.Callback):
    """Writes `metrics.jsonl` (what a run that is repeated repeats), `speed.jsonl`, TensorBoard and the progress line.

    Arguments:
        folder: The run's folder.
        every: The number of updates between rows.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.metrics, self.speed, self.every = folder / "metrics.jsonl", folder / "speed.jsonl", every
        self.board = TensorBoardLogger(folder, name="", version="tensorboard")
        self.clock, self.seen, self.shown = 0.0, 0, 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        module = _training(pl_module)
        self.clock, self.seen = time.perf_counter(), module.seen
        for file in (self.metrics, self.speed):
            forget_after(file, module.seen)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        module = _training(pl_module)
        if module.seen // module.batch % self.every or not module.window.counts:
            return
        now = time.perf_counter()
        speed = (module.seen - self.seen) / (now - self.clock)
        self.clock, self.seen = now, module.seen
        row = {**module.window.take(), "lr": module.optimizer.param_groups[0]["lr"]}
        pace = {"samples_per_s": speed, "seconds_left": (module.samples - module.seen) / speed}
        self.write(module.seen, row)
        append(self.speed, {"samples": module.seen, **pace})
        self.board.log_metrics(pace, step=module.seen)
        self._show(module, row.get("loss", math.nan), **pace)

    def write(self, seen: int, row: dict[str, float]) -> None:
        """Writes a row of the log."""
        append(self.metrics, {"samples": seen, **row})
        self.board.log_metrics(row, step=seen)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.board.finalize("success")
        if sys.stdout.isatty():
            print(flush=True)

    def _show(self, module: TrainingModule, loss: float, samples_per_s: float, seconds_left: float) -> None:
        line = (
            f"{module.seen:>9,}/{module.samples:,} samples  loss {loss:.4f}  "
            f"{samples_per_s:,.0f} samples/s  {minutes(seconds_left)} left"
        )
        if sys.stdout.isatty():
            print(f"\r{line}   ", end="", flush=True)
        elif time.monotonic() - self.shown > SHOW_EVERY_S or module.seen >= module.samples:
            self.shown = time.monotonic()
            print(line, flush=True)


class Keeper(lightning.Callback):
    """Saves checkpoints: each so many samples, not amid updates that had to be skipped, and whenever training ends.

    Arguments:
        root: The folder of checkpoints.
        every: The number of samples between them.
        keep: How many stay, beside the best.
        publish: Makes the card and the averaged weights of a module whose averages are whole.
        judge: Measures the held-out loss of both, where something is held back.
        recorder: Takes rows for the log; only the main process has one.
        best: The best checkpoint so far.
        start: The checkpoint that the training began from.
        stopper: Knows of the wish to stop.
    """

    def __init__(
        self,
        root: Path,
        every: int,
        keep: int,
        publish: Publish,
        judge: Callable[[Card, Mapping[str, Tensor]], float] | None,
        recorder: Recorder | None,
        best: Checkpoint | None,
        start: Checkpoint | None,
        stopper: "Stopper",
    ) -> None:
        self.root, self.every, self.keep, self.publish = root, every, keep, publish
        self.judge, self.recorder, self.best, self.start, self.stopper = judge, recorder, best, start, stopper
        self.saved = start.samples if start else 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        module = _training(pl_module)
        state = module.training_state()
        module.world.on_main(lambda: self._begin(module, state))

    def _begin(self, module: TrainingModule, state: Mapping[str, Any]) -> None:
        """Forgets what lies ahead, and makes up for a held-out loss that a signal had prevented."""
        forget_snapshots(self.root.with_name("ema"), module.seen)
        start = self.start
        if start and start.folder.parent == self.root and _due(module, self.every) and not math.isfinite(start.score):
            self.save(module, state, due=True, measured=True)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        module = _training(pl_module)
        last = trainer.should_stop or module.seen >= module.samples
        due = module.seen // self.every > self.saved // self.every or module.seen >= module.samples
        if last or (due and not module.guard.skipped):
            self._agree(module)
            state = module.training_state()
            module.world.on_main(lambda: self.save(module, state, due, measured=due and not trainer.should_stop))
            self.saved = module.seen
            self.stopper.listen(trainer, module)

    def save(self, module: TrainingModule, state: Mapping[str, Any], due: bool, measured: bool) -> None:
        """Saves a checkpoint now; one that is due comes with snapshots of the averages, at most 32 in a training."""
        share = max(module.samples // SNAPSHOTS, 1)
        if due and module.seen // share > max(module.seen - self.every, 0) // share:
            write_snapshots(module.averages, state["averages"], module.seen, self.root.with_name("ema"))
        published = self.publish(module, state["averages"])
        score = self._score(module, *published) if measured else math.inf
        kept = save(self.root, module.seen, *published, state, score)
        self.best = min((each for each in (self.best, kept) if each), key=lambda each: each.score)
        prune(self.root, self.keep, self.best.folder.name if math.isfinite(self.best.score) else None)

    def _score(self, module: TrainingModule, card: Card, weights: Mapping[str, Tensor]) -> float:
        if self.judge is None or self.recorder is None:
            return math.inf
        try:
            loss = self.judge(card, weights)
        except Interrupted:
            return math.inf
        self.recorder.write(module.seen, {"held_out_loss": loss})
        return loss

    def _agree(self, module: TrainingModule) -> None:
        """Proves that all processes hold the same weights, where each holds all of them."""
        if module.world.size > 1 and not module.in_parts:
            weights = b"".join(p.detach().cpu().contiguous().numpy().tobytes() for p in module.weights)
            if not module.world.same(weights):
                raise RuntimeError(f"The processes of this run hold different weights after {module.seen:,} samples.")


class Previewer(lightning.Callback):
    """Draws a preview and the loss by noise ratio as training goes on.

    Arguments:
        every: The number of samples between previews.
        draw: Draws them.
    """

    def __init__(self, every: int, draw: Callable[[TrainingModule, Averages], object]) -> None:
        self.every, self.draw = every, draw

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        module = _training(pl_module)
        if not trainer.should_stop and (_due(module, self.every) or module.seen >= module.samples):
            averages = whole([average.state_dict() for average in module.averages])
            module.world.on_main(lambda: self._draw(module, averages))

    def _draw(self, module: TrainingModule, averages: Averages) -> None:
        with contextlib.suppress(Interrupted):  # there is a wish to stop: it is granted after the next update
            self.draw(module, averages)


class Stopper(lightning.Callback):
    """Grants the wish to stop after the update at hand, on all processes after the same one.

    Attributes:
        number: The signal that asked for it, or 0.
    """

    def __init__(self) -> None:
        self.number, self.context = 0, contextlib.ExitStack()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.context.enter_context(signals.deferred())

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        self.listen(trainer, _training(pl_module))

    def listen(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Asks all processes whether one of them was told to stop."""
        self.number = int(module.world.max(signals.received()))
        trainer.should_stop = trainer.should_stop or bool(self.number)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.context.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.context.close()


def append(file: Path, row: dict[str, float]) -> None:
    """Appends a row to a log and waits until it is on the disk: a checkpoint that follows must not outlive it."""
    with file.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def forget_after(file: Path, seen: int) -> None:
    """Drops the rows of a log that a resumed run will write again."""
    if file.exists():
        rows = [line for line in file.read_text().splitlines() if _samples(line) <= seen]
        write_text(file, "".join(f"{row}\n" for row in rows))


def _samples(line: str) -> float:
    try:
        return json.loads(line)["samples"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _due(module: TrainingModule, every: int) -> bool:
    """Says whether the update at hand passed a multiple of a number of samples."""
    return module.seen // every > (module.seen - module.batch) // every


def _training(module: lightning.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
