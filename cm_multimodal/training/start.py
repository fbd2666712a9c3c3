r"""How a training begins: anew, from the newest checkpoint of its own run, or from one that was named (`resume=`).

Nothing starts from zero in silence: where checkpoints are, one of them is used, or the reason why not is said.
"""

__all__ = ["anew", "changes", "set_threads_of", "take_over"]

import torch

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..bundle import read_card
from ..errors import DataError, UsageError
from ..machine import describe_machine, set_threads
from .checkpoints import PLACES, Checkpoint, check, latest, load_state, place, set_aside
from .data import fingerprint
from .module import TrainingModule
from .parts import Parts
from .records import RunRecord, read_config
from .settings import TrainSettings
from .world import World

Report = Callable[[str], None]
AUTO = "auto"
APART = 1e-3  # how far the same points may lie from each other on two kinds of machine


def changes(record: RunRecord, config: Mapping[str, Any]) -> list[str]:
    """Returns sentences on what changed harmlessly since the run that is gone on with was started; none for a new one.

    Raises:
        UsageError: What changed is what a run's state depends on, or `resume` names no checkpoint.
    """
    own, wanted = sorted(record.checkpoints.glob(PLACES)), _wanted(config)
    if own and wanted in (AUTO, str(read_config(record.folder).get("resume"))):
        return record.compare(config)
    if wanted == AUTO:
        return []
    named = _named(Path(wanted).expanduser())
    if not own:
        return _run_of(named).compare(config, f"Begin with its weights alone, weights={named} instead of resume=")
    if named.resolve() != own[-1].resolve():
        raise UsageError(
            f"resume={named} cannot be followed: the run '{record.folder}' has its own checkpoints, up to "
            f"'{own[-1].name}'. Leave out resume= to go on from there, or give the run another name=."
        )
    check(named)
    return record.compare(config)


def anew(record: RunRecord, config: Mapping[str, Any]) -> bool:
    """Says whether a run begins with no checkpoint, its own or another one's."""
    return _wanted(config) == AUTO and not any(record.checkpoints.glob(PLACES))


def set_threads_of(record: RunRecord, settings: TrainSettings, world: World, report: Report) -> int:
    """Sets and returns the number of CPU threads: as asked, as the run began with, or this process's share."""
    share = world.cores()
    before = record.threads() if record.exists() else None
    usual = before if before is not None and record.machine().get("processes", 1) == world.size else share
    threads = set_threads(settings.threads or min(usual, share))
    if before not in (None, threads):
        report(f"The run was started with {before} threads and goes on with {threads}: bits may differ.")
    return threads


def take_over(
    module: TrainingModule, record: RunRecord, config: Mapping[str, Any], parts: Parts, threads: int, report: Report
) -> Checkpoint | None:
    """Brings a module to where the run is, writes the record of a new one, and returns the checkpoint that it began from.

    Raises:
        UsageError: The folder cannot be written.
        DataError: There are checkpoints but none that can be used, or training data or teacher are not what they were.
    """
    world, data = module.world, fingerprint(parts.splits.train)
    if not world.same(f"{data}{parts.teacher}{parts.weights}".encode()):
        raise DataError(
            "The processes of this run read different training data, teachers or weights; give them the same files."
        )
    start = _choose(module, record, _wanted(config), report)
    new = start is None or start.folder.parent.resolve() != record.checkpoints.resolve()
    if start is not None:
        begun = _run_of(start.folder) if new else record
        _compare_data(begun, data)
        _compare_teacher(begun, parts.teacher)
        if why := parts.modality.unlike(read_card(start.folder).spec):
            raise _other_meaning(start, why)
        _load(module, start)
        report(f"going on from {start.folder.name} ({start.samples:,} samples)")
    if new:
        machine = {**describe_machine(), "threads": threads, "processes": world.size, "data": data}
        machine |= {name: mark for name in ("teacher", "weights") if (mark := getattr(parts, name))}
        world.on_main(lambda: record.start(config, machine))
        report(f"a new run: {record.folder}")
    return start


def _choose(module: TrainingModule, record: RunRecord, wanted: str, report: Report) -> Checkpoint | None:
    """Returns where to start. The main process chooses among the run's own checkpoints, and all take what it chose."""
    found: list[Checkpoint] = []
    module.world.on_main(lambda: found.extend(_settle(record, report)))
    samples = int(module.world.max(found[0].samples if found else -1))
    if samples < 0:
        return None if wanted == AUTO else check(_named(Path(wanted).expanduser()))
    folder = place(record.checkpoints, samples)
    if not folder.is_dir():
        raise DataError(
            f"This process does not see '{folder}', which the main one goes on from; give all the same runs=."
        )
    return found[0] if found else Checkpoint(folder, samples)


def _wanted(config: Mapping[str, Any]) -> str:
    return AUTO if config["resume"] is None else str(config["resume"])


def _named(folder: Path) -> Path:
    if folder.is_dir() and folder.match(PLACES):
        return folder
    places = [*folder.parent.glob(PLACES), *folder.glob(f"checkpoints/{PLACES}"), *folder.glob(PLACES)]
    there = ", ".join(sorted(map(str, places))) or "none"
    wrong = "is not a checkpoint" if folder.exists() else "does not exist"
    raise UsageError(f"resume={folder} {wrong}, and nothing is started from zero instead. Checkpoints there: {there}.")


def _run_of(checkpoint: Path) -> RunRecord:
    return RunRecord(checkpoint.resolve().parents[1])


def _settle(record: RunRecord, report: Report) -> list[Checkpoint]:
    """Makes the folder ready, and damaged checkpoints harmless; returns the newest that is good, if there is one."""
    record.prepare()
    newest = latest(record.checkpoints, report)
    if newest is None and (any(record.checkpoints.glob(PLACES)) or record.bundle.exists()):
        raise DataError(
            f"The run '{record.folder}' was trained, but none of its checkpoints can be used, and it is not started from "
            "zero over them. Give the run another name=, or remove its folder."
        )
    set_aside(record.checkpoints, newest)
    return [newest] if newest else []


def _compare_data(record: RunRecord, data: str) -> None:
    before = record.machine().get("data")
    if before is not None and before != data:
        raise DataError(
            f"The training data are not those that the run '{record.folder}' was started with (checksum {before[:12]} then, "
            f"{data[:12]} now): files were added, removed or changed. Restore them, or give the run another name=."
        )


def _compare_teacher(record: RunRecord, teacher: str | None) -> None:
    before = record.machine().get("teacher")
    if before is not None and before != teacher:
        raise DataError(
            f"The teacher of the run '{record.folder}' has other weights than when it was started: it was trained on. "
            "Name its checkpoint of then, runs/NAME/checkpoints/step-..., or give this run another name=."
        )


def _other_meaning(start: Checkpoint, why: str) -> DataError:
    return DataError(
        f"The training data do not mean what they did in '{start.folder}': {why}. Files that this is fitted to were "
        "changed; restore them, or give the run another name=."
    )


def _load(module: TrainingModule, start: Checkpoint) -> None:
    state, points = load_state(start), module.flow_map.vertices
    fitted = None if points is None else points.clone()
    try:
        module.load_training_state(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"The training state of '{start.folder}' does not fit this network: {str(error).splitlines()[0]}"
        ) from error
    if fitted is not None and points is not None and not torch.allclose(points, fitted, atol=APART):
        raise _other_meaning(start, "the points that clean states are mixed of are others")
