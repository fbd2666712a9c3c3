r"""The metrics in torchmetrics' form: those of torchmetrics take our features, and ours are what the commands print."""

import pytest
import torch

from cm_multimodal.errors import DataError
from cm_multimodal.evaluation.frechet import frechet_distance
from cm_multimodal.evaluation.measures import diversity, kernel_distance, memorised
from cm_multimodal.evaluation.metrics import ClassDiversity, Features, ImprovedPrecisionRecall, MemorisedShare
from cm_multimodal.evaluation.neighbours import precision_recall
from cm_multimodal.random import noise
from modalities.image.adapter import ImageModality
from modalities.image.data import load
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

pytestmark = pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
OURS = (ImprovedPrecisionRecall, ClassDiversity, MemorisedShare)


def points(seed: int, n: int, d: int) -> Tensor:
    return noise(seed, "points", torch.arange(n), (d,), torch.float64)


def plain(width: int) -> Features:
    return Features(lambda raw: raw, width)


def fed(metric: Metric, real: Tensor, generated: Tensor, batch: int = 33) -> Metric:
    for part in real.split(batch):
        metric.update(part, real=True)
    for part in generated.split(batch):
        metric.update(part, real=False)
    return metric


@pytest.mark.parametrize("n", [400, 12], ids=["many", "fewer-than-features"])
def test_the_frechet_distance_is_that_of_torchmetrics(n: int) -> None:
    """On the same features, in batches, and with fewer samples than features."""
    real, generated = points(0, n, 16), 1.5 * points(1, n, 16) + 0.3
    theirs = fed(FrechetInceptionDistance(feature=plain(16)), real, generated).compute()
    assert float(theirs) == pytest.approx(frechet_distance(real, generated), rel=1e-5)


def test_torchmetrics_takes_what_a_modality_sees() -> None:
    """The digits' distances of `cmm evaluate`, by torchmetrics' own classes on raw pictures."""
    splits = load({"name": "digits"})
    modality = ImageModality(ImageModality.describe(splits.train, {}))
    see = Features.of(modality, {"features": "pixels"}, splits.test.raw)
    assert see.num_features == 64
    sides = [modality.features(part.raw, {}) for part in (splits.test, splits.train)]
    distance = fed(FrechetInceptionDistance(feature=see), splits.test.raw, splits.train.raw)
    assert float(distance.compute()) == pytest.approx(frechet_distance(*sides), rel=1e-6)
    n = len(splits.test)
    kernel = fed(KernelInceptionDistance(feature=see, subsets=1, subset_size=n), splits.test.raw, splits.train.raw[:n])
    assert float(kernel.compute()[0]) == pytest.approx(kernel_distance(sides[0], sides[1][:n]), rel=1e-9)


def test_precision_and_recall_are_what_scikit_learn_finds() -> None:
    """Regions of balls that reach to the fifth neighbour, by another search for neighbours; batches make no difference."""
    real, generated = points(0, 300, 3), 0.6 * points(1, 250, 3) + 0.4

    def covered(some: Tensor, centres: Tensor) -> float:
        radius = NearestNeighbors(n_neighbors=6).fit(centres).kneighbors(centres)[0][:, -1]
        return float((torch.cdist(some, centres).numpy() <= radius).any(axis=1).mean())

    found = fed(ImprovedPrecisionRecall(), real, generated).compute()
    assert float(found["precision"]) == pytest.approx(covered(generated, real))
    assert float(found["recall"]) == pytest.approx(covered(real, generated))
    shares = precision_recall(real, generated)
    assert (float(found["precision"]), float(found["recall"])) == pytest.approx((shares.precision, shares.recall))


def test_diversity_and_memorised_samples_are_those_of_the_commands() -> None:
    """Classes come with their batches, and what is held back is told apart from what was learned."""
    train, test, generated, label = points(0, 300, 4), points(1, 200, 4), 0.5 * points(2, 200, 4), torch.arange(200) % 2
    spread = ClassDiversity()
    for first in range(0, 200, 50):
        rows = slice(first, first + 50)
        spread.update(test[rows], True, label[rows])
        spread.update(generated[rows], False, label[rows])
    assert float(spread.compute()) == pytest.approx(diversity(generated, label) / diversity(test, label))
    near = fed(MemorisedShare(), train, torch.cat([generated, train[:20]]))
    near.update(test, real=True, held=True)
    assert float(near.compute()) == pytest.approx(memorised(torch.cat([generated, train[:20]]), train, test))
    assert float(near.compute()) >= 20 / 220


@pytest.mark.parametrize("kind", OURS)
def test_metrics_of_ours_begin_anew_and_say_what_is_missing(kind: type[Metric]) -> None:
    """Without one of the sides there is a sentence, after a reset as before."""
    metric = kind()
    for _ in range(2):
        metric.update(points(0, 20, 2), real=False)
        with pytest.raises(DataError, match="update with real=True"):
            metric.compute()
        metric.reset()
        assert not metric.generated


@pytest.mark.parametrize("score", [frechet_distance, kernel_distance, precision_recall])
def test_features_that_break_a_score_are_a_sentence_or_its_limit(score: object) -> None:
    """No number of what is none, and none of a single sample; sets that are one point have distance zero, and cover it."""
    assert callable(score)
    broken = points(0, 50, 4)
    broken[7, 1] = float("inf")
    with pytest.raises(DataError, match="finite"):
        score(points(1, 50, 4), broken)
    with pytest.raises(DataError, match=r"at least two|more than 5"):
        score(points(1, 50, 4), points(0, 1, 4))
    same = torch.full((50, 4), 3.7, dtype=torch.float64)
    found = score(same, same)
    assert (
        (found.precision, found.recall) == (1, 1) if score is precision_recall else found == pytest.approx(0, abs=1e-9)
    )


def test_copies_are_found_where_real_samples_are_copies_too() -> None:
    """Where most real test samples lie in the training split, a copy is what has no distance; what is no number is said."""
    train = points(0, 60, 40)
    test = torch.cat([train[:50], points(1, 10, 40)])
    assert memorised(train[5:45], train, test) == 1
    assert memorised(torch.cat([train[:30], points(2, 10, 40)]), train, test) == 0.75
    broken = points(3, 20, 40)
    broken[3, 1] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        memorised(broken, train, test)


def test_features_with_several_rows_a_sample_are_refused() -> None:
    """What counts samples needs a row each."""

    class Frames(nn.Module):
        def features(self, raw: Tensor, config: object) -> Tensor:
            return raw.flatten(0, 1)

    with pytest.raises(DataError, match="several rows a sample"):
        Features.of(Frames(), {}, torch.zeros(3, 4, 5))  # type: ignore[arg-type]
