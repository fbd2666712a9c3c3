r"""Scores are what their formulas say, and refuse what they cannot judge."""

import json
import math
import pytest
import subprocess
import torch

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.evaluation import measures, protocol
from cm_multimodal.evaluation.frechet import frechet_distance
from cm_multimodal.evaluation.neighbours import precision_recall
from cm_multimodal.evaluation.reference import Reference
from cm_multimodal.evaluation.report import summaries
from cm_multimodal.evaluation.runner import Row, baselines, real_row
from cm_multimodal.judge import Judge
from cm_multimodal.modality import Dataset
from cm_multimodal.random import noise
from modalities.image import metrics
from modalities.image.adapter import ImageModality
from modalities.image.data import load
from pathlib import Path
from test_commands import QUICK, Cmm, sentence


def points(seed: int, n: int, d: int) -> torch.Tensor:
    return noise(seed, "points", torch.arange(n), (d,), torch.float64)


def test_the_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    """Identical sets have distance zero, also with fewer samples than features."""
    assert frechet_distance(points(0, 500, 8), points(0, 500, 8)) < 1e-9
    assert frechet_distance(points(0, 10, 30), points(0, 10, 30)) < 1e-3


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """A shift, and a change of scale, add up to the formula's value."""
    x = points(1, 4000, 3)
    x = (x - x.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    moved = x * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([0.5, 0.0, -1.0])
    assert frechet_distance(x, moved) == pytest.approx(1.25 + 1 + 4, rel=1e-9)


def test_features_that_are_not_finite_are_refused() -> None:
    """A NaN among the features, or a single sample, is a sentence and not a number."""
    broken = points(0, 50, 4)
    broken[3, 2] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        frechet_distance(broken, points(1, 50, 4))
    with pytest.raises(DataError, match="at least two"):
        frechet_distance(points(0, 1, 4), points(1, 50, 4))
    with pytest.raises(DataError, match="more than 5"):
        precision_recall(points(0, 5, 2), points(1, 50, 2))


def test_precision_and_recall_tell_fidelity_from_diversity() -> None:
    """The same set scores one and one; a collapsed set keeps precision and loses recall; a far one loses both."""
    real = points(0, 400, 2)
    same = precision_recall(real, real)
    assert (same.precision, same.recall) == (1.0, 1.0)
    collapsed = precision_recall(real, 0.01 * points(1, 400, 2))
    assert collapsed.precision > 0.95
    assert collapsed.recall < 0.05
    far = precision_recall(real, points(2, 400, 2) + 100)
    assert (far.precision, far.recall) == (0.0, 0.0)


def test_the_real_digits_score_what_the_protocol_says() -> None:
    """Fitted to the real 1,400 digits the accuracy score is 0.990, and their Fréchet distance to the test split 0.35."""
    splits = load({"name": "digits"})
    assert Judge(metrics.vectors, splits.train).accuracy(splits.test) == pytest.approx(0.990, abs=0.0005)
    real, test = (metrics.features(part.raw, {}) for part in (splits.train, splits.test))
    assert frechet_distance(real, test) == pytest.approx(0.35, abs=0.01)


def test_the_class_mean_does_not_pass_for_a_generator() -> None:
    """One picture per class, the mean, is recognised but has no diversity: recall says so."""
    splits = load({"name": "digits"})
    label = torch.arange(1400) % 10
    means = torch.stack([splits.train.raw[splits.train.label == c].float().mean(dim=0) for c in range(10)])
    fake = Dataset(means[label].to(torch.uint8), label, classes=splits.train.classes)
    shares = precision_recall(metrics.features(splits.test.raw, {}), metrics.features(fake.raw, {}))
    assert shares.recall < 0.05


def test_the_kernel_distance_is_its_definition() -> None:
    """Without bias: the mean over pairs of different samples; of a shifted set it is the larger the further it lies."""
    a, b = points(0, 30, 4), points(1, 30, 4) + 1

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / 4 + 1) ** 3

    own = sum(kernel(x, x).fill_diagonal_(0).sum() / (30 * 29) for x in (a, b))
    assert measures.kernel_distance(a, b) == pytest.approx(float(own - 2 * kernel(a, b).mean()), rel=1e-9)
    assert abs(measures.kernel_distance(points(0, 800, 4), points(1, 800, 4))) < 0.05
    assert measures.kernel_distance(a, b + 1) > 2 * measures.kernel_distance(a, b)


def test_measures_tell_what_copies_and_what_collapses() -> None:
    """Copies are memorised and new samples are not; one sample per class has no diversity, and double spread twice."""
    train, test, label = points(0, 300, 4), points(1, 200, 4), torch.arange(200) % 2
    assert measures.memorised(train[:50], train, test) == 1.0
    assert measures.memorised(points(2, 200, 4), train, test) < 0.2
    spread = measures.diversity(test, label)
    assert measures.diversity(test[label], label) == 0.0
    assert measures.diversity(2 * test, label) == pytest.approx(2 * spread)
    assert math.isnan(measures.diversity(test[:2], torch.arange(2)))
    assert measures.diversity(test + 5 * label[:, None], label) == pytest.approx(spread)


def test_baselines_stand_beside_the_real_samples() -> None:
    """Class means in noise are recognised less; training samples again are memorised; the judge is one."""
    splits = load({"name": "digits"})
    settings = {"also": [*measures.MEASURES], "features": "own"}
    image = ImageModality(ImageModality.describe(splits.train, {}))
    ground = Reference(image, splits, settings, 1400, settings)
    real, (mean, memory) = real_row(ground), baselines(ground, 0)
    assert real.also["recognition"] == pytest.approx(0.99, abs=0.005)
    assert (real.also["memorised"], memory.also["memorised"]) == (pytest.approx(0, abs=0.02), 1.0)
    assert mean.also["recognition"] < 1
    assert mean.frechet > 3 * real.frechet
    assert memory.also["diversity"] == pytest.approx(1, abs=0.1)
    assert len(ground.judge.digest) == 12
    assert ground.judge.digest == Judge(image.vectors, splits.train).digest != Judge(image.vectors, splits.test).digest
    with pytest.raises(UsageError, match="did you mean 'kernel'"):
        measures.check_names(image, ["kernle"])
    with pytest.raises(UsageError, match="is no list"):
        measures.check_names(image, "kernel")


def test_rows_are_summed_up_over_seeds() -> None:
    """The mean and half the range of the seeds stand in the table."""
    rows = [Row("map", 1, 1, seed, 1.0 + seed, 0.5, 0.5, 0.9 + seed / 100) for seed in range(3)]
    (summary,) = summaries(rows)
    assert summary.means["frechet"] == pytest.approx(2.0)
    assert summary.spreads["accuracy"] == pytest.approx(0.01)


def test_a_score_says_whether_the_code_was_that_of_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed module is said, a changed page is not; outside a checkout there is no commit."""
    code, page = tmp_path / "cm_multimodal" / "evaluation" / "protocol.py", tmp_path / "README.md"
    code.parent.mkdir(parents=True)
    for file in (code, page):
        file.write_text("one\n")
    monkeypatch.setattr(protocol, "__file__", str(code))
    assert protocol.commit() == ""
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    head = protocol.commit()
    page.write_text("two\n")
    assert len(head) == 40
    assert protocol.commit() == head
    code.write_text("two\n")
    assert protocol.commit() == f"{head}-changed"


def test_scores_keep_apart_what_they_are_of(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """Another solver, sampler or grid has a folder and a record of its own; what cannot be is said before any sample."""
    assert cmm("train", *QUICK, "name=scored") == 0
    words = ("evaluate", "run=runs/scored", "steps=[1]", "seeds=[0]", "n=60")
    wrong = {
        "solver=null": "name a solver",
        "solver=ddim": "in how many steps",
        "grid=5": "neither",
        "n=0": "n=0 is not",
        "sampler=chian": "did you mean 'chain'",
        "gamma=0.3": "is an option of sampler=gamma alone",
    }
    for word, says in {**wrong, "grid=[80,1]": "makes 2 steps"}.items():
        assert says in sentence(cmm, capsys, *words, word)[1]
    assert cmm(*words, "diagonal=[2]", "solver=ddim", "solver.eta=1", "grid=karras") == 0
    protocol = json.loads(Path("runs/scored/evaluation-ddim-1-grid-karras/metrics.json").read_text())["protocol"]
    assert (protocol["solver"], protocol["grid"]) == ({"name": "ddim", "eta": 1}, "karras")
    assert cmm(*words, "steps=[2]", "sampler=gamma", "gamma=0", "diagonal=[2]") == 0
    assert cmm(*words, "steps=[2]", "sampler=chain") == 0
    none, chain = (
        json.loads(Path(f"runs/scored/evaluation-{how}/metrics.json").read_text()) for how in ("gamma-0", "chain")
    )
    assert (none["protocol"]["sampler"], none["protocol"]["gamma"]) == ("gamma", 0)
    assert (chain["protocol"]["sampler"], chain["protocol"]["gamma"]) == ("chain", None)
    assert none["rows"][1]["frechet"] == pytest.approx(chain["rows"][1]["frechet"])  # no fresh noise is a chain
    assert "none are scored" in sentence(cmm, capsys, *words, "steps=[]", "diagonal=[2]", "sampler=chain")[1]


def test_a_flow_is_scored_by_its_mean(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """What learned no jumps answers in one call with a mean, which on the straight path is one step of Euler's solver."""
    assert cmm("train", *QUICK, "objective=flow_matching", "name=flow") == 0
    words = ("evaluate", "run=runs/flow", "seeds=[0]", "n=60", "sampler=mean")
    assert "give steps=1" in sentence(cmm, capsys, *words, "steps=[2]")[1]
    assert cmm(*words, "steps=[1]", "diagonal=[1]") == 0
    scores = json.loads(Path("runs/flow/evaluation-mean/metrics.json").read_text())
    rows = {row["method"]: row for row in scores["rows"]}
    assert (scores["protocol"]["sampler"], rows["map"]["calls"], rows["diagonal"]["calls"]) == ("mean", 1, 1)
    assert rows["map"]["frechet"] == pytest.approx(rows["diagonal"]["frechet"], rel=1e-3)
