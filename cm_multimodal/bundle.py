r"""The bundle: what a user shares of a trained map. Two files, no pickle.

    bundle.json           what the map is: modality, tensors, network, path, scaling, what was learned
    weights.safetensors   the averaged weights

The JSON is read against a fixed schema, its names against the registries; it never names an import path, and sizes are
bounded before anything is allocated. Each checkpoint of a run is a bundle too, with the training state beside it.
"""

__all__ = ["Bundle", "Card", "assemble", "empty_map", "read_bundle", "read_card", "write_bundle"]

import dataclasses
import json
import math
import torch

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from typing import Any

from .build import PARTS, build_flow_map
from .errors import DataError, UsageError, UserError
from .files import open_regular, read_text, write_tensors, write_text
from .maps import FlowMap, Precision
from .modality import Modality, TensorSpec, find_modality
from .values import fits

CARD, WEIGHTS = "bundle.json", "weights.safetensors"
FORMAT = 1
LIMITS = {
    "card bytes": 1 << 24,
    "elements of a sample": 1 << 26,
    "elements of a chunk": 1 << 26,
    "parameters": 1 << 34,
    "classes": 100_000,
}
LEARNED = {"diagonal", "edge", "triangle"}
FORMATS = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}  # of a network's tensors


@dataclass(frozen=True)
class Card:
    """What a map is, in names and numbers.

    Arguments:
        modality: The name of its modality.
        spec: The shape, scale and classes of its tensors.
        net: The network's configuration.
        path: The name of its path.
        scaling: The name of its scaling.
        two_times: Whether the network is told the target time.
        learned: Which parts of the map were learned.
        objective: The name of its objective.
        chunk: The number of samples that generation computes at a time.
        samples_seen: The training samples seen.
        drop_label: How often a class was replaced by "none" in training.
    """

    modality: str
    spec: TensorSpec
    net: Mapping[str, Any]
    path: str
    scaling: str
    two_times: bool
    learned: tuple[str, ...]
    objective: str
    chunk: int = 64
    samples_seen: int = 0
    drop_label: float = 0.0

    def to_json(self) -> str:
        """Returns the text of `bundle.json`."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n"


@dataclass(frozen=True)
class Bundle:
    """A map that is ready to use, and the modality that gives its tensors a meaning."""

    card: Card
    flow_map: FlowMap
    modality: Modality


def write_bundle(card: Card, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Writes the two files into a folder; weights in float32, but for those that are no floating-point numbers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"'{folder}' is a file, not a folder; choose another with out=.") from error
    single = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    write_tensors(folder / WEIGHTS, single)
    write_text(folder / CARD, card.to_json())


def read_bundle(folder: Path) -> Bundle:
    """Reads a bundle.

    Raises:
        DataError: A file is missing, damaged or not what a bundle holds.
    """
    card = read_card(folder)
    modality = find_modality(card.modality)(card.spec)
    weights = _weights(folder, _outline(card, modality))
    return assemble(card, modality, empty_map(card, modality), weights)


def assemble(card: Card, modality: Modality, flow_map: FlowMap, weights: Mapping[str, Tensor]) -> Bundle:
    """Puts weights into a map that is then ready to use."""
    flow_map.net.load_state_dict(weights)
    return Bundle(card, flow_map.eval().requires_grad_(False), modality)


def _weights(folder: Path, net: nn.Module) -> dict[str, Tensor]:
    """Reads weights after their names, shapes and number formats were held against the network's."""
    try:
        open_regular(folder / WEIGHTS).close()
        with safe_open(folder / WEIGHTS, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
            _compare(found, net)
            return {name: file.get_tensor(name) for name in found}
    except (OSError, SafetensorError) as error:
        raise DataError(f"The weights of the bundle '{folder}' cannot be read: {error}.") from error
    except ValueError as error:
        raise DataError(f"The weights of the bundle '{folder}' do not fit its network: {error}.") from error


def _compare(found: Mapping[str, tuple[tuple[int, ...], str]], net: nn.Module) -> None:
    wanted = {name: (tuple(value.shape), FORMATS[value.dtype]) for name, value in net.state_dict().items()}
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            has, needs = (_form(each.get(name)) for each in (found, wanted))
            raise ValueError(f"'{name[:80]}' has {has}, and the network has {needs}")


def _form(form: tuple[tuple[int, ...], str] | None) -> str:
    return "no such part" if form is None else f"the shape {form[0]} in {form[1]}"


def empty_map(card: Card, modality: Modality, precision: Precision = Precision()) -> FlowMap:
    """Builds the map of a card, its network fresh."""
    _outline(card, modality)
    net = modality.net(card.net, card.two_times)
    return build_flow_map(net, card.path, card.scaling, card.spec.sigma_data, frozenset(card.learned), precision)


def _outline(card: Card, modality: Modality) -> nn.Module:
    """Returns the network of a card without its memory, and holds its size against the limit."""
    with torch.device("meta"):
        net = modality.net(card.net, card.two_times)
    size = sum(p.numel() for p in net.parameters())
    if size > LIMITS["parameters"]:
        raise DataError(f"The network would have {size:,} parameters, more than the limit.")
    return net


def read_card(folder: Path) -> Card:
    """Reads and checks `bundle.json`."""
    file = folder / CARD
    try:
        return _card(json.loads(read_text(file, LIMITS["card bytes"])))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"'{file}' cannot be read: {error}.") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise DataError(f"'{file}' does not describe a bundle: {error}.") from error


def _card(raw: Any) -> Card:
    if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}")
    spec = raw.pop("spec")
    if not isinstance(spec, dict):
        raise ValueError("'spec' is not a mapping")
    shape, classes = tuple(spec.pop("shape")), tuple(spec.pop("classes", ()))
    card = Card(spec=TensorSpec(shape=shape, classes=classes, **spec), learned=tuple(raw.pop("learned")), **raw)
    _check(card)
    return card


def _check(card: Card) -> None:
    """Bounds every number and looks up every name before anything is built."""
    shape, sigma = card.spec.shape, card.spec.sigma_data
    checks = {
        "its shape": all(type(n) is int and n > 0 for n in shape)
        and math.prod(shape) <= LIMITS["elements of a sample"],
        "its sigma_data": isinstance(sigma, float) and math.isfinite(sigma) and sigma > 0,
        "its classes": len(card.spec.classes) <= LIMITS["classes"]
        and all(isinstance(c, str) and c.encode(errors="replace").decode() == c for c in card.spec.classes),
        "its chunk": type(card.chunk) is int and 0 < card.chunk * math.prod(shape) <= LIMITS["elements of a chunk"],
        "its modality": isinstance(card.modality, str) and card.modality.isidentifier(),
        "its objective": isinstance(card.objective, str) and len(card.objective) <= 100,
        "its mask": isinstance(card.spec.masked, bool),
        "its settings": isinstance(card.spec.settings, dict),
        "its number of samples seen": type(card.samples_seen) is int and card.samples_seen >= 0,
        "its share of dropped classes": fits(card.drop_label, float) and 0 <= card.drop_label <= 1,
        "its path": card.path in PARTS["path"],
        "its scaling": card.scaling in PARTS["scaling"],
        "what it learned": set(card.learned) <= LEARNED,
        "its times": isinstance(card.two_times, bool),
        "its network": isinstance(card.net, dict) and "_target_" not in card.net,
    }
    for what, right in checks.items():
        if not right:
            raise ValueError(f"{what} is not valid")
