r"""The Lightning module: one training step is one update of the optimiser over a global batch.

All state is weights, optimiser, averages and counters; learning rate and averages are functions of the samples seen.
"""

__all__ = ["OptimizerSettings", "TrainingModule"]

import json
import lightning
import math
import torch

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor
from typing import Any

from ..ema import Average
from ..errors import Diverged, UsageError, nearest
from ..maps import FlowMap
from ..objectives import Objective
from .data import Drawn
from .statistics import LossByNoise, Window

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class OptimizerSettings:
    """How weights are updated.

    Arguments:
        lr: The highest learning rate.
        betas: Adam's two averages.
        weight_decay: Decoupled weight decay.
        warmup: The samples over which the rate grows from zero.
        schedule: What follows: 'constant' or 'cosine' (down to zero at the end).
        clip: The largest norm of a gradient.
        skip_limit: The number of skipped updates in a row that ends the run.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 10_000
    schedule: str = "constant"
    clip: float = 1.0
    skip_limit: int = 5

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"optimizer.betas={list(self.betas)} is not possible; each lies between 0 and 1.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"optimizer.lr={self.lr} is not possible; a learning rate is a positive number.")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"There is no optimizer.schedule '{self.schedule}'; {nearest(self.schedule, SCHEDULES)}")

    def rate(self, seen: int, total: int) -> float:
        """Returns the learning rate after a number of samples."""
        ramp = min(1.0, seen / self.warmup) if self.warmup else 1.0
        fade = 0.5 * (1 + math.cos(math.pi * min(seen / total, 1.0))) if self.schedule == "cosine" else 1.0
        return self.lr * ramp * fade


class TrainingModule(lightning.LightningModule):
    """Glue between an objective, a map and the trainer.

    Arguments:
        flow_map: The map that learns.
        objective: How it learns.
        averages: Averages of its network's weights.
        settings: The optimiser's settings.
        samples: The samples of the whole training.
        micro_batch: The largest number of samples in memory at a time.
        folder: Where a diagnosis is written.
    """

    def __init__(
        self,
        flow_map: FlowMap,
        objective: Objective,
        averages: list[Average],
        settings: OptimizerSettings,
        samples: int,
        micro_batch: int,
        folder: Path,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.flow_map, self.objective, self.averages, self.settings = flow_map, objective, averages, settings
        self.samples, self.micro_batch, self.folder = samples, micro_batch, folder
        self.seen, self.skipped = 0, 0
        self.window, self.by_noise = Window(), LossByNoise()
        self.optimizer = torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad],
            lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True,
        )  # fmt: skip

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def transfer_batch_to_device(self, batch: Drawn, device: torch.device, dataloader_idx: int) -> Drawn:
        return batch

    def training_step(self, drawn: Drawn, batch_index: int) -> None:
        loss = self._accumulate(drawn)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.settings.clip)
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            self._skip(drawn, loss, norm)
        else:
            self._update(len(drawn))
            self.window.add(loss=loss.item(), grad_norm=norm.item(), skipped=0.0)
        self.optimizer.zero_grad(set_to_none=True)

    def _accumulate(self, drawn: Drawn) -> Tensor:
        """Adds up the gradients of a global batch, some samples at a time, and returns its loss."""
        total, size = torch.zeros((), device=drawn.batch.x.device), len(drawn)
        for first in range(0, size, self.micro_batch):
            part = drawn.rows(slice(first, first + self.micro_batch))
            loss = self.objective.loss(self.flow_map, part.batch, part.draws, self.seen / self.samples)
            share = len(part) / size
            self.manual_backward(loss.value * share)
            total += loss.value.detach() * share
            self.by_noise.add(loss.noise_ratio, loss.per_sample)
        return total

    def _update(self, batch: int) -> None:
        self.seen += batch
        self.skipped = 0
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.seen, self.samples)
        self.optimizers().step()  # type: ignore[union-attr]
        for average in self.averages:
            average.update(self.flow_map.net, self.seen, batch)

    def _skip(self, drawn: Drawn, loss: Tensor, norm: Tensor) -> None:
        """Leaves the weights alone where loss or gradient is not finite, and gives up after a few times in a row."""
        self.seen += len(drawn)
        self.skipped += 1
        self.window.add(skipped=1.0)
        if self.skipped < self.settings.skip_limit:
            return
        file = self.folder / "diagnosis.json"
        facts = {
            "samples_seen": self.seen,
            "loss": float(loss),
            "grad_norm": float(norm),
            "ids": drawn.draws.ids.tolist(),
        }
        file.write_text(json.dumps(facts))
        raise Diverged(
            f"Training diverged: {self.skipped} updates in a row had a loss or gradient that is not finite. The last "
            f"good checkpoint is untouched; '{file}' holds the facts. Try a lower optimizer.lr."
        )

    def training_state(self) -> dict[str, Any]:
        """Returns all that a resumed run needs, beside the first average's weights."""
        return {
            "network": self.flow_map.net.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": [average.state_dict() for average in self.averages],
            "counters": {"seen": self.seen, "skipped": self.skipped},
            "window": self.window.state_dict(),
            "by_noise": self.by_noise.state_dict(),
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Takes a saved state over."""
        self.flow_map.net.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        for average, weights in zip(self.averages, state["averages"], strict=True):
            average.load_state_dict(weights)
        self.seen, self.skipped = state["counters"]["seen"], state["counters"]["skipped"]
        self.window.load_state_dict(state["window"])
        self.by_noise.load_state_dict(state["by_noise"])
