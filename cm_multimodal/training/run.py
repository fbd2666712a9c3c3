r"""A training run: a folder, a configuration, and the same call again to go on.

config.yaml   env.json   metrics.jsonl   samples/   checkpoints/   evaluation/   bundle/   tensorboard/
"""

__all__ = ["build_parts", "export", "load", "train"]

import dataclasses
import lightning
import logging
import signal
import torch
import warnings

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor
from typing import Any

from ..build import build_objective, build_part
from ..bundle import Bundle, Card, empty_map, read_bundle, write_bundle
from ..ema import Average, reconstruct
from ..errors import DataError, Interrupted, UsageError, nearest
from ..machine import choose_device, choose_precision, describe_machine, set_threads
from ..maps import FlowMap
from ..modality import Modality, Skipped, Splits, find_modality
from ..objectives import Objective
from ..values import check_values
from .callbacks import Keeper, Previewer, Recorder, StopSignals
from .checkpoints import latest, load_state
from .data import Stream
from .module import OptimizerSettings, TrainingModule
from .preview import draw
from .records import RunRecord
from .snapshots import read_snapshots

Report = Callable[[str], None]


@dataclass(frozen=True)
class TrainSettings:
    """The `train` group of the configuration.

    Arguments:
        samples: The samples of the whole training.
        batch: The global batch size.
        micro_batch: The largest number of samples in memory at a time; all unless given.
        precision: 'auto', 'float32' or 'bf16'.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        threads: CPU threads; the free cores unless given.
        channels_last: Whether convolutions use that memory format.
        compile: Whether the network is compiled.
        drop_label: How often a class is replaced by "none".
        augment: The modality's augmentation settings.
        log_every: Updates between rows of the log.
        checkpoint_every: Samples between checkpoints.
        preview_every: Samples between previews.
        keep: How many checkpoints stay, at least two.
    """

    samples: int
    batch: int
    micro_batch: int | None = None
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    channels_last: bool = False
    compile: bool = False
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
        if not 0 <= self.drop_label <= 1:
            raise UsageError(f"train.drop_label={self.drop_label} is not possible; it is a share between 0 and 1.")


@dataclass(frozen=True)
class Parts:
    """What a configuration describes."""

    splits: Splits
    modality: Modality
    objective: Objective
    card: Card
    flow_map: FlowMap


def train(config: Mapping[str, Any], folder: Path, report: Report = print) -> Bundle:
    """Trains, or goes on training, a run, and returns its bundle.

    Arguments:
        config: The whole configuration (configs/train.yaml).
        folder: The run's folder; a run that is there is continued.
        report: Takes lines for a person.

    Raises:
        Interrupted: A signal asked to stop; the state is saved.
    """
    if type(config["seed"]) is not int:
        raise UsageError(f"seed={config['seed']} is not a whole number.")
    record, settings = RunRecord(folder), _settings(TrainSettings, config["train"], "train")
    threads, device = _threads(record, settings, report), choose_device(settings.device)
    start = latest(record.checkpoints, report)
    for line in record.compare(config) if start is not None else ():
        report(line)
    parts = build_parts(config, device)
    for line in _skipped(parts.splits.train.skipped):
        report(line)
    module = _module(config, parts, settings, device, folder)
    if start is None:
        record.start(config, {**describe_machine(), "threads": threads})
    else:
        module.load_training_state(load_state(start))
        report(f"going on from {start.folder.name} ({start.samples:,} samples)")
    if module.seen >= settings.samples:
        report(f"This run is finished ({module.seen:,} samples). Train on with a larger train.samples=.")
    else:
        report(_headline(parts, settings, device, threads))
        _fit(module, parts, settings, device, record, config, report)
    export(folder, record.bundle)
    return read_bundle(record.bundle)


def load(folder: Path) -> Bundle:
    """Returns the newest bundle of a run, from its checkpoints."""
    record = RunRecord(folder)
    if not record.exists():
        raise UsageError(f"There is no run in '{folder}'.")
    problems: list[str] = []
    checkpoint = latest(record.checkpoints, problems.append)
    if checkpoint is None:
        raise DataError(" ".join([f"The run '{folder}' has no usable checkpoint yet.", *problems]))
    return read_bundle(checkpoint.folder)


def build_parts(config: Mapping[str, Any], device: torch.device = torch.device("cpu")) -> Parts:
    """Builds data, network and objective from a configuration; the same seed gives the same initial weights."""
    adapter = find_modality(config["modality"])
    splits = adapter.dataset(config["data"])
    modality = adapter(adapter.describe(splits.train))
    objective = build_objective(config["objective"])
    card = Card(
        modality=config["modality"],
        spec=modality.spec,
        net=dict(config["net"]),
        path=config["path"]["name"],
        scaling=config["objective"]["scaling"],
        two_times=objective.two_times,
        learned=tuple(sorted(objective.learned)),
        objective=config["objective"]["name"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        flow_map = empty_map(card, modality, choose_precision(config["train"]["precision"], device))
    return Parts(splits, modality, objective, card, flow_map)


def _skipped(files: Sequence[Skipped], most: int = 10) -> Iterator[str]:
    """Yields a summary of the files that could not be used."""
    if files:
        yield f"{len(files)} file{'s' * (len(files) > 1)} skipped:"
    for file in files[:most]:
        yield f"  {file.path}: {file.reason}"
    if len(files) > most:
        yield f"  ... and {len(files) - most} more"


def _settings(kind: type, group: Mapping[str, Any], name: str) -> Any:
    if not isinstance(group, Mapping):
        raise UsageError(f"{name}={group} is not possible; set {name}.KEY=VALUE instead.")
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    for key in group:
        if key not in known:
            raise UsageError(f"There is no setting '{name}.{key}'; {nearest(key, known)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in group.items()}
    check_values(name, values, known)
    return kind(**values)


def _threads(record: RunRecord, settings: TrainSettings, report: Report) -> int:
    wanted = settings.threads or record.threads()
    threads = set_threads(wanted)
    if record.threads() not in (None, threads):
        report(f"The run was started with {record.threads()} threads and goes on with {threads}: bits may differ.")
    return threads


def _module(
    config: Mapping[str, Any], parts: Parts, settings: TrainSettings, device: torch.device, folder: Path
) -> TrainingModule:
    net = parts.flow_map.to(device).net
    parts.objective.to(device)
    if settings.channels_last and len(parts.card.spec.shape) == 3:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averages = [Average(net, decay) for decay in build_decays(config["ema"])]
    optimizer = _settings(OptimizerSettings, config["optimizer"], "optimizer")
    micro = min(settings.micro_batch or settings.batch, settings.batch)
    return TrainingModule(parts.flow_map, parts.objective, averages, optimizer, settings.samples, micro, folder)


def build_decays(config: Mapping[str, Any]) -> list[Any]:
    """Builds the averages of a configuration; a list of widths makes as many power-function averages."""
    widths = config.get("std")
    several = [{**config, "std": std} for std in widths] if isinstance(widths, list | tuple) else [config]
    return [build_part("ema", each) for each in several]


def _headline(parts: Parts, settings: TrainSettings, device: torch.device, threads: int) -> str:
    size = sum(p.numel() for p in parts.flow_map.net.parameters())
    number = str(parts.flow_map.precision.dtype).removeprefix("torch.")
    return (
        f"training {parts.card.objective} on {len(parts.splits.train):,} samples of shape {parts.card.spec.shape}: "
        f"{size:,} parameters, batch {settings.batch}, {number}, {device.type}, {threads} threads"
    )


def _publish(card: Card, module: TrainingModule) -> tuple[Card, dict[str, Tensor]]:
    return dataclasses.replace(card, samples_seen=module.seen), module.averages[0].state_dict()


def _fit(
    module: TrainingModule,
    parts: Parts,
    settings: TrainSettings,
    device: torch.device,
    record: RunRecord,
    config: Mapping[str, Any],
    report: Report,
) -> None:
    stream = Stream(
        parts.splits.train, parts.modality, config["seed"], settings.batch, module.seen, settings.samples, device,
        settings.augment, settings.drop_label, bool(config["net"].get("dropout", 0)),
    )  # fmt: skip
    for line in parts.objective.self_check(parts.flow_map, next(iter(stream)).rows(slice(0, 4)).batch):
        report(line)

    def look(module: TrainingModule) -> None:
        draw(*_publish(parts.card, module), parts.splits.test, record.samples, device)
        module.by_noise.plot(record.samples / "loss_by_noise.png")

    keeper = Keeper(record.checkpoints, settings.checkpoint_every, settings.keep, lambda m: _publish(parts.card, m))
    signals = StopSignals()
    callbacks = [
        signals,
        Recorder(record.folder, settings.log_every, settings.batch),
        keeper,
        Previewer(settings.preview_every, look),
    ]
    if settings.compile:
        module.flow_map.net.compile()
    trainer = _trainer(device, callbacks)
    trainer.fit(module, stream)
    if signals.received:
        code = 130 if signals.received == signal.SIGINT else 75
        raise Interrupted(f"Stopped; the state is saved at {keeper.saved:,} samples. The same command goes on.", code)


def _trainer(device: torch.device, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type), devices=1, max_epochs=1, min_epochs=0,
        callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
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
    bundle = load(folder)
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
