r"""Few labels, and what generated samples are worth beside them."""

import json
import pytest
import torch

from cm_multimodal.config import compose
from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.evaluation.downstream import BOTH, REAL, SYNTHETIC, Trial, apart, check_source, trials
from cm_multimodal.labelling import Labelling, labelled, only
from cm_multimodal.modality import Dataset, Splits, TensorSpec
from cm_multimodal.training.data import fingerprint
from cm_multimodal.training.parts import build_parts
from collections.abc import Callable
from modalities.image.adapter import ImageModality
from pathlib import Path

Cmm = Callable[..., int]
DIGITS = ImageModality.dataset({"name": "digits"})
MODALITY = ImageModality(TensorSpec((1, 8, 8), 0.75, DIGITS.train.classes))


def label(data: Dataset) -> torch.Tensor:
    assert data.label is not None
    return data.label


def test_a_share_of_each_class_is_labelled() -> None:
    """Every class has its share, at least one; another seed chooses others; a larger share holds a smaller one."""
    classes = label(DIGITS.train)
    tenth, half = (labelled(classes, share, seed=1) for share in (0.1, 0.5))
    counts, all_counts = classes[tenth].bincount(), classes.bincount()
    assert torch.equal(counts, (0.1 * all_counts.double()).ceil().long())
    assert set(tenth.tolist()) < set(half.tolist())
    assert set(tenth.tolist()) != set(labelled(classes, 0.1, seed=2).tolist())
    assert classes[labelled(classes, 1e-6)].sort().values.tolist() == list(range(10))
    assert labelled(classes, 1.0).tolist() == list(range(len(classes)))


def test_the_rest_is_seen_without_its_class() -> None:
    """Labelled samples are repeated to half of what is seen; every other one is there once, as of no class."""
    seen = Labelling(share=0.1, seed=3).of(DIGITS.train)
    known = labelled(label(DIGITS.train), 0.1, seed=3)
    none = label(seen) == len(DIGITS.train.classes)
    assert int(none.sum()) == len(DIGITS.train) - len(known)
    assert float((~none).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(seen.raw[~none][: len(known)], DIGITS.train.raw[known])
    assert torch.equal(label(seen)[~none][: len(known)], label(DIGITS.train)[known])
    assert len(Labelling(share=0.1, rest=False).of(DIGITS.train)) == len(known)
    assert Labelling().of(DIGITS.train) is DIGITS.train


def test_a_network_is_told_none_as_often_as_its_card_says() -> None:
    """Guidance is possible where some samples are seen without their class."""
    parts = build_parts(compose("train", ["experiment=image/smoke", "labels.share=0.1"]))
    assert parts.card.drop_label == pytest.approx(0.5)
    assert len(label(parts.splits.train).unique()) == 11
    assert (
        build_parts(
            compose("train", ["experiment=image/smoke", "labels.share=0.1", "labels.rest=false"])
        ).card.drop_label
        == 0
    )
    with pytest.raises(UsageError, match="these data have none"):
        Labelling(share=0.5).of(Dataset(DIGITS.train.raw))


@pytest.mark.parametrize(
    "word", ["labels.share=0", "labels.share=1.5", "labels.weight=1", "labels.seeds=1", "labels.rest=2"]
)
def test_wrong_labels_are_a_sentence(cmm: Cmm, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not possible is said before anything is trained."""
    assert cmm("train", "experiment=image/smoke", word) == 2
    assert "labels" in capsys.readouterr().err


def test_perfect_samples_are_worth_what_real_ones_are() -> None:
    """Real samples in the place of generated ones add what they know; noise adds nothing, and alone it is worth nothing."""
    classes = label(DIGITS.train)

    def real(seed: int, amount: int) -> Dataset:
        return only(DIGITS.train, torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))[:amount])

    def noise(seed: int, amount: int) -> Dataset:
        raw = torch.randint(0, 256, (amount, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        return Dataset(raw, torch.arange(amount) % 10)

    found = {kind: list(trials(MODALITY, DIGITS, kind, [0.01], [600], [0, 1])) for kind in (real, noise)}
    order = [(SYNTHETIC, None, 600), (REAL, 0.01, 0), (BOTH, 0.01, 600)]
    for rows in found.values():
        assert [(row.trained_on, row.share, row.synthetic) for row in rows] == 2 * order
    good, poor = ({row.trained_on: row.accuracy for row in rows[:3]} for rows in found.values())
    assert good[REAL] == poor[REAL] < 0.9 < 0.95 < min(good[BOTH], good[SYNTHETIC])
    assert poor[SYNTHETIC] < 0.4
    assert found[real][1].accuracy != found[real][4].accuracy


def test_a_generator_is_judged_by_the_labels_that_it_was_told() -> None:
    """Its own labelled samples are used whatever the seed, and no larger share."""
    labels, calls = Labelling(share=0.02, seed=5), []

    def draw(seed: int, amount: int) -> Dataset:
        calls.append((seed, amount))
        return only(DIGITS.train, torch.arange(amount))

    rows = [row for row in trials(MODALITY, DIGITS, draw, [0.02], [30], [0, 1], labels) if row.trained_on == REAL]
    assert rows[0].accuracy == rows[1].accuracy
    assert calls == [(0, 30), (1, 30)]
    with pytest.raises(UsageError, match=r"was told 0\.02"):
        next(trials(MODALITY, DIGITS, draw, [0.05], [30], [0], labels))
    with pytest.raises(UsageError, match="with classes alone"):
        next(trials(MODALITY, Splits(Dataset(DIGITS.train.raw), DIGITS.test), draw, [1.0], [30], [0]))


def test_what_both_splits_hold_is_left_out() -> None:
    """Test samples that lie in the training split go, and are counted."""
    leaky = Splits(only(DIGITS.train, torch.arange(300)), only(DIGITS.train, torch.arange(290, 310)))
    found = apart(leaky)
    assert (found.shared, len(found.splits.test)) == (10, 10)
    assert torch.equal(found.splits.test.raw, DIGITS.train.raw[300:310])
    with pytest.raises(DataError, match="Every test sample"):
        apart(Splits(DIGITS.train, only(DIGITS.train, torch.arange(3))))


def test_a_run_of_other_data_is_refused(tmp_path: Path) -> None:
    """A generator that may have seen the test split is not judged by it."""
    labels = Labelling(share=0.1)
    (tmp_path / "env.json").write_text(json.dumps({"data": fingerprint(labels.of(DIGITS.train))}))
    check_source(tmp_path, DIGITS.train, labels)
    for other, how in ((DIGITS.test, labels), (DIGITS.train, Labelling())):
        with pytest.raises(DataError, match="may know the test split"):
            check_source(tmp_path, other, how)


def test_the_suite_from_labels_to_table(cmm: Cmm, tmp_path: Path) -> None:
    """Three generators, without the rest, with it and sieved, are trained and judged; a second call finds all of it done."""
    words = (
        "suite=worth", "out=results", "threads=1", "settings.seeds=[0]", "settings.generators=[labelled,partly,sieved]",
        "settings.tasks.fashion.experiment=image/smoke", "settings.tasks.fashion.amounts=[20,40]", "only=fashion",
        "settings.tasks.fashion.overrides=['train.samples=640','net.channels=8','train.threads=1']",
        "settings.tasks.fashion.only=[]", "settings.tasks.fashion.sieved=['train.samples=6400']",
        "settings.tasks.fashion.share=0.1", "settings.tasks.fashion.confidence=0.2",
    )  # fmt: skip
    assert cmm("benchmark", *words) == 0
    rows = json.loads((tmp_path / "results/worth.json").read_text())["rows"]
    assert [row["key"]["generator"] for row in rows] == ["labelled", "partly", "sieved"]
    found = [Trial(**trial) for trial in rows[0]["values"]["trials"]]
    assert {row.trained_on for row in found} == {REAL, BOTH, SYNTHETIC}
    assert {row.synthetic for row in found} == {0, 20, 40}
    kept = {trial["drawn"]: trial["synthetic"] for trial in rows[2]["values"]["trials"]}
    assert 0 < kept[20] <= kept[40] < 40
    assert kept[20] <= 20
    assert rows[0]["values"]["real, 0"] == rows[1]["values"]["real, 0"] > 0.3
    table = (tmp_path / "results/worth.md").read_text()
    gain = rows[1]["values"]["real + synthetic, 40"] - rows[1]["values"]["real, 0"]
    assert "| `partly` | 10 % |" in table
    assert f"({gain:+.3f})" in table
    assert "| `sieved` | 10 % | 6,400 | 10 |" in table
    unsieved = rows[2]["values"]["unsieved"] - rows[2]["values"]["real, 0"]
    assert f"sees what its own network does; the largest number with nothing left out adds {unsieved:+.3f}" in table
    assert (tmp_path / "results/worth.png").stat().st_size > 1000
    before = (tmp_path / "results/worth.json").read_text()
    assert cmm("benchmark", *words) == 0
    assert (tmp_path / "results/worth.json").read_text() == before
    assert cmm("benchmark", *words, "settings.tasks.fashion.perception=false") == 0
    other = json.loads((tmp_path / "results/worth.json").read_text())["rows"][-1]
    assert other["values"]["unsieved"] == rows[2]["values"]["unsieved"]
    assert other["values"]["trials"] != rows[2]["values"]["trials"]
    assert "sees what the judging one does" in (tmp_path / "results/worth.md").read_text()
