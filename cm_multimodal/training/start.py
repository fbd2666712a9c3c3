r"""How a training begins: anew, from the newest checkpoint of its own run, or from one that was named (`resume=`).

Nothing starts from zero in silence: where checkpoints are, one of them is used, or the reason why not is said.
"""

__all__ = ["changes", "set_threads_of", "take_over"]

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from ..machine import describe_machine, free_cores, set_threads
from ..modality import Dataset
from .checkpoints import PLACES, Checkpoint, check, latest, load_state, set_aside
from .data import fingerprint
from .module import TrainingModule
from .records import RunRecord, read_config
from .settings import TrainSettings
from .world import World

Report = Callable[[str], None]
AUTO = "auto"


def changes(record: RunRecord, config: Mapping[str, Any]) -> list[str]:
    """Returns sentences on what changed harmlessly since the run that is gone on with was started; none for a new one.

    Raises:
        UsageError: What changed is what a run's state depends on, or `resume` names no checkpoint.
    """
    named = None if config["resume"] == AUTO else _named(Path(config["resume"]).expanduser())
    own = sorted(record.checkpoints.glob(PLACES))
    if not own:
        return [] if named is None else _run_of(named).compare(config)
    if named is not None and named.resolve() != own[-1].resolve():
        before = read_config(record.folder).get("resume")
        if before != config["resume"]:
            raise UsageError(
                f"resume={named} cannot be followed: the run '{record.folder}' has its own checkpoints, up to "
                f"'{own[-1].name}'. Leave out resume= to go on from there, or give the run another name=."
            )
    return record.compare(config)


def set_threads_of(record: RunRecord, settings: TrainSettings, world: World, report: Report) -> int:
    """Sets and returns the number of CPU threads: as asked, as the run began with, or this process's share."""
    before = record.threads()
    threads = set_threads(settings.threads or before or max(free_cores() // world.local_size, 1))
    if before not in (None, threads):
        report(f"The run was started with {before} threads and goes on with {threads}: bits may differ.")
    return threads


def take_over(
    module: TrainingModule, record: RunRecord, config: Mapping[str, Any], train: Dataset, threads: int, report: Report
) -> None:
    """Brings a module to where the run is, and writes the record of a new one.

    Raises:
        UsageError: The folder cannot be written.
        DataError: There are checkpoints but none that can be used, or the training data are not what they were.
    """
    world, data = module.world, fingerprint(train)
    if not world.same(data.encode()):
        raise DataError("The processes of this run read different training data; give them the same files.")
    world.on_main(lambda: _settle(record, report))
    newest = latest(record.checkpoints)
    start = newest if newest or config["resume"] == AUTO else check(_named(Path(config["resume"]).expanduser()))
    if start is not None:
        _compare_data(record if newest else _run_of(start.folder), data)
        _load(module, start)
        report(f"going on from {start.folder.name} ({start.samples:,} samples)")
    if newest is None:
        machine = {**describe_machine(), "threads": threads, "processes": world.size, "data": data}
        world.on_main(lambda: record.start(config, machine))
        report(f"a new run: {record.folder}")


def _named(folder: Path) -> Path:
    if folder.is_dir() and folder.match(PLACES):
        return folder
    places = [*folder.parent.glob(PLACES), *folder.glob(f"checkpoints/{PLACES}"), *folder.glob(PLACES)]
    there = ", ".join(sorted(map(str, places))) or "none"
    wrong = "is not a checkpoint" if folder.exists() else "does not exist"
    raise UsageError(f"resume={folder} {wrong}, and nothing is started from zero instead. Checkpoints there: {there}.")


def _run_of(checkpoint: Path) -> RunRecord:
    return RunRecord(checkpoint.resolve().parents[1])


def _settle(record: RunRecord, report: Report) -> None:
    """Makes the folder ready, and damaged checkpoints harmless."""
    record.prepare()
    newest = latest(record.checkpoints, report)
    if newest is None and (any(record.checkpoints.glob(PLACES)) or record.bundle.exists()):
        raise DataError(
            f"The run '{record.folder}' was trained, but none of its checkpoints can be used, and it is not started from "
            "zero over them. Give the run another name=, or remove its folder."
        )
    set_aside(record.checkpoints, newest)


def _compare_data(record: RunRecord, data: str) -> None:
    before = record.machine().get("data")
    if before is not None and before != data:
        raise DataError(
            f"The training data are not those that the run '{record.folder}' was started with (checksum {before[:12]} then, "
            f"{data[:12]} now): files were added, removed or changed. Restore them, or give the run another name=."
        )


def _load(module: TrainingModule, start: Checkpoint) -> None:
    state = load_state(start)
    try:
        module.load_training_state(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"The training state of '{start.folder}' does not fit this network: {str(error).splitlines()[0]}"
        ) from error
