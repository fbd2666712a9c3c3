r"""A training run: a folder, a configuration, and the same call again to go on.

config.yaml   env.json   metrics.jsonl   samples/   checkpoints/   evaluation/   bundle/   tensorboard/
"""

__all__ = ["export", "train"]

import contextlib
import dataclasses
import lightning
import logging
import torch
import warnings

from collections.abc import Callable, Iterator, Mapping
from lightning.fabric.plugins.environments import LightningEnvironment
from pathlib import Path
from torch import Tensor
from typing import Any

from .. import signals
from ..bundle import Bundle, Card, read_bundle, write_bundle
from ..ema import Average, reconstruct
from ..errors import DataError, UsageError
from ..machine import choose_device, keep_memory
from ..modality import Dataset
from .callbacks import Averages, Keeper, Previewer, Recorder, Stopper
from .checkpoints import Checkpoint, best
from .data import Stream, batches
from .lock import locked
from .module import TrainingModule
from .parts import Parts, build_decays, build_parts
from .pretrained import begin_with
from .preview import draw
from .records import RunRecord
from .saved import load_run
from .settings import OptimizerSettings, TrainSettings, read_settings
from .shards import held, shard
from .snapshots import read_snapshots
from .start import anew, changes, set_threads_of, take_over
from .validation import held_out_loss
from .world import World, find_world

Report = Callable[[str], None]
CHANNELS_LAST = {3: torch.channels_last, 4: torch.channels_last_3d}  # by the dimensions of a sample


def train(config: Mapping[str, Any], folder: Path, report: Report = print) -> Bundle:
    """Trains, or goes on training, a run, and returns its bundle.

    Arguments:
        config: The whole configuration (configs/train.yaml).
        folder: The run's folder; a run that is there is continued.
        report: Takes lines for a person.

    Raises:
        Interrupted: A signal asked to stop; the state is saved.
        Diverged: Losses or gradients stayed out of bounds; the last good state is saved.
    """
    if type(config["seed"]) is not int:
        raise UsageError(f"seed={config['seed']} is not a whole number.")
    keep_memory()
    world, record = find_world(), RunRecord(folder)
    settings = read_settings(TrainSettings, config["train"], "train")
    if world.size > settings.batch:
        raise UsageError(f"train.batch={settings.batch} is smaller than the number of processes, {world.size}.")
    device = world.device(choose_device(settings.device))
    report = report if world.main else lambda line: None
    for line in changes(record, config):
        report(line)
    threads = set_threads_of(record, settings, world, report)
    parts = build_parts(config, device)
    if config.get("weights") is not None and anew(record, config):
        parts = begin_with(str(config["weights"]), parts, report)
    _check_groups(parts.objective.group, settings, world)
    for line in _read(parts.splits.train):
        report(line)
    with contextlib.ExitStack() as stack:
        stack.enter_context(world.joined(device))
        world.on_main(lambda: stack.enter_context(locked(folder, report)))
        module = _module(config, parts, settings, device, folder, world, report)
        start = take_over(module, record, config, parts, threads, report)
        if module.seen >= settings.samples:
            report(f"This run is finished ({module.seen:,} samples). Train on with a larger train.samples=.")
        else:
            report(_headline(parts, settings, device, threads, world))
            _fit(module, parts, settings, start, record, config, report)
        world.on_main(lambda: export(folder, record.bundle))
    return read_bundle(record.bundle)


def _check_groups(group: int, settings: TrainSettings, world: World) -> None:
    for name, value in {"batch": settings.batch, "micro_batch": settings.micro_batch or settings.batch}.items():
        unit = group * (world.size if name == "batch" else 1)
        if value % unit:
            raise UsageError(
                f"train.{name}={value} is not possible: this objective compares samples in groups of {group}"
                f"{f', on each of {world.size} processes' * (unit > group)}; use a multiple of {unit}."
            )


def _read(data: Dataset, most: int = 10) -> Iterator[str]:
    """Yields what is to be said of how training data were read, and a summary of the files that could not be used."""
    files = data.skipped
    if data.note:
        yield f"data: {data.note}"
    if files:
        yield f"{len(files)} file{'s' * (len(files) > 1)} skipped:"
    for file in files[:most]:
        yield f"  {file.path}: {file.reason}"
    if len(files) > most:
        yield f"  ... and {len(files) - most} more"


def _module(
    config: Mapping[str, Any], parts: Parts, settings: TrainSettings, device: torch.device, folder: Path, world: World,
    report: Report,
) -> TrainingModule:  # fmt: skip
    net, optimizer = parts.flow_map.to(device).net, read_settings(OptimizerSettings, config["optimizer"], "optimizer")
    parts.objective.to(device)
    if parts.flow_map.precision.dtype == torch.float64:
        parts.flow_map.double()
    if settings.channels_last:
        net.to(memory_format=_channels_last(parts.card.spec.shape))  # type: ignore[call-overload]
    parts.objective.prepare(parts.flow_map)
    if settings.shard:
        _check_shards(parts, settings, optimizer, world)
        _self_check(config, parts, settings, device, report)
        shard(net, world.size, device)
    averages = [Average(net, decay) for decay in build_decays(config["ema"])]
    return TrainingModule(parts.flow_map, parts.objective, averages, settings, optimizer, folder, world)


def _check_shards(parts: Parts, settings: TrainSettings, optimizer: OptimizerSettings, world: World) -> None:
    """Says what weights in parts do not go with.

    Raises:
        UsageError: There is such a thing.
    """
    if world.size == 1:
        raise UsageError(
            "train.shard=true needs several processes: torchrun --nproc-per-node 2 -m cm_multimodal train ..."
        )
    if next(parts.objective.parameters(), None) is not None:
        raise UsageError(
            f"train.shard=true is not possible with objective={parts.card.objective}: it holds weights of its own (a copy "
            "of the network, a teacher or a learned weight)."
        )
    for wish, given in {
        "optimizer.name=muon": optimizer.name == "muon", "train.compile=true": settings.compile,
        "train.channels_last=true": settings.channels_last,
    }.items():  # fmt: skip
        if given:
            raise UsageError(f"train.shard=true and {wish} do not go together: leave one of them out.")


def _self_check(
    config: Mapping[str, Any], parts: Parts, settings: TrainSettings, device: torch.device, report: Report
) -> None:
    some = _stream(config, parts, settings, device, World(), 0).drawn(torch.arange(4)).to(device)
    for line in parts.objective.self_check(parts.flow_map, some.batch):
        report(line)


def _channels_last(shape: tuple[int, ...]) -> torch.memory_format:
    if len(shape) not in CHANNELS_LAST:
        raise UsageError(f"train.channels_last=true is for pictures and clips; {shape} is the shape of neither.")
    return CHANNELS_LAST[len(shape)]


def _headline(parts: Parts, settings: TrainSettings, device: torch.device, threads: int, world: World) -> str:
    weights = list(parts.flow_map.net.parameters())
    size, own = sum(p.numel() for p in weights), f" ({held(weights):,} of them here)" * settings.shard
    number = str(parts.flow_map.precision.dtype).removeprefix("torch.")
    shared = f", {world.size} processes" if world.size > 1 else ""
    return (
        f"training {parts.card.objective} on {len(parts.splits.train):,} samples of shape {parts.card.spec.shape}: "
        f"{size:,} parameters{own}, batch {settings.batch}, {number}, {device.type}, {threads} threads{shared}"
    )


def _publish(card: Card, module: TrainingModule, averages: Averages) -> tuple[Card, Mapping[str, Tensor]]:
    return dataclasses.replace(card, samples_seen=module.seen), averages[0]


def _fit(
    module: TrainingModule,
    parts: Parts,
    settings: TrainSettings,
    start: Checkpoint | None,
    record: RunRecord,
    config: Mapping[str, Any],
    report: Report,
) -> None:
    device = module.weights[0].device
    stream = _stream(config, parts, settings, device, module.world, module.seen)
    if not settings.shard:
        _self_check(config, parts, settings, device, report)
    report(
        f"data: one process prepares {stream.samples_per_second():,.0f} samples/s (train.workers={settings.workers})"
    )
    if settings.compile:
        module.flow_map.net.compile()
    stopper, recorder = Stopper(), Recorder(record.folder, settings.log_every) if module.world.main else None
    keeper = _keeper(module, parts, settings, record, recorder, start, stopper)
    callbacks = [stopper, recorder, keeper, _previewer(parts, settings, device, record, recorder)]
    try:
        _trainer(device, [each for each in callbacks if each]).fit(module, batches(stream, settings.workers))
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"A data worker has died, most likely for want of memory ({error}). The last checkpoint is untouched: the same "
            "command goes on from it, with fewer train.workers= if you like."
        ) from error
    if stopper.number and module.seen < settings.samples:
        signals.grant(stopper.number, f"Stopped; the state is saved at {module.seen:,} samples.")
    if keeper.best and keeper.best.samples < module.seen:
        report(f"The held-out loss was lowest at {keeper.best.samples:,} samples: bundle={keeper.best.folder}")


def _stream(
    config: Mapping[str, Any], parts: Parts, settings: TrainSettings, device: torch.device, world: World, seen: int
) -> Stream:
    dtype = torch.float64 if parts.flow_map.precision.dtype == torch.float64 else torch.float32
    return Stream(
        parts.splits.train, parts.modality, config["seed"], seen, settings,
        torch.device("cpu") if settings.workers else device, world, bool(config["net"].get("dropout", 0)), dtype,
        bool(config["net"].get("known")),
    )  # fmt: skip


def _keeper(
    module: TrainingModule,
    parts: Parts,
    settings: TrainSettings,
    record: RunRecord,
    recorder: Recorder | None,
    start: Checkpoint | None,
    stopper: Stopper,
) -> Keeper:
    device = module.weights[0].device

    def judge(card: Card, weights: Mapping[str, Tensor]) -> float:
        return held_out_loss(card, weights, parts.objective, parts.splits.test, device)

    return Keeper(
        record.checkpoints, settings.checkpoint_every, settings.keep,
        lambda module, averages: _publish(parts.card, module, averages),
        judge if len(parts.splits.test) else None, recorder, best(record.checkpoints),
        start, stopper,
    )  # fmt: skip


def _previewer(
    parts: Parts, settings: TrainSettings, device: torch.device, record: RunRecord, recorder: Recorder | None
) -> Previewer:
    def look(module: TrainingModule, averages: Averages) -> None:
        board = recorder.board.experiment if recorder else None
        draw(*_publish(parts.card, module, averages), parts.splits.test, record.samples, device, board)
        module.by_noise.plot(record.samples / "loss_by_noise.png")

    return Previewer(settings.preview_every, look)


def _trainer(device: torch.device, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    own = [device.index or 0] if device.type == "cuda" else 1
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type), devices=own,
        max_epochs=1, min_epochs=0, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        plugins=[LightningEnvironment()],
    )  # fmt: skip


def export(folder: Path, out: Path, ema_std: float | None = None) -> Card:
    """Writes a run's newest bundle to a folder, and returns its card.

    Arguments:
        folder: The run.
        out: Where to write.
        ema_std: The relative width of the average to reconstruct from the run's snapshots; the first average unless given.

    Raises:
        UsageError: The run kept no snapshots of two widths.
    """
    bundle = load_run(folder)
    weights = bundle.flow_map.net.state_dict() if ema_std is None else posthoc(RunRecord(folder), ema_std, bundle.card)
    write_bundle(bundle.card, weights, out)
    return read_bundle(out).card


def posthoc(record: RunRecord, std: float, card: Card) -> dict[str, Tensor]:
    """Returns the weights of a power-function average of another width, from a run's snapshots."""
    shots = read_snapshots(record.folder / "ema", card.samples_seen)
    if len({shot.std for shot in shots}) < 2:
        raise UsageError("ema_std= needs snapshots of two widths: train with ema=power and ema.std=[0.05,0.1].")
    if not 0.01 <= std <= 0.25:
        raise UsageError(f"ema_std={std} is not possible; a relative width lies between 0.01 and 0.25.")
    return reconstruct(shots, std, card.samples_seen)
