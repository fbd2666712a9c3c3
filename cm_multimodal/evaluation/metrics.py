r"""The scores of `cmm evaluate` as torchmetrics, for loops of one's own: batch by batch, summed up over processes.

`Features` turns what a modality sees of samples into the network that torchmetrics asks for, so that the distances that are
there need nothing of ours; what is not there has the same form: `update` with a batch, and whether it is real.

    see = Features.of(modality, {"features": "pixels"}, splits.test.raw)
    distance = FrechetInceptionDistance(feature=see)  # of torchmetrics: called FID on the features of inception only
    shares = ImprovedPrecisionRecall(see)
    for metric in (distance, shares):
        metric.update(splits.test.raw, real=True)
        metric.update(samples.raw, real=False)
        metric.compute()

References:
    | Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019)
"""

__all__ = ["ClassDiversity", "Features", "ImprovedPrecisionRecall", "MemorisedShare"]

import torch

from collections.abc import Callable, Mapping
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing import Any

from ..errors import DataError
from ..modality import Modality
from .measures import diversity, memorised
from .neighbours import precision_recall


class Features(nn.Module):
    """What a modality sees of raw samples, as a network.

    Arguments:
        see: Maps raw samples to features, with shape (B, D), a row a sample.
        num_features: D.
    """

    def __init__(self, see: Callable[[Tensor], Tensor], num_features: int) -> None:
        super().__init__()
        self.see, self.num_features = see, num_features

    @classmethod
    def of(cls, modality: Modality, config: Mapping[str, Any], some: Tensor) -> "Features":
        """Returns the features that `cmm evaluate` would use.

        Arguments:
            modality: The modality of the samples.
            config: `features`, and what these need, such as `feature_weights`.
            some: A few raw samples.

        Raises:
            UsageError: There are no such features.
            DataError: They have no row a sample.
        """
        rows = modality.features(some[:2], config)
        if len(rows) != len(some[:2]):
            raise DataError("These features have several rows a sample, and metrics that count samples need one.")
        return cls(lambda raw: modality.features(raw, config), rows.shape[1])

    def forward(self, raw: Tensor) -> Tensor:
        """Returns the features of raw samples, with shape (B, D), in float64."""
        return self.see(raw).double()


class _OfFeatures(Metric):
    """Keeps the features of real and of generated samples.

    Arguments:
        feature: Maps samples to features, with shape (B, D); samples are features unless given.
        settings: Those of every metric of torchmetrics.
    """

    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    generated: list[Tensor]

    def __init__(self, feature: nn.Module | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.feature = feature or nn.Identity()
        for name in ("real", "generated"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, samples: Tensor, real: bool) -> None:
        """Takes a batch of samples, real or generated."""
        (self.real if real else self.generated).append(self.feature(samples).double())

    def _sets(self) -> tuple[Tensor, Tensor]:
        if not (self.real and self.generated):
            raise DataError("There is nothing to compare: update with real=True and with real=False first.")
        return dim_zero_cat(self.real), dim_zero_cat(self.generated)


class ImprovedPrecisionRecall(_OfFeatures):
    """The share of generated samples in the real region, and of real samples in the generated one (`neighbours`).

    Arguments:
        feature: Maps samples to features, with shape (B, D); samples are features unless given.
        k: The neighbour that a region reaches to.
        settings: Those of every metric of torchmetrics.
    """

    higher_is_better = True

    def __init__(self, feature: nn.Module | None = None, k: int = 5, **settings: Any) -> None:
        super().__init__(feature, **settings)
        self.k = k

    def compute(self) -> dict[str, Tensor]:
        """Returns both shares by name.

        Raises:
            DataError: A side has no more than k samples, or features that are not finite.
        """
        shares = precision_recall(*self._sets(), self.k)
        return {"precision": torch.tensor(shares.precision), "recall": torch.tensor(shares.recall)}


class ClassDiversity(_OfFeatures):
    """The mean distance of two generated samples of a class, as a share of that of real ones (`measures.diversity`).

    Arguments:
        feature: Maps samples to features, with shape (B, D); samples are features unless given.
        settings: Those of every metric of torchmetrics.
    """

    higher_is_better = True
    real_label: list[Tensor]
    generated_label: list[Tensor]

    def __init__(self, feature: nn.Module | None = None, **settings: Any) -> None:
        super().__init__(feature, **settings)
        for name in ("real_label", "generated_label"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, samples: Tensor, real: bool, label: Tensor | None = None) -> None:
        """Takes a batch of samples, real or generated, with their classes, with shape (B,); all are of one unless given."""
        super().update(samples, real)
        label = torch.zeros(len(samples), dtype=torch.int64) if label is None else label
        (self.real_label if real else self.generated_label).append(label)

    def compute(self) -> Tensor:
        """Returns the share; no number where real samples of a class do not differ."""
        real, generated = self._sets()
        usual = diversity(real, dim_zero_cat(self.real_label))
        return torch.tensor(diversity(generated, dim_zero_cat(self.generated_label)) / (usual or torch.nan))


class MemorisedShare(_OfFeatures):
    """The share of generated samples that are nearer to a training sample than is usual for a test sample.

    Real samples of `update` are training samples, but for those that are held back (`measures.memorised`).

    Arguments:
        feature: Maps samples to features, with shape (B, D); samples are features unless given.
        settings: Those of every metric of torchmetrics.
    """

    higher_is_better = False
    held: list[Tensor]

    def __init__(self, feature: nn.Module | None = None, **settings: Any) -> None:
        super().__init__(feature, **settings)
        self.add_state("held", [], dist_reduce_fx="cat")

    def update(self, samples: Tensor, real: bool, held: bool = False) -> None:
        """Takes a batch of samples: generated, of the training split, or `held` back from training."""
        if real and held:
            self.held.append(self.feature(samples).double())
        else:
            super().update(samples, real)

    def compute(self) -> Tensor:
        """Returns the share.

        Raises:
            DataError: Training, test or generated samples are missing, or features are not finite.
        """
        train, generated = self._sets()
        if not self.held:
            raise DataError("What is near is told by samples that were held back: update with real=True and held=True.")
        return torch.tensor(memorised(generated, train, dim_zero_cat(self.held)))
