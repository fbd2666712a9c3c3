r"""What a configuration describes: data, modality, network, objective, averages."""

__all__ = ["Parts", "build_decays", "build_parts"]

import math
import torch

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..build import build_objective, build_part
from ..bundle import Card, empty_map
from ..machine import choose_precision
from ..maps import FlowMap
from ..modality import Modality, Splits, find_modality
from ..objectives import Objective
from .saved import with_teacher

CHUNK, CHUNK_ELEMENTS = 64, 1 << 24  # samples that generation computes at a time, and their elements


@dataclass(frozen=True)
class Parts:
    """What a configuration describes."""

    splits: Splits
    modality: Modality
    objective: Objective
    card: Card
    flow_map: FlowMap


def build_parts(config: Mapping[str, Any], device: torch.device = torch.device("cpu")) -> Parts:
    """Builds data, network and objective from a configuration; the same seed gives the same initial weights."""
    adapter = find_modality(config["modality"])
    splits = adapter.dataset(config["data"])
    modality = adapter(adapter.describe(splits.train))
    objective = build_objective(with_teacher(config["objective"], modality.spec, device))
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
        drop_label=float(config["train"]["drop_label"]) if modality.spec.classes else 0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        flow_map = empty_map(card, modality, choose_precision(config["train"]["precision"], device))
    return Parts(splits, modality, objective, card, flow_map)


def build_decays(config: Mapping[str, Any]) -> list[Any]:
    """Builds the averages of a configuration; a list of widths makes as many power-function averages."""
    widths = config.get("std")
    several = [{**config, "std": std} for std in widths] if isinstance(widths, list | tuple) else [config]
    return [build_part("ema", each) for each in several]
