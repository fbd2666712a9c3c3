r"""The held-out loss: the objective's own, of the averaged weights, on samples that the run does not learn from.

The draws are the same at each checkpoint and in each run, and progress is that of a finished training, so that losses
compare. The weights go into a map of their own: those that learn are not touched.
"""

__all__ = ["held_out_loss"]

import torch

from collections.abc import Mapping
from torch import Tensor

from .. import signals
from ..batch import Batch, Conditions
from ..bundle import Card, assemble, empty_map
from ..modality import Dataset, find_modality
from ..objectives import Objective
from ..random import Draws

SEED, MOST = -1, 512


@torch.no_grad()
def held_out_loss(
    card: Card, weights: Mapping[str, Tensor], objective: Objective, test: Dataset, device: torch.device
) -> float:
    """Returns the mean loss on the test set, or on the first 512 samples of a larger one.

    Arguments:
        card: What the map is.
        weights: Its averaged weights.
        objective: What the run minimises.
        test: The samples held back, at least one.
        device: Where to compute, in chunks as generation does.

    Raises:
        Interrupted: A signal to stop came in between.
    """
    modality = find_modality(card.modality)(card.spec)
    dtype = torch.float64 if any(part.dtype == torch.float64 for part in weights.values()) else torch.float32
    flow_map = assemble(card, modality, empty_map(card, modality).to(device), weights).flow_map.to(dtype)
    total, size = 0.0, max(min(len(test), MOST) // objective.group, 1) * objective.group
    chunk = max(card.chunk // objective.group, 1) * objective.group
    for first in range(0, size, chunk):
        signals.check()
        ids = torch.arange(first, min(first + chunk, size)) % len(test)
        label, mask = (None if part is None else part[ids].to(device) for part in (test.label, test.mask))
        draws = Draws(SEED, torch.arange(first, first + len(ids), device=device))
        x = modality.encode(test.raw[ids].to(device)).to(dtype)
        known = modality.told(x, draws) if card.net.get("known") else None
        loss = objective.loss(flow_map, Batch(x, Conditions(label, mask, known=known)), draws, progress=1.0)
        total += loss.value.item() * len(ids)
    return total / size
