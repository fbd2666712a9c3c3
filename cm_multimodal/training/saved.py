r"""What training leaves behind, read again: a run's newest checkpoint, or a bundle; and a teacher of either kind."""

__all__ = ["Student", "load", "load_run", "teacher_checksum", "weights_checksum", "with_teacher"]

import hashlib
import torch

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import CARD, Bundle, read_bundle
from ..errors import DataError, UsageError
from ..maps import FlowMap
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


@dataclass(frozen=True)
class Student:
    """What learns from a teacher.

    Arguments:
        spec: Its tensors.
        drop_label: How often it sees samples without their class.
        device: Where it learns.
        dtype: The type of its weights.
    """

    spec: TensorSpec
    drop_label: float
    device: torch.device
    dtype: torch.dtype


def with_teacher(objective: Mapping[str, Any], student: Student, place: str = "objective") -> Mapping[str, Any]:
    """Puts the maps of runs or bundles in the places where an objective names a teacher.

    Arguments:
        objective: The objective's configuration, or a part of it.
        student: What learns.
        place: The key that this part stands under.

    Raises:
        UsageError: None is named, it is not there, or it is of another kind than what is to be trained.
    """
    whole = dict(objective)
    for key, part in objective.items():
        if isinstance(part, Mapping) and part.get("name") == "teacher":
            whole[key] = {**part, "teacher": _teacher(part, student, f"{place}.{key}")}
        elif isinstance(part, Mapping):
            whole[key] = with_teacher(part, student, f"{place}.{key}")
    return whole


def teacher_checksum(objective: Mapping[str, Any]) -> str | None:
    """Returns a checksum of the weights of all teachers that were put in place, if there are any."""
    found = [
        teacher_checksum(part) if isinstance(part, Mapping) else weights_checksum(part)
        for part in objective.values()
        if isinstance(part, Mapping | FlowMap)
    ]
    marks = [mark for mark in found if mark]
    return hashlib.sha256("".join(marks).encode()).hexdigest() if marks else None


def weights_checksum(flow_map: FlowMap) -> str:
    """Returns a checksum of a map's weights as they are saved, whatever they compute in."""
    digest = hashlib.sha256()
    for tensor in flow_map.state_dict().values():
        plain = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(plain.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _teacher(source: Mapping[str, Any], student: Student, key: str) -> FlowMap:
    place = source.get("teacher")
    if place is None:
        raise UsageError(
            f"This objective learns from a teacher: name a run or a bundle that learned its diagonal, {key}.teacher="
            "runs/NAME. Without one, objective=easy_consistency learns the same from data as the distillations do."
        )
    bundle = load(Path(str(place)).expanduser())
    _compare(bundle, student, str(place))
    if "solver" in source and source["solver"] is None and "triangle" not in bundle.card.learned:
        raise UsageError(
            f"{key}.solver=null lets the teacher '{place}' jump by itself, and it learned the "
            f"{' and the '.join(bundle.card.learned)} of the solution map only; use {key}.solver.name=heun."
        )
    return bundle.flow_map.to(student.device, student.dtype)


def _compare(teacher: Bundle, student: Student, place: str) -> None:
    card, spec = teacher.card, student.spec
    if card.spec.classes and student.drop_label and not card.drop_label:
        raise UsageError(
            f"train.drop_label={student.drop_label:g} shows samples without their class, and the teacher '{place}' never "
            "saw any; train it with train.drop_label too, or leave it out here."
        )
    if card.spec.shape != spec.shape or card.spec.classes not in ((), spec.classes):
        raise UsageError(
            f"The teacher '{place}' knows samples of shape {card.spec.shape} and {len(card.spec.classes)} classes; those to "
            f"learn have shape {spec.shape} and {len(spec.classes)} classes. A teacher is trained on the same kind of data."
        )
    if {**card.spec.settings}.get("mel") != {**spec.settings}.get("mel"):
        raise UsageError(f"The teacher '{place}' is told something else of samples than the network that learns.")
    if "diagonal" not in card.learned:
        raise UsageError(
            f"The teacher '{place}' ({card.objective}) learned the {' and the '.join(card.learned)} of the solution map, "
            "and a teacher needs the diagonal: train it with objective=flow_matching, denoising or mean_flow."
        )
