r"""The stream of training batches.

Sample number n of a run is element \(\pi_e(n \bmod N)\) of the data set in epoch \(e = \lfloor n / N \rfloor\), with a
permutation \(\pi_e\) that is a function of (seed, e). The stream can therefore start anywhere, and a batch is the same in
any run that reaches it.
"""

__all__ = ["Drawn", "Stream"]

import torch

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from torch import Tensor
from typing import Any

from ..batch import Batch, Conditions
from ..modality import Dataset, Modality
from ..random import Draws, permutation


@dataclass(frozen=True)
class Drawn:
    """A batch, and where its random numbers come from."""

    batch: Batch
    draws: Draws

    def __len__(self) -> int:
        return len(self.batch.x)

    def rows(self, rows: slice) -> "Drawn":
        """Returns some of the rows."""
        return Drawn(Batch(self.batch.x[rows], self.batch.cond.take(rows)), self.draws.take(rows))


class Stream:
    """Yields the batches of a run from a sample number to another.

    Arguments:
        dataset: The training samples.
        modality: Encodes them.
        seed: The seed of the run.
        batch: The number of samples a batch.
        start: The number of the first sample.
        stop: The number at which to end.
        device: Where batches are needed.
        augment: The settings of the modality's augmentation.
        drop_label: How often a class is replaced by "none".
        dropout: Whether batches carry the source of dropout masks.
    """

    def __init__(
        self,
        dataset: Dataset,
        modality: Modality,
        seed: int,
        batch: int,
        start: int,
        stop: int,
        device: torch.device,
        augment: Mapping[str, Any],
        drop_label: float = 0.0,
        dropout: bool = False,
    ) -> None:
        self.dataset, self.modality, self.seed, self.batch = dataset, modality, seed, batch
        self.start, self.stop, self.device, self.augment = start, stop, device, augment
        self.drop_label, self.dropout = drop_label, dropout
        self.raw = dataset.raw.to(device)
        self.label = None if dataset.label is None else dataset.label.to(device)
        self.mask = None if dataset.mask is None else dataset.mask.to(device)
        self.order = lru_cache(maxsize=4)(lambda epoch: permutation(seed, f"order/{epoch}", len(dataset)))

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.batch)

    def __iter__(self) -> Iterator[Drawn]:
        for first in range(self.start, self.stop, self.batch):
            yield self.drawn(torch.arange(first, first + self.batch))

    def drawn(self, ids: Tensor) -> Drawn:
        """Returns the batch of global sample ids, with shape (B,)."""
        where = self._places(ids).to(self.device)
        draws = Draws(self.seed, ids.to(self.device))
        x = self.modality.augment(self.modality.encode(self.raw[where]), draws.uniform("augment"), self.augment)
        label = None if self.label is None else self._drop(self.label[where], draws)
        mask = None if self.mask is None else self.mask[where]
        return Drawn(Batch(x, Conditions(label, mask, draws if self.dropout else None)), draws)

    def _places(self, ids: Tensor) -> Tensor:
        """Returns where in the data set the samples of a run lie, with shape (B,)."""
        size = len(self.dataset)
        epochs = torch.unique(ids // size).tolist()
        order = torch.cat([self.order(epoch) for epoch in epochs])
        return order[ids - epochs[0] * size]

    def _drop(self, label: Tensor, draws: Draws) -> Tensor:
        if not self.drop_label:
            return label
        none = torch.full_like(label, len(self.dataset.classes))
        return torch.where(draws.uniform("drop label") < self.drop_label, none, label)
