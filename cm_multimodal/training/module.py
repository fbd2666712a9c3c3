r"""The Lightning module: one training step is one update of the optimiser over a global batch.

All state is weights, optimiser, averages and counters; learning rate and averages are functions of the samples seen.
"""

__all__ = ["TrainingModule"]

import lightning
import numpy as np
import torch

from collections.abc import Mapping, Sequence
from pathlib import Path
from torch import Tensor
from typing import Any

from ..ema import Average
from ..losses import Loss
from ..maps import FlowMap
from ..objectives import Objective
from .data import Drawn
from .guards import Guard, Update
from .optimizers import build_optimizer
from .settings import OptimizerSettings, TrainSettings
from .shards import apart, in_parts, like, together, whole
from .statistics import LossByNoise, Window
from .world import World


class TrainingModule(lightning.LightningModule):
    """Glue between an objective, a map and the trainer.

    Arguments:
        flow_map: The map that learns.
        objective: How it learns.
        averages: Averages of its network's weights.
        settings: The `train` group.
        optimizer: The optimiser's settings.
        folder: Where a diagnosis is written.
        world: The processes that train together.
    """

    def __init__(
        self,
        flow_map: FlowMap,
        objective: Objective,
        averages: list[Average],
        settings: TrainSettings,
        optimizer: OptimizerSettings,
        folder: Path,
        world: World,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.flow_map, self.objective, self.averages, self.world = flow_map, objective, averages, world
        self.settings, self.samples, self.batch = optimizer, settings.samples, settings.batch
        self.micro_batch = min(settings.micro_batch or settings.batch, settings.batch)
        self.seen, self.window, self.by_noise = 0, Window(), LossByNoise()
        name = "diagnosis.json" if world.main else f"diagnosis-{world.rank}.json"
        self.guard = Guard(optimizer.skip_limit, folder / name)
        self.weights = [p for p in self.parameters() if p.requires_grad]
        self.in_parts = in_parts(self.weights)
        self.optimizer = build_optimizer(optimizer, [(n, p) for n, p in self.named_parameters() if p.requires_grad])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def transfer_batch_to_device(self, batch: Drawn, device: torch.device, dataloader_idx: int) -> Drawn:
        return batch.to(device)

    def training_step(self, drawn: Drawn, batch_index: int) -> None:
        if self.in_parts:
            together(self)
        losses = self._accumulate(drawn)
        if self.in_parts:
            apart(self)
        else:
            self.world.sum_gradients(self.weights)
        sums = self.world.sum_(self._sums(losses))
        norm = whole(torch.nn.utils.get_total_norm([p.grad for p in self.weights if p.grad is not None]))
        size = self.world.max(norm.item())  # to the bit the same on all processes, whatever their processors
        loss, distance, *logs = (sums[: len(sums) - 2 * self.by_noise.bins] / self.batch).tolist()
        update = Update(self.seen, loss, float(np.exp(distance)), size)
        self.seen += self.batch
        if update.sound:
            self._step(norm.fill_(size))
            self.by_noise.add(sums[-2 * self.by_noise.bins :].reshape(2, -1))
            named = dict(zip(sorted(losses[0].logs), logs, strict=True))
            self.window.add(loss=loss, grad_norm=update.grad_norm, skipped=0.0, **named)
        else:
            self.window.add(skipped=1.0)
            self.guard.skip(update, drawn.draws.ids, losses, self.flow_map.path, self.flow_map.net)
        self.optimizer.zero_grad(set_to_none=True)

    def _accumulate(self, drawn: Drawn) -> list[Loss]:
        """Adds up the gradients of this process's rows, some samples at a time, and returns their losses."""
        losses = []
        for first in range(0, len(drawn), self.micro_batch):
            part = drawn.rows(slice(first, first + self.micro_batch))
            loss = self.objective.loss(self.flow_map, part.batch, part.draws, self.seen / self.samples)
            self.manual_backward(loss.value * (len(part) / self.batch))
            losses.append(loss)
        return losses

    @torch.no_grad()
    def _sums(self, losses: Sequence[Loss]) -> Tensor:
        """Returns what is kept of these rows, to be added up: loss, log distance, the objective's own, loss by noise."""
        parts = []
        for loss in losses:
            rows = len(loss.per_sample)
            own = [loss.logs[name].double() * rows for name in sorted(loss.logs)]
            logarithms = loss.per_sample.double().clamp_min(1e-30).log().sum()
            means = torch.stack([loss.value.double() * rows, logarithms, *own])
            parts.append(torch.cat([means, self.by_noise.count(loss.noise_ratio, loss.per_sample).flatten()]))
        return torch.stack(parts).sum(dim=0)

    def _step(self, norm: Tensor) -> None:
        self.guard.passed()
        torch.nn.utils.clip_grads_with_norm_(self.weights, self.settings.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.seen, self.samples)
        self.optimizers().step()  # type: ignore[union-attr]
        for average in self.averages:
            average.update(self.flow_map.net, self.seen, self.batch)
        self.objective.updated(self.flow_map, self.seen / self.samples)

    def training_state(self) -> dict[str, Any]:
        """Returns all that a resumed run needs, whole; all processes ask for it."""
        return {
            **whole(self._tensors()),
            "counters": {"seen": self.seen, "skipped": self.guard.skipped},
            "window": self.window.state_dict(),
            "by_noise": self.by_noise.state_dict(),
        }

    def _tensors(self) -> dict[str, Any]:
        return {
            "network": self.flow_map.net.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": [average.state_dict() for average in self.averages],
        }

    def _moments(self, state: dict[str, Any]) -> dict[str, Any]:
        """Returns an optimiser's state with what has a weight's shape in parts as that weight is."""
        owners = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            key: {
                name: like(part, owners[key]) if part.shape == owners[key].shape else part for name, part in own.items()
            }
            for key, own in state["state"].items()
        }
        return {**state, "state": moments} if self.in_parts else state

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Takes a saved state over."""
        here = self._tensors()
        self.flow_map.net.load_state_dict(like(state["network"], here["network"]))
        self.objective.load_state_dict(like(state["objective"], here["objective"]))
        self.optimizer.load_state_dict(self._moments(state["optimizer"]))
        for group in self.optimizer.param_groups:
            group.update(betas=self.settings.betas, weight_decay=self.settings.weight_decay)
        for average, weights in zip(self.averages, state["averages"], strict=True):
            average.load_state_dict(like(weights, average.state_dict()))
        self.seen, self.guard.skipped = state["counters"]["seen"], state["counters"]["skipped"]
        self.window.load_state_dict(state["window"])
        self.by_noise.load_state_dict(state["by_noise"])
