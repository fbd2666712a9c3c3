r"""What training leaves behind, read again: a run's newest checkpoint, or a bundle; and a teacher of either kind."""

__all__ = ["load", "load_run", "with_teacher"]

import torch

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle import CARD, Bundle, read_bundle
from ..errors import DataError, UsageError
from ..modality import TensorSpec
from .checkpoints import latest
from .records import RunRecord


def load(folder: Path) -> Bundle:
    """Returns what lies in the folder of a run or of a bundle.

    Raises:
        UsageError: There is neither.
        DataError: What is there is damaged.
    """
    if not folder.is_dir():
        others = ", ".join(sorted(str(p.parent) for p in folder.parent.glob("*/config.yaml"))) or "none"
        raise UsageError(f"There is no folder '{folder}'. Runs beside it: {others}.")
    return read_bundle(folder) if (folder / CARD).exists() else load_run(folder)


def load_run(folder: Path) -> Bundle:
    """Returns the newest bundle of a run, from its checkpoints."""
    record = RunRecord(folder)
    if not record.exists():
        raise UsageError(f"There is no run in '{folder}'.")
    problems: list[str] = []
    checkpoint = latest(record.checkpoints, problems.append)
    if checkpoint is None:
        raise DataError(" ".join([f"The run '{folder}' has no usable checkpoint yet.", *problems]))
    return read_bundle(checkpoint.folder)


def with_teacher(objective: Mapping[str, Any], spec: TensorSpec, device: torch.device) -> Mapping[str, Any]:
    """Puts the map of a run or bundle in the place where an objective's source names a teacher.

    Raises:
        UsageError: None is named, it is not there, or it is of another kind than what is to be trained.
    """
    source = objective.get("source")
    if not isinstance(source, Mapping):
        return objective
    if source.get("name") != "teacher":
        return {**objective, "source": with_teacher(source, spec, device)}
    place = source.get("teacher")
    if place is None:
        raise UsageError(
            f"objective={objective.get('name')} learns from a teacher: name a run or a bundle that learned its diagonal, "
            "objective.source.teacher=runs/NAME. Without one, objective=easy_consistency learns the same from data."
        )
    bundle = load(Path(str(place)).expanduser())
    _compare(bundle, spec, str(place))
    return {**objective, "source": {**source, "teacher": bundle.flow_map.to(device)}}


def _compare(teacher: Bundle, spec: TensorSpec, place: str) -> None:
    card = teacher.card
    if card.spec.shape != spec.shape or card.spec.classes not in ((), spec.classes):
        raise UsageError(
            f"The teacher '{place}' knows samples of shape {card.spec.shape} and {len(card.spec.classes)} classes; those to "
            f"learn have shape {spec.shape} and {len(spec.classes)} classes. A teacher is trained on the same kind of data."
        )
    if "diagonal" not in card.learned:
        raise UsageError(
            f"The teacher '{place}' ({card.objective}) learned the {' and the '.join(card.learned)} of the solution map, "
            "and a teacher needs the diagonal: train it with objective=flow_matching, denoising or mean_flow."
        )
