r"""A network that begins with the weights of another one: fine-tuning, jumps after a flow, clips after pictures.

Every weight of the other network has its place, by its name, in a weight of the same shape but for dimensions of one place:
a convolution of pictures is one of clips within frames. Where a network says that new inputs of a layer come last (`grows`:
the length of a jump, what is known of a sample), those begin at zero; so does what passes between frames. Classes of the
same name keep their embeddings, the others begin as that of none; where only one of the networks knows classes, they begin
anew or are left out. But for these a network begins by computing what the other one did.
"""

__all__ = ["begin_with", "fitting"]

import dataclasses
import torch

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from torch import Tensor, nn

from ..bundle import Bundle
from ..errors import UsageError
from .parts import Parts
from .saved import load, weights_checksum

LABEL = "embedding.label.weight"


def begin_with(place: str, parts: Parts, report: Callable[[str], None]) -> Parts:
    """Puts the weights of a run or a bundle in the place of a network's own, and returns the parts with their checksum.

    Arguments:
        place: The folder of the run (its newest checkpoint) or of the bundle.
        parts: What is trained; its network changes.
        report: Takes a line for a person: how much began with them.

    Raises:
        UsageError: There is nothing in the folder, or it is of another kind of network, path, scaling or vocabulary.
        DataError: What is there is damaged.
    """
    bundle, net = load(Path(place).expanduser()), parts.flow_map.net
    _compare(bundle, parts, place)
    weights, theirs, mine = bundle.flow_map.net.state_dict(), bundle.card.spec.classes, parts.card.spec.classes
    try:
        fitted = fitting(net, weights if theirs == mine else _for_classes(weights, theirs, mine))
    except ValueError as error:
        raise UsageError(
            f"weights={place} is not possible: {error}. Give this network the same settings as that one, which was trained "
            f"on samples of shape {bundle.card.spec.shape} with {_settings(bundle)}."
        ) from error
    net.load_state_dict(fitted, strict=False)
    share = sum(value.numel() for value in fitted.values()) / sum(value.numel() for value in net.parameters())
    report(f"begun with {100 * share:.0f} % of the weights from '{place}' ({bundle.card.samples_seen:,} samples)")
    return dataclasses.replace(parts, weights=weights_checksum(bundle.flow_map))


def fitting(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights of another network by the names, and in the shapes, of this one's.

    Raises:
        ValueError: One of them has no place in it.
    """
    own = {_inner(name): (name, like) for name, like in net.named_parameters()}
    wide = {
        _inner(f"{name}.{layer}.weight".removeprefix("."))
        for name, part in net.named_modules()
        for layer in getattr(part, "grows", ())
    }
    buffers, fitted = {_inner(name) for name, _ in net.named_buffers()}, {}
    for key, value in weights.items():
        if (name := _inner(key)) in buffers:
            continue
        place, like = own.get(name, (name, None))
        found = None if like is None else _fitted(value, like, name in wide)
        if found is None:
            instead = "no such part" if like is None else f"the shape {tuple(like.shape)}"
            raise ValueError(f"its '{name}' has the shape {tuple(value.shape)}, and this network has {instead}")
        fitted[place] = found
    return fitted


def _inner(name: str) -> str:
    """Returns the name of a weight inside the networks that are wrapped around its own, each of which calls it `net`."""
    while name.startswith("net."):
        name = name.removeprefix("net.")
    return name


def _compare(bundle: Bundle, parts: Parts, place: str) -> None:
    card, own = bundle.card, parts.card
    for name, (theirs, mine) in {"path": (card.path, own.path), "scaling": (card.scaling, own.scaling)}.items():
        if theirs != mine:
            raise UsageError(
                f"weights={place} is not possible: that network has the {name} '{theirs}', this one '{mine}', and what it "
                "says would mean something else. Choose the same path and an objective with the same scaling."
            )
    if card.modality == own.modality and (why := parts.modality.unlike(card.spec)):
        raise UsageError(f"weights={place} is not possible: {why}.")
    points = [each.flow_map.vertices for each in (parts, bundle)]
    first, second = (torch.zeros(0) if each is None else each for each in points)
    if first.shape != second.shape or not torch.allclose(first, second):
        raise UsageError(
            f"weights={place} is not possible: its tokens have other embeddings, or only one of the two networks has any. "
            "Without them (data.embedding=null) on both sides there is no such difference."
        )


def _fitted(value: Tensor, like: Tensor, wide: bool) -> Tensor | None:
    """Returns weights in the shape of others, or nothing where they do not fit.

    Arguments:
        value: The weights.
        like: The others.
        wide: Whether they may have more inputs, along their second dimension.
    """
    if value.shape == like.shape:
        return value
    over, wanted = ([n for n in tensor.shape[2:] if n > 1] for tensor in (value, like))
    if min(value.ndim, like.ndim) < 2 or len(value) != len(like) or over != wanted:
        return None
    if value.shape[1] > like.shape[1] or (value.shape[1] < like.shape[1] and not wide):
        return None
    whole = torch.zeros_like(like)
    whole[:, : value.shape[1]] = value.reshape(*value.shape[:2], *like.shape[2:])
    return whole


def _for_classes(weights: Mapping[str, Tensor], theirs: Sequence[str], mine: Sequence[str]) -> dict[str, Tensor]:
    """Returns the weights with embeddings of other classes, of which those that were not known are as that of none."""
    none = len(theirs)
    rows = [theirs.index(name) if name in theirs else none for name in mine] + [none]
    plain = {name: value for name, value in weights.items() if not name.endswith(LABEL)}
    return plain | {name: value[rows] for name, value in weights.items() if mine and name not in plain}


def _settings(bundle: Bundle) -> str:
    return ", ".join(f"net.{name}={value}" for name, value in bundle.card.net.items())
