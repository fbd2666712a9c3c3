r"""Guards: an update whose loss or gradient is not finite, or absurd, does not happen; a few in a row end the run.

What is judged is the sum over all processes and micro-batches, in which a single number that is not finite shows, so that
all processes judge alike.
"""

__all__ = ["Guard", "Update"]

import json
import math
import torch

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from torch import Tensor, nn
from typing import Any

from ..errors import Diverged
from ..files import write_text
from ..losses import Loss
from ..paths import Path as DiffusionPath
from ..tensors import row_mean
from .shards import whole

ABSURD = 1e6  # a geometric mean of distances, which a few rows cannot move; that of an untrained network is near one
WORST = 8  # rows and gradients named in a diagnosis


@dataclass(frozen=True)
class Update:
    """The facts of an update, over all processes.

    Arguments:
        seen: The training samples seen before it.
        loss: The mean loss.
        distance: The geometric mean of the unweighted distances.
        grad_norm: The norm of the gradient before clipping.
    """

    seen: int
    loss: float
    distance: float
    grad_norm: float

    @property
    def sound(self) -> bool:
        """Whether the weights may follow it."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm) and self.distance < ABSURD


@dataclass
class Guard:
    """Counts the updates in a row that were skipped, and keeps what is known of them.

    Arguments:
        limit: How many of them end the run.
        file: Where the diagnosis is written then.
        skipped: How many were skipped in a row.
        facts: What is known of them.
    """

    limit: int
    file: Path
    skipped: int = 0
    facts: list[dict[str, Any]] = field(default_factory=list)

    def passed(self) -> None:
        """Forgets, after an update that was sound."""
        self.skipped, self.facts = 0, []

    def skip(self, update: Update, ids: Tensor, losses: Sequence[Loss], path: DiffusionPath, net: nn.Module) -> None:
        """Takes note of an update that was skipped.

        Raises:
            Diverged: It was one too many.
        """
        self.skipped += 1
        self.facts.append({**_numbers(update), "rows": _rows(ids, losses, path), "gradients": _gradients(net)})
        if self.skipped < self.limit:
            return
        write_text(self.file, json.dumps({"skipped_updates": self.facts}, indent=1) + "\n")
        raise Diverged(
            f"Training diverged: {self.skipped} updates in a row had a loss or gradient that is not finite, or a distance "
            f"above {ABSURD:.0e}. The last good checkpoint is untouched; '{self.file}' holds the facts. Try a lower "
            "optimizer.lr; the same command goes on from that checkpoint. If it diverges there at once, remove the newest "
            "folder in checkpoints/, and it goes on from the one before."
        )


def _numbers(update: Update) -> dict[str, Any]:
    values = {"loss": update.loss, "distance": update.distance, "grad_norm": update.grad_norm}
    return {"samples_seen": update.seen, **{name: _plain(value) for name, value in values.items()}}


def _rows(ids: Tensor, losses: Sequence[Loss], path: DiffusionPath) -> list[dict[str, Any]]:
    """Returns the rows of this process with the worst distances: sample id, time, noise ratio."""
    distance = torch.cat([loss.per_sample for loss in losses]).double()
    ratio = torch.cat([row_mean(loss.noise_ratio) for loss in losses]).double()
    worst = torch.where(distance.isfinite(), distance, torch.inf).argsort(descending=True, stable=True)[:WORST]
    columns = {"time": path.time_of(ratio), "noise_ratio": ratio, "distance": distance}
    return [
        {"id": int(ids[row]), **{name: _plain(float(column[row])) for name, column in columns.items()}}
        for row in worst.tolist()
    ]


def _gradients(net: nn.Module) -> Mapping[str, Any]:
    """Returns the norms of the largest gradients by parameter, those that are not finite first."""
    norms = {name: float(whole(p.grad.norm())) for name, p in net.named_parameters() if p.grad is not None}
    ranked = sorted(norms, key=lambda name: -norms[name] if math.isfinite(norms[name]) else -math.inf)
    return {name: _plain(norms[name]) for name in ranked[:WORST]}


def _plain(value: float) -> float | str:
    """Returns a number as JSON can hold it."""
    return value if math.isfinite(value) else str(value)
