r"""The stream of training batches.

Sample number n of a run is element \(\pi_e(n \bmod N)\) of the data set in epoch \(e = \lfloor n / N \rfloor\), with a
permutation \(\pi_e\) that is a function of (seed, e). The stream can therefore start anywhere, and a batch is the same in
any run that reaches it, however many processes prepare it or share it.
"""

__all__ = ["Drawn", "Stream", "batches", "fingerprint"]

import hashlib
import signal
import time
import torch

from dataclasses import dataclass
from functools import lru_cache
from torch import Tensor
from torch.utils.data import DataLoader
from typing import TypeVar

from .. import signals
from ..batch import Batch, Conditions
from ..modality import Dataset, Modality
from ..random import Draws, permutation
from .settings import TrainSettings
from .world import World

MOST_ON_DEVICE = 1 << 32  # bytes of raw samples; more stay where they are, and go there batch by batch

T = TypeVar("T")


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

    def to(self, device: torch.device) -> "Drawn":
        """Returns the same on a device."""
        return Drawn(Batch(self.batch.x.to(device), self.batch.cond.to(device)), self.draws.to(device))


class Stream(torch.utils.data.Dataset[Drawn]):
    """The batches of a run from a sample number on, by index; of each, the rows of one process.

    Arguments:
        dataset: The training samples.
        modality: Encodes them.
        seed: The seed of the run.
        start: The number of the first sample.
        settings: The `train` group: batch, end, augmentation.
        device: Where batches are prepared.
        world: The processes that share each batch.
        dropout: Whether batches carry the source of dropout masks.
        dtype: The number format of samples.
        known: Whether the network is told a part of the samples.
    """

    def __init__(
        self,
        dataset: Dataset,
        modality: Modality,
        seed: int,
        start: int,
        settings: TrainSettings,
        device: torch.device = torch.device("cpu"),
        world: World = World(),
        dropout: bool = False,
        dtype: torch.dtype = torch.float32,
        known: bool = False,
    ) -> None:
        self.dataset, self.modality, self.seed, self.start, self.settings = dataset, modality, seed, start, settings
        self.device, self.rows, self.dtype = device, world.rows(settings.batch), dtype
        self.dropout, self.known = dropout, known
        self.raw = dataset.raw.to(device) if dataset.raw.nbytes <= MOST_ON_DEVICE else dataset.raw
        self.label = None if dataset.label is None else dataset.label.to(device)
        self.mask = None if dataset.mask is None else dataset.mask.to(device)

    def __len__(self) -> int:
        return -(-(self.settings.samples - self.start) // self.settings.batch)

    def __getitem__(self, index: int) -> Drawn:
        first = self.start + index * self.settings.batch
        return self.drawn(torch.arange(first, first + self.settings.batch)[self.rows])

    def drawn(self, ids: Tensor) -> Drawn:
        """Returns the batch of global sample ids, with shape (B,)."""
        where = self._places(ids).to(self.device)
        draws = Draws(self.seed, ids.to(self.device))
        x = self.modality.encode(self.raw[where.to(self.raw.device)].to(self.device))
        x = self.modality.augment(x, draws.uniform("augment"), self.settings.augment).to(self.dtype)
        label = None if self.label is None else self._drop(self.label[where], draws)
        mask = None if self.mask is None else self.mask[where]
        known = self.modality.told(x, draws) if self.known else None
        return Drawn(Batch(x, Conditions(label, mask, draws if self.dropout else None, known)), draws)

    def samples_per_second(self) -> float:
        """Measures how fast batches are prepared, by this process."""
        ids = torch.arange(self.start, self.start + self.settings.batch)[self.rows]
        self.drawn(ids)  # the first one finds the order of an epoch
        begin = time.perf_counter()
        self.drawn(ids + self.settings.batch).batch.x.sum().item()  # a GPU has computed a number that is read
        return len(ids) / (time.perf_counter() - begin)

    def _places(self, ids: Tensor) -> Tensor:
        """Returns where in the data set the samples of a run lie, with shape (B,)."""
        size = len(self.dataset)
        epochs = torch.unique(ids // size).tolist()
        order = torch.cat([_order(self.seed, epoch, size) for epoch in epochs])
        return order[ids - epochs[0] * size]

    def _drop(self, label: Tensor, draws: Draws) -> Tensor:
        if not self.settings.drop_label:
            return label
        none = torch.full_like(label, len(self.dataset.classes))
        return torch.where(draws.uniform("drop label") < self.settings.drop_label, none, label)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> Tensor:
    return permutation(seed, f"order/{epoch}", size)


def batches(stream: Stream, workers: int = 0, ahead: int = 2) -> DataLoader[Drawn]:
    """Returns the batches of a stream in order, prepared by worker processes or by this one.

    Arguments:
        stream: The stream.
        workers: The number of processes; none: this one.
        ahead: The number of batches that each of them prepares ahead.
    """
    return DataLoader(
        stream, batch_size=None, num_workers=workers, collate_fn=_as_it_is, worker_init_fn=_deaf,
        prefetch_factor=ahead if workers else None,
    )  # fmt: skip


def _deaf(worker: int) -> None:
    """Leaves signals, which a terminal or a scheduler sends to all processes, to the one that trains."""
    for number in signals.CODES:
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(drawn: T) -> T:
    return drawn


def fingerprint(dataset: Dataset) -> str:
    """Returns a checksum of samples, classes and masks, in their order."""
    digest = hashlib.sha256(repr(dataset.classes).encode())
    for tensor in (dataset.raw, dataset.label, dataset.mask):
        if tensor is not None:
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
