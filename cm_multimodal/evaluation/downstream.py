r"""What generated samples are worth to another model: a classifier that is trained on them, and tested on real ones.

Three trainings of one small classifier (`judge`), with some share of the real labels, all tested on the real test split:

    real               the labelled real samples alone
    real + synthetic   with generated samples added, of one amount after another (a learning curve)
    synthetic          the generated ones alone: the accuracy score

Split hygiene is checked, not promised: the generator has to have been trained on the training split, or on the labelled part
that is judged with (by checksum), and test samples that lie in the training split too are left out and counted.

References:
    | Classification Accuracy Score for Conditional Generative Models (Ravuri & Vinyals, 2019)
"""

__all__ = ["REAL", "Trial", "apart", "check_source", "trials"]

import torch

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor

from ..errors import DataError, UsageError
from ..judge import Judge
from ..labelling import Labelling, labelled, only
from ..modality import Dataset, Modality, Splits
from ..training.data import fingerprint
from ..training.records import RunRecord

REAL, SYNTHETIC, BOTH = "real", "synthetic", "real + synthetic"


@dataclass(frozen=True)
class Trial:
    """One classifier.

    Arguments:
        trained_on: 'real', 'synthetic' or 'real + synthetic'.
        share: The share of the real labels; nothing without real samples.
        real: The number of real samples.
        synthetic: The number of generated ones.
        seed: The seed of both.
        accuracy: The share of the real test samples whose class it names.
        drawn: The number of generated samples that were asked for; a sieve may have kept fewer.
    """

    trained_on: str
    share: float | None
    real: int
    synthetic: int
    seed: int
    accuracy: float
    drawn: int = 0


@dataclass(frozen=True)
class Apart:
    """Splits that have nothing in common, and how many test samples had to go for it."""

    splits: Splits
    shared: int


def apart(splits: Splits) -> Apart:
    """Leaves out the test samples that lie in the training split too, to the last bit.

    Raises:
        DataError: None is left.
    """
    seen = {row.tobytes() for row in splits.train.raw.numpy()}
    keep = torch.tensor([row.tobytes() not in seen for row in splits.test.raw.numpy()], dtype=torch.bool)
    if not keep.any():
        raise DataError("Every test sample lies in the training split too: nothing can be judged by them.")
    return Apart(Splits(splits.train, only(splits.test, torch.arange(len(keep))[keep])), int((~keep).sum()))


def check_source(run: Path, train: Dataset, labels: Labelling) -> None:
    """Raises a DataError unless a run was trained on a training split, labelled in this way."""
    there, here = RunRecord(run).machine().get("data"), fingerprint(labels.of(train))
    if there != here:
        raise DataError(
            f"The run '{run}' was trained on other data than this training split (checksum {str(there)[:12]} there, "
            f"{here[:12]} here): what it draws may know the test split. Judge it by the data that it was trained on."
        )


def trials(
    modality: Modality,
    splits: Splits,
    draw: Callable[[int, int], Dataset],
    shares: Sequence[float],
    amounts: Sequence[int],
    seeds: Sequence[int],
    labels: Labelling = Labelling(),
) -> Iterator[Trial]:
    """Yields a trial for every seed, share and amount.

    Arguments:
        modality: Says what the classifier sees.
        splits: The real samples.
        draw: Returns so many generated samples, or what a sieve keeps of them, by a seed.
        shares: The shares of the real labels.
        amounts: The numbers of generated samples.
        seeds: The seeds: which real samples are labelled, and of sampling.
        labels: How the training data of the generator were labelled. If only some were, shares up to theirs are judged with,
            of the same samples, whatever the seed: others would be known to the generator alone.

    Raises:
        UsageError: A share is larger than what the generator was told, or nothing can be learned.
    """
    if splits.train.label is None or splits.test.label is None:
        raise UsageError("What samples are worth to a classifier can be said of data with classes alone.")
    for share in shares:
        if not 0 < share <= labels.share:
            raise UsageError(
                f"A share of {share} of the labels is not possible; the generator was told {labels.share:g} of them."
            )
    for seed in seeds:
        drawn = [(draw(seed, amount), amount) for amount in amounts]
        for part, amount in drawn:
            yield _trial(modality, splits.test, None, part, None, seed, amount)
        for share in shares:
            known = labelled(splits.train.label, share, labels.seed if labels.share < 1 else seed)
            real = only(splits.train, known)
            yield _trial(modality, splits.test, real, None, share, seed)
            for part, amount in drawn:
                yield _trial(modality, splits.test, real, part, share, seed, amount)


def _trial(
    modality: Modality,
    test: Dataset,
    real: Dataset | None,
    drawn: Dataset | None,
    share: float | None,
    seed: int,
    amount: int = 0,
) -> Trial:
    parts = [part for part in (real, drawn) if part is not None]
    whole = Dataset(torch.cat([part.raw for part in parts]), torch.cat([_label(part) for part in parts]))
    name = BOTH if len(parts) == 2 else REAL if real is not None else SYNTHETIC
    accuracy = Judge(modality.vectors, whole).accuracy(test)
    return Trial(name, share, len(real or ()), len(drawn or ()), seed, accuracy, amount)


def _label(part: Dataset) -> Tensor:
    if part.label is None:
        raise UsageError("Samples without classes teach a classifier nothing.")
    return part.label
