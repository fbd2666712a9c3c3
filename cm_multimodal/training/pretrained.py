r"""A network that begins with the weights of another one: fine-tuning, jumps after a flow, clips after pictures.

Weights are taken by their names, where they have the same shape but for dimensions of one place: a convolution of pictures
is one of clips within frames. A layer with fewer inputs fills the first of them; those that are new, and come after, begin
at zero: the length of a jump, what is known of a sample. So the network begins by computing what the other one did. Whatever
has no counterpart, such as classes of another number or what passes between frames, begins as it always does.
"""

__all__ = ["begin_with", "fitting"]

import dataclasses
import torch

from collections.abc import Callable, Mapping
from pathlib import Path
from torch import Tensor, nn

from ..bundle import Bundle
from ..errors import UsageError
from .parts import Parts
from .saved import load, weights_checksum

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LEAST = 0.25  # of a network, that has to begin with the other one's weights
NAMED = 6  # of those without a counterpart


def begin_with(place: str, parts: Parts, report: Callable[[str], None]) -> Parts:
    """Puts the weights of a run or a bundle in the place of a network's own, and returns the parts with their checksum.

    Arguments:
        place: The folder of the run (its newest checkpoint) or of the bundle.
        parts: What is trained; its network changes.
        report: Takes a line for a person: how much was taken, and what was not.

    Raises:
        UsageError: There is nothing in the folder, or its network is of another kind.
        DataError: What is there is damaged.
    """
    bundle = load(Path(place).expanduser())
    _compare(bundle, parts, place)
    net, found = parts.flow_map.net, bundle.flow_map.net.state_dict()
    taken = fitting(net, found)
    share = sum(value.numel() for value in taken.values()) / sum(value.numel() for value in net.parameters())
    if share < LEAST:
        raise UsageError(
            f"weights={place} is not possible: they have a place in only {100 * share:.0f} % of this network. Give it the "
            "same settings (net.size=, net.channels=, ...) as the other one, or leave out weights=."
        )
    net.load_state_dict(taken, strict=False)
    seen, rest = bundle.card.samples_seen, _rest(net, taken)
    report(f"weights of '{place}' ({seen:,} samples): in {100 * share:.0f} % of this network{rest}")
    return dataclasses.replace(parts, weights=weights_checksum(bundle.flow_map))


def fitting(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns those of some weights that have a place in a network, by its names and in its shapes."""
    found = {_inner(name): value for name, value in weights.items()}
    layers = {name for name, part in net.named_modules() if isinstance(part, LAYERS)}
    wide = {f"{name}.weight" for name in layers} - set(getattr(net, "between", ()))
    fitted = {
        name: _fitted(found[_inner(name)], like, name in wide)
        for name, like in net.named_parameters()
        if _inner(name) in found
    }
    return {name: value for name, value in fitted.items() if value is not None}


def _inner(name: str) -> str:
    """Returns the name of a weight inside the networks that are wrapped around its own, each of which calls it `net`."""
    while name.startswith("net."):
        name = name.removeprefix("net.")
    return name


def _compare(bundle: Bundle, parts: Parts, place: str) -> None:
    """Refuses weights that mean something else here."""
    card, own = bundle.card, parts.card
    for name, (theirs, mine) in {"path": (card.path, own.path), "scaling": (card.scaling, own.scaling)}.items():
        if theirs != mine:
            raise UsageError(
                f"weights={place} is not possible: that network has the {name} '{theirs}', this one '{mine}', and what it "
                "says would mean something else. Choose the same path and an objective with the same scaling."
            )
    if card.modality == own.modality and (why := parts.modality.unlike(card.spec)):
        raise UsageError(f"weights={place} is not possible: {why}.")
    points, others = parts.flow_map.vertices, bundle.flow_map.vertices
    if (
        points is not None
        and others is not None
        and not (points.shape == others.shape and torch.allclose(points, others))
    ):
        raise UsageError(
            f"weights={place} is not possible: the embeddings of its tokens are others, learned from other texts. Tokens "
            "without embeddings (data.embedding=null) have no such difference."
        )


def _fitted(value: Tensor, like: Tensor, wide: bool) -> Tensor | None:
    """Returns weights in the shape of others, or nothing where they do not fit.

    Arguments:
        value: The weights.
        like: The others.
        wide: Whether they are a layer's, which may have more inputs here, along its second dimension.
    """
    if value.shape == like.shape:
        return value
    over, wanted = ([n for n in tensor.shape[2:] if n > 1] for tensor in (value, like))
    if not wide or value.ndim < 2 or len(value) != len(like) or over != wanted or value.shape[1] > like.shape[1]:
        return None
    whole = torch.zeros_like(like)
    whole[:, : value.shape[1]] = value.reshape(*value.shape[:2], *like.shape[2:])
    return whole


def _rest(net: nn.Module, taken: Mapping[str, Tensor]) -> str:
    left = [name for name, _ in net.named_parameters() if name not in taken]
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    return f"; begun anew: {', '.join(left[:NAMED])}{more}" if left else ""
