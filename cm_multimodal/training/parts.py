r"""What a configuration describes: data, modality, network, objective, averages."""

__all__ = ["Parts", "build_decays", "build_parts"]

import math
import torch

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..build import build_objective, build_part
from ..bundle import Card, empty_map
from ..errors import UsageError
from ..labelling import Labelling
from ..machine import choose_precision
from ..maps import FlowMap
from ..modality import Modality, Splits, TensorSpec, find_modality
from ..objectives import Objective
from .saved import Student, teacher_checksum, with_teacher
from .settings import read_settings

CHUNK, CHUNK_ELEMENTS = 64, 1 << 24  # samples that generation computes at a time, and their elements


@dataclass(frozen=True)
class Parts:
    """What a configuration describes; `teacher` and `weights` are checksums, of a teacher and of what it begins with."""

    splits: Splits
    modality: Modality
    objective: Objective
    card: Card
    flow_map: FlowMap
    teacher: str | None = None
    weights: str | None = None


def build_parts(config: Mapping[str, Any], device: torch.device = torch.device("cpu")) -> Parts:
    """Builds data, network and objective from a configuration; the same seed gives the same initial weights."""
    adapter = find_modality(config["modality"])
    splits, labels = adapter.dataset(config["data"]), read_settings(Labelling, config.get("labels", {}), "labels")
    splits = Splits(labels.of(splits.train), splits.test)
    modality = adapter(adapter.describe(splits.train, config["data"]))
    precision = choose_precision(config["train"]["precision"], device)
    drop_label = labels.drop(float(config["train"]["drop_label"])) if modality.spec.classes else 0.0
    dtype = torch.float64 if precision.dtype == torch.float64 else torch.float32
    taught = with_teacher(config["objective"], Student(modality.spec, drop_label, device, dtype))
    _check_guided(config["objective"], modality.spec, drop_label)
    objective = build_objective(taught)
    _check_told(modality, objective, splits)
    card = Card(
        modality=config["modality"],
        spec=modality.spec,
        net=dict(config["net"]),
        path=config["path"]["name"],
        scaling=config["objective"]["scaling"],
        two_times=objective.two_times,
        learned=tuple(sorted(objective.learned)),
        objective=config["objective"]["name"],
        chunk=max(1, min(CHUNK, CHUNK_ELEMENTS // math.prod(modality.spec.shape))),
        drop_label=drop_label,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        flow_map = empty_map(card, modality, precision)
    return Parts(splits, modality, objective, card, flow_map, teacher_checksum(taught))


def _check_guided(objective: Mapping[str, Any], spec: TensorSpec, drop_label: float) -> None:
    if not any(isinstance(part, Mapping) and part.get("name") == "guided" for part in objective.values()):
        return
    if not spec.classes:
        raise UsageError(
            "A guided source pushes samples towards their class, and these data have no classes (sub-folders)."
        )
    if not 0 < drop_label < 1:
        raise UsageError(
            "A guided source compares samples with and without their class, and the second kind is only seen where some "
            f"classes are dropped: train.drop_label=0.1 (it is {drop_label:g})."
        )


def _check_told(modality: Modality, objective: Objective, splits: Splits) -> None:
    """Refuses, before hours of training, what could never be used or looked at."""
    if modality.alone:
        return
    if "edge" not in objective.learned:
        raise UsageError(
            "What makes samples of what it is told is a decoder, which jumps to clean data; this objective learns no "
            "such jumps."
        )
    if not len(splits.test):
        raise UsageError("What makes samples of what it is told of others needs held-back ones, and there are none.")


def build_decays(config: Mapping[str, Any]) -> list[Any]:
    """Builds the averages of a configuration; a list of widths makes as many power-function averages."""
    widths = config.get("std")
    several = [{**config, "std": std} for std in widths] if isinstance(widths, list | tuple) else [config]
    return [build_part("ema", each) for each in several]
