r"""What samples are held against: the data, how much of it, and by which features."""

__all__ = ["OWN", "Reference", "reference"]

import torch

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from torch import Tensor
from typing import Any

from ..bundle import Bundle
from ..errors import DataError, UsageError
from ..judge import Judge
from ..modality import Dataset, Modality, Splits

MOST = 1400
OWN = "own"


@dataclass(frozen=True)
class Reference:
    """What samples are held against.

    Arguments:
        modality: The modality of the samples.
        splits: Training and test samples.
        settings: The `evaluation` group.
        n: The number of samples to generate.
        config: Settings of the features: the group, and where data lies.
    """

    modality: Modality
    splits: Splits
    settings: Mapping[str, Any]
    n: int
    config: Mapping[str, Any]

    @cached_property
    def judge(self) -> Judge:
        """The classifier, fitted to the real training split."""
        return Judge(self.modality.vectors, self.splits.train)

    @property
    def against(self) -> str:
        """Which split samples are held against: 'test', or 'train', where published numbers on these features are."""
        return "train" if self.settings.get("features") in self.modality.published else "test"

    @property
    def real(self) -> Dataset:
        """The samples of that split."""
        return self.splits.train if self.against == "train" else self.splits.test

    @cached_property
    def features(self) -> Tensor:
        """Their features, with shape (M * K, D)."""
        return self.features_of(self.real.raw)

    def features_of(self, raw: Tensor) -> Tensor:
        """Returns features of raw samples, with shape (N * K, D): the modality's, or with `features=own` the judge's."""
        return self.judge.features(raw) if self.own else self.modality.features(raw, self.config)

    @property
    def extractor(self) -> str:
        """What the features are called in a table."""
        return OWN if self.own else self.modality.extractor(self.config)

    @cached_property
    def vectors(self) -> tuple[Tensor, Tensor]:
        """What the judge sees of the training and of the test samples."""
        return self.vectors_of(self.splits.train), self.vectors_of(self.splits.test)

    def vectors_of(self, part: Dataset) -> Tensor:
        """Returns what the judge sees of samples, with shape (N, D), in float32."""
        return torch.from_numpy(self.modality.vectors(part.raw)).float()

    @property
    def own(self) -> bool:
        """Whether distances are measured on the judge's decision values."""
        return self.settings.get("features") == OWN

    def some(self) -> Dataset:
        """Returns training samples, as many as are generated if there are, taken evenly."""
        return self._evenly(self.splits.train)

    def others(self) -> Dataset:
        """Returns real samples that are not those that all are held against, as many as are generated if there are."""
        return self._evenly(self.splits.test) if self.against == "train" else self.some()

    def _evenly(self, part: Dataset) -> Dataset:
        pick = torch.linspace(0, len(part) - 1, min(len(part), self.n)).long()
        return Dataset(part.raw[pick], None if part.label is None else part.label[pick])


def reference(bundle: Bundle, data: Mapping[str, Any], settings: Mapping[str, Any]) -> Reference:
    """Reads the reference data of a protocol.

    Raises:
        UsageError: The data are not those that the model was trained on, by shape or classes, or a setting is wrong.
    """
    if not data:
        raise UsageError("Say what to compare a bundle with: data.name=digits, or evaluate a run with run=.")
    splits = bundle.modality.dataset(data)
    spec = type(bundle.modality).describe(splits.train, data)
    if (spec.shape, spec.classes) != (bundle.card.spec.shape, bundle.card.spec.classes):
        raise UsageError(
            f"The data have shape {spec.shape} and {len(spec.classes)} classes; the model was trained on others."
        )
    if why := bundle.modality.unlike(spec):
        raise UsageError(f"These data cannot be compared with the model's samples: {why}.")
    if len(splits.test) == 0:
        raise DataError("There is no test set to score against; set data.test_fraction=0.1.")
    config = {**settings, "root": data.get("root")}
    usual = bundle.modality.published.get(str(settings.get("features")), min(len(splits.train), MOST))
    n = usual if settings.get("n") is None else settings["n"]
    ground = Reference(bundle.modality, splits, settings, n, config)
    _ = ground.features  # unknown features are said before anything is drawn
    return ground
