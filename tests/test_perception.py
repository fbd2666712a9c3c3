r"""What a network sees of samples, and a sieve that looks with its eyes."""

import numpy as np
import pytest
import shutil
import torch

from cm_multimodal.bundle import Bundle, Card, empty_map
from cm_multimodal.derivatives import perturbed
from cm_multimodal.errors import UsageError
from cm_multimodal.generation.perception import Perception, coarse
from cm_multimodal.generation.sieve import Sieve, told
from cm_multimodal.judge import Judge
from cm_multimodal.labelling import Labelling, labelled, only
from cm_multimodal.modality import Dataset, TensorSpec
from collections.abc import Callable
from modalities.image.adapter import ImageModality
from own_files import tree
from pathlib import Path

Cmm = Callable[..., int]
DIGITS = ImageModality.dataset({"name": "digits"})


def bundle(*learned: str, chunk: int = 64) -> Bundle:
    spec = TensorSpec((1, 8, 8), 0.75, DIGITS.train.classes)
    net = {"size": "xs", "channels": 8, "blocks": 1}
    card = Card("image", spec, net, "linear", "euler", True, learned, "test", chunk)
    torch.manual_seed(0)
    flow_map = perturbed(empty_map(card, ImageModality(spec))).float()
    return Bundle(card, flow_map.eval().requires_grad_(False), ImageModality(spec))


@pytest.mark.parametrize("learned", ["diagonal", "edge"])
def test_what_is_seen_of_a_sample_is_its_own(learned: str) -> None:
    """However many are looked at, at a time or in all, it is the same, and nothing of looking is left in the network."""
    generator, raw = bundle(learned), DIGITS.train.raw[:30]
    seen = Perception(generator)(raw)
    assert seen.shape == (30, 16 * 4 * 4)  # half the way up of 8x8 pixels in two levels
    np.testing.assert_allclose(Perception(generator)(raw[:5]), seen[:5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(Perception(bundle(learned, chunk=7))(raw), seen, rtol=1e-4, atol=1e-5)
    assert not any(part._forward_hooks for part in generator.flow_map.net.modules())
    assert not np.allclose(Perception(generator)(raw.flip(-1)), seen, atol=1e-2)


def test_a_grid_is_averaged_place_by_place() -> None:
    """Fourteen places become seven, each the mean of two; fewer than seven stay as they are; frames too."""
    line = torch.arange(14.0).expand(2, 3, 14)
    assert coarse(line).view(2, 3, 7)[1, 2].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5]
    small = torch.randn(2, 3, 4, 5)
    assert torch.equal(coarse(small), small.flatten(1))
    assert coarse(torch.randn(2, 3, 16, 8, 4)).shape == (2, 3 * 7 * 7 * 4)


def test_a_few_labelled_samples_name_the_others() -> None:
    """A classifier that sees with a network's eyes names most digits by a twentieth of the classes."""
    assert DIGITS.train.label is not None
    known = only(DIGITS.train, labelled(DIGITS.train.label, 0.05))
    assert Judge(Perception(bundle("diagonal")), known).accuracy(DIGITS.test) > 0.6


def test_a_sieve_is_told_no_more_classes_than_the_generator() -> None:
    """By a tenth of the classes it keeps what is named right, and hardly anything of another class; fewer are a sentence."""
    train, test, labels = DIGITS.train, DIGITS.test, Labelling(share=0.1, seed=1)
    assert test.label is not None
    sieve = Sieve(Perception(bundle("diagonal")), told(train, labels, 0.5), 0.5)
    seen = sieve.see(test.raw)
    own, next_to = (sieve.confidence(seen, label) for label in (test.label, (test.label + 1) % 10))
    assert len(sieve.known) < 0.11 * len(train)
    assert abs(float((own >= 0.5).double().mean()) - Judge(sieve.see, sieve.known).accuracy(test)) < 0.2
    assert float((next_to >= 0.5).double().mean()) < 0.1
    assert torch.equal(told(train, Labelling(), 0.5).raw, train.raw)
    with pytest.raises(UsageError, match="5 training samples each whose class is known"):
        told(train, Labelling(share=0.01), 0.5)


def test_of_many_classes_a_sieve_is_told_five_thousand_evenly() -> None:
    """Six fits to all labels of a large set would take hours; of a rare class all are told."""
    label = torch.tensor([0] * 7_000 + [1] * 20)
    known = told(Dataset(torch.arange(7_020.0)[:, None], label), Labelling(), 0.5)
    assert known.label is not None
    assert known.label.bincount().tolist() == [2_500, 20]
    assert len(known.raw.unique()) == 2_520


def test_a_run_sees_what_it_draws_by_the_classes_it_was_told(
    cmm: Cmm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classifier looks through the run's own network, knows no other classes, and any batch leaves the same bytes."""
    few = ("labels.share=0.1", "labels.seed=1", "net.channels=8", "train.samples=640", "train.threads=1")
    assert cmm("train", "experiment=image/smoke", *few, "name=few") == 0
    words = ("run=runs/few", "n=70", "shard=16", "confidence=0.2", "report=false", "threads=1")
    for out, more in {"eyes": "batch=1", "again": "processes=2"}.items():
        assert cmm("synth", *words, f"out={out}", "perception=true", more) == 0
    assert tree(tmp_path / "eyes") == tree(tmp_path / "again")
    assert "support vectors on the generator's own state, told 145 of 1," in (tmp_path / "eyes/README.md").read_text()
    shutil.copytree("runs/few/bundle", "bundle")
    of_bundle = ("bundle=bundle", "data.name=digits", *words[1:], "perception=true")
    assert cmm("synth", *of_bundle, "labels.share=0.1", "labels.seed=1", "out=eyes") == 0
    assert cmm("synth", *of_bundle, "out=eyes") == 2
    assert "told 145 of 1," in (said := capsys.readouterr().err)
    assert f"told {len(DIGITS.train):,} of {len(DIGITS.train):,}" in said


def test_a_set_of_another_network_is_a_sentence(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts have no grid to look at, and nothing is left of the attempt."""
    assert cmm("train", "experiment=text/smoke", "train.samples=64", "train.threads=1", "name=text") == 0
    assert cmm("synth", "run=runs/text", "n=4", "confidence=0.2", "perception=true", "out=set") == 2
    assert "leave perception= out" in capsys.readouterr().err
    assert not Path("set").exists()


def test_another_network_is_refused() -> None:
    """A network without a grid is refused with a sentence."""
    generator = bundle("diagonal")
    generator.flow_map.net = torch.nn.Identity()
    with pytest.raises(UsageError, match="U-Nets alone"):
        Perception(generator)
