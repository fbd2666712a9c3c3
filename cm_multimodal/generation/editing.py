r"""Editing jobs: completing what is known of real samples, and walking from one generated sample to another."""

__all__ = ["Edited", "edit", "interpolate", "is_told"]

import torch

from collections.abc import Sequence
from dataclasses import dataclass, replace
from torch import Tensor

from .. import signals
from ..batch import Conditions
from ..bundle import Bundle, Card
from ..editing import Known, Measurement, between, complete
from ..errors import UsageError
from ..modality import Dataset
from ..random import Draws
from .labels import labels_of
from .sampling import Plan, check_alone, map_of, noise_of, times_of


@dataclass(frozen=True)
class Edited:
    """Edited samples, raw, with shape (N, *), and what was known of them, as far as it can be shown."""

    known: Tensor
    raw: Tensor


def is_told(card: Card, measurement: Measurement) -> bool:
    """Returns whether a network was told parts of samples in training, and can be told what is known."""
    return bool(card.net.get("known")) and measurement.told is not None


@torch.no_grad()
def edit(bundle: Bundle, plan: Plan, given: Dataset, measurement: Measurement, device: torch.device | str) -> Edited:
    """Completes the first `plan.n` of the samples given, as many times a chunk as the bundle says.

    A network that was told parts of samples in training is told what is known, and the plan's method draws samples that have
    it; with any other, jumps to clean data alternate with putting it in, whatever the method (`complete`).

    Raises:
        UsageError: The map did not learn the edge and was told no parts, or there are not so many samples.
    """
    told = measurement.told if is_told(bundle.card, measurement) else None
    if told is None and "edge" not in bundle.card.learned:
        raise UsageError(
            f"Editing jumps to clean data from every step, and this model ({bundle.card.objective}) learned the "
            f"{' and the '.join(bundle.card.learned)} only; it needs the edge."
        )
    if plan.n > len(given):
        raise UsageError(f"n={plan.n} is not possible: there are {len(given)} samples to edit.")
    flow_map, modality, chunk = map_of(bundle, plan, device), bundle.modality, bundle.card.chunk
    times, known, done = times_of(flow_map, plan, device), [], []
    for start in range(0, plan.n, chunk):
        signals.check()
        ids = torch.arange(start, start + chunk, device=device)
        rows = ids.cpu().clamp_max(plan.n - 1)
        x = modality.encode(given.raw[rows]).to(device)
        if x.shape[1:] != bundle.card.spec.shape:
            raise UsageError(
                f"The samples given have shape {tuple(x.shape[1:])}, the model's {bundle.card.spec.shape}."
            )
        fact = Known.of(x, measurement)
        cond, draws = _conditions(bundle, plan, given, rows, device), Draws(plan.seed, ids)
        if told is None:
            drawn = complete(flow_map, fact, x, times, cond, draws)
        else:
            noise = noise_of(flow_map, draws.noise("sample", tuple(x.shape[1:]), x.dtype), times)
            drawn = fact.put_into(plan.method(flow_map, noise, times, replace(cond, known=told(x)), draws))
        keep = slice(0, min(chunk, plan.n - start))
        known.append(modality.decode(measurement.back(fact.value))[keep].cpu())
        done.append(modality.decode(drawn)[keep].cpu())
    return Edited(torch.cat(known), torch.cat(done))


@torch.no_grad()
def interpolate(bundle: Bundle, plan: Plan, ends: Sequence[int], device: torch.device | str) -> Tensor:
    """Returns `plan.n` raw samples on the way from one sample's noise to another's, all of one class.

    Without `plan.labels` it is the class of the first end, which then is what `cmm sample` draws; so is the last end if it
    is of that class. All get the same fresh noise, if the method adds any.

    Raises:
        UsageError: The ends are one and the same, or the model draws nothing from noise alone.
    """
    check_alone(bundle)
    if ends[0] == ends[1]:
        raise UsageError(f"between={list(ends)} leads nowhere; give the numbers of two samples: 'between=[0,10]'.")
    flow_map, spec = map_of(bundle, plan, device), bundle.card.spec
    times = times_of(flow_map, plan, device)
    first, last = Draws(plan.seed, torch.tensor(ends, device=device)).noise("sample", spec.shape)
    ids = torch.arange(plan.n, device=device)
    eps = between(first, last, torch.linspace(0, 1, plan.n, device=device))
    x = noise_of(flow_map, eps, times)
    label = labels_of(plan.labels, torch.full_like(ids, ends[0]), len(spec.classes))
    cond = Conditions(label if spec.classes else None)
    draws = Draws(plan.seed, torch.full_like(ids, ends[0]))
    return bundle.modality.decode(plan.method(flow_map, x, times, cond, draws)).cpu()


def _conditions(bundle: Bundle, plan: Plan, given: Dataset, rows: Tensor, device: torch.device | str) -> Conditions:
    classes = len(bundle.card.spec.classes)
    if classes and plan.labels is not None:
        return Conditions(labels_of(plan.labels, rows, classes).to(device))
    return Conditions(given.label[rows].to(device)) if classes and given.label is not None else Conditions()
