r"""The written record of a run: its configuration, the machine, and whether a new configuration may go on with it."""

__all__ = ["RunRecord", "read_config", "seconds_of", "speeds", "training_seconds"]

import json
import yaml

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, Interrupted, UsageError
from ..files import read_text, write_text

LARGEST, DEEPEST = 1 << 16, 32  # bytes and levels of a configuration
BEFORE = {  # what runs had before it could be chosen
    "optimizer.name": "adamw", "train.shard": False, "labels.share": 1.0, "labels.seed": 0, "labels.rest": True,
    "labels.weight": 0.5,
}  # fmt: skip
STATE = ("optimizer.name",)
FREE = (
    "name", "runs", "resume", "optimizer.", "train.samples", "train.micro_batch", "train.checkpoint_every",
    "train.preview_every", "train.log_every", "train.keep", "train.device", "train.precision", "train.threads",
    "train.workers", "train.shard", "evaluation.", "experiment", "data.root",
)  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """A run's folder.

    Arguments:
        folder: Where it lies.
    """

    folder: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of previews and samples."""
        return self.folder / "samples"

    @property
    def bundle(self) -> Path:
        """The folder of the final bundle."""
        return self.folder / "bundle"

    def exists(self) -> bool:
        """Says whether a run was started here."""
        return (self.folder / "config.yaml").exists()

    def machine(self) -> dict[str, Any]:
        """Returns what `env.json` holds: the machine, threads and processes, the checksum of the training data.

        Raises:
            DataError: It cannot be read.
        """
        file = self.folder / "env.json"
        try:
            return dict(json.loads(read_text(file))) if file.exists() else {}
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"'{file}' cannot be read: {error}. Remove it to go on without it.") from error

    def threads(self) -> int | None:
        """Returns the number of threads that each process of the run was started with."""
        count = self.machine().get("threads")
        return count if type(count) is int and count > 0 else None

    def prepare(self) -> None:
        """Makes the folders, and proves that they can be written to.

        Raises:
            UsageError: They cannot.
        """
        try:
            for folder in (self.checkpoints, self.samples):
                folder.mkdir(parents=True, exist_ok=True)
                write_text(folder / ".probe", "")
                (folder / ".probe").unlink()
        except OSError as error:
            raise UsageError(
                f"The run folder '{self.folder}' cannot be written: {error}. Choose another with runs=."
            ) from error

    def start(self, config: Mapping[str, Any], machine: Mapping[str, Any]) -> None:
        """Writes the record of a new run."""
        write_text(self.folder / "env.json", json.dumps(machine, indent=1) + "\n")
        write_text(self.folder / "config.yaml", yaml.dump(dict(config), Dumper=_Plain, sort_keys=False))

    def compare(self, config: Mapping[str, Any], advice: str = "Give the run another name=") -> list[str]:
        """Returns sentences on what changed harmlessly since the run was started.

        Arguments:
            config: The new configuration.
            advice: What can be done besides where more changed than that.

        Raises:
            UsageError: Something changed that the run's state depends on.
        """
        old, new = {**BEFORE, **flat(read_config(self.folder))}, flat(config)
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        lines = {key: f"{key}: {old.get(key)} -> {new.get(key)}" for key in changed}
        refused = [line for key, line in lines.items() if key in STATE or not key.startswith(FREE)]
        if refused:
            listed = "\n  ".join(refused)
            raise UsageError(
                f"The run '{self.folder}' was started with another configuration:\n  {listed}\n"
                f"{advice}, or undo the change."
            )
        return [f"changed since the start: {line}" for line in lines.values()]


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the configuration of a run.

    Raises:
        UsageError: There is no run in the folder.
        DataError: Its configuration cannot be read.
    """
    file = folder / "config.yaml"
    if not file.exists():
        others = ", ".join(sorted(p.parent.name for p in folder.parent.glob("*/config.yaml"))) or "none"
        raise UsageError(f"There is no run in '{folder}'. Runs in '{folder.parent}': {others}.")
    try:
        return dict(yaml.load(read_text(file, LARGEST), Loader=_Strict))
    except Interrupted:
        raise
    except Exception as error:  # what a hostile file makes of a reader is open
        raise DataError(f"The configuration '{file}' cannot be read: {error}.") from error


def speeds(folder: Path) -> list[dict[str, float]]:
    """Returns the rows of a run's log of speeds: `samples` and `samples_per_s`."""
    file = folder / "speed.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def seconds_of(rows: Sequence[Mapping[str, float]]) -> list[float]:
    """Returns the seconds that each row of such a log stands for."""
    counts = [0, *(row["samples"] for row in rows)]
    return [(b - a) / row["samples_per_s"] for a, b, row in zip(counts, counts[1:], rows, strict=False)]


def training_seconds(folder: Path) -> float | None:
    """Returns how long a training took, from its log of speeds; nothing where it was too short to have one."""
    return sum(seconds_of(speeds(folder))) or None


class _Plain(yaml.SafeDumper):
    """Writes what is there twice in full, twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Strict(yaml.SafeLoader):
    """Reads plain data only, of bounded depth: no objects, and no aliases, which could unfold without bounds."""

    depth = 0

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:
        if self.flow_level > DEEPEST:  # the scanner, which runs ahead of the nodes, takes time of the depth squared
            raise ValueError("it is nested too deeply")
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it refers to its own parts")
        if self.depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, with dotted keys."""
    rows: dict[str, Any] = {}
    for key, value in config.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return rows
