"""Texts become tokens and texts again; the network completes what it is told; everything works from the command line."""

import pytest
import torch

from cm_multimodal.editing import Known
from cm_multimodal.errors import DataError
from cm_multimodal.modality import TensorSpec
from cm_multimodal.random import Draws
from collections.abc import Callable
from modalities.text import edit, language
from modalities.text.adapter import TextModality
from modalities.text.texts import to_raw, to_texts
from pathlib import Path
from torch import Tensor
from typing import Any

QUICK = (
    "experiment=text/grammar",
    "data.limit=300",
    "train.samples=256",
    "train.batch=64",
    "net.channels=32",
    "net.blocks=1",
)
LEARNED = {
    "grammar": {"name": "grammar", "limit": 400},
    "embedded": {"name": "grammar", "limit": 400, "embedding": 16},
}


def _made(config: dict[str, Any]) -> tuple[TextModality, Tensor]:
    splits = TextModality.dataset({**config, "length": 12})
    return TextModality(TextModality.describe(splits.train, {**config, "length": 12})), splits.train.raw


@pytest.mark.parametrize("kind", LEARNED)
def test_tokens_go_there_and_back(kind: str) -> None:
    """Sentences are the same after encoding and decoding, also when noise hides a part of their tokens' size."""
    modality, raw = _made(LEARNED[kind])
    x = modality.encode(raw[:50])
    assert x.shape == (50, *modality.spec.shape)
    assert float(x.std(correction=0)) == pytest.approx(modality.spec.sigma_data, rel=0.05)
    noisy = x + 0.1 * Draws(0, torch.arange(50)).noise("noise", modality.spec.shape)
    assert to_texts(modality.decode(noisy)) == to_texts(raw[:50])
    assert modality.arrays(raw[:2])["x"].tolist() == to_texts(raw[:2])
    with pytest.raises(DataError, match="has diverged"):
        modality.decode(x * torch.nan)


def test_a_bundle_with_another_vocabulary_is_refused() -> None:
    """What does not fit its shape, or is none, is a sentence."""
    spec = _made(LEARNED["grammar"])[0].spec
    for settings, shape in ((spec.settings, (12, 5)), ({"tokens": 3}, spec.shape), ({}, spec.shape)):
        with pytest.raises(DataError, match="This is no vocabulary of texts"):
            TextModality(TensorSpec(shape, 0.1, settings=settings))
    spec = _made(LEARNED["embedded"])[0].spec
    broken = {**spec.settings, "embedding": {**spec.settings["embedding"], "dimensions": 5}}
    with pytest.raises(DataError, match="This is no vocabulary of texts"):
        TextModality(TensorSpec(spec.shape, 1.0, settings=broken))


def test_the_network_names_the_clean_state_of_embedded_tokens() -> None:
    """Its shares, mixed, are the end point that the map names; those of clean tokens are all of one."""
    from cm_multimodal.batch import Conditions
    from cm_multimodal.build import build_flow_map
    from cm_multimodal.maps import Precision

    modality, raw = _made(LEARNED["embedded"])
    net = modality.net({"size": "xs", "channels": 16, "blocks": 1}, two_times=True)
    flow_map = build_flow_map(net, "linear", "endpoint", 1.0, frozenset({"edge"}), Precision())
    x = modality.encode(raw[:4])
    shares = flow_map.shares_of(x)
    assert torch.equal(flow_map.mixed(shares), x)
    s = torch.full((4,), 0.6, dtype=torch.float64)
    noisy = flow_map.path.sample(x, Draws(0, torch.arange(4)).noise("noise", modality.spec.shape), s)
    named = flow_map.shares(noisy, s, 0 * s, Conditions())
    assert named.shape == shares.shape
    assert torch.allclose(flow_map.mixed(named), flow_map.endpoint(noisy, s, 0 * s, Conditions()))
    assert torch.allclose(flow_map.jump(noisy, s, 0 * s, Conditions()), flow_map.mixed(named), atol=1e-6)


def test_what_is_shown_in_training() -> None:
    """In a quarter of the samples something is known and something is not; the rest is told nothing."""
    where = edit.shown(Draws(0, torch.arange(4000)), 12)
    share = where.mean(dim=(1, 2))
    assert float((share > 0).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert 0.3 < float(share[share > 0].mean()) < 0.7
    x = torch.nn.functional.one_hot(torch.arange(12) % 5, 5).float().expand(4000, 12, 5)
    told = edit.told(x, where)
    assert torch.equal(told[..., :5], x * where)
    assert torch.equal(told[..., 5:], where)


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("mask", edit.MASKS)
def test_what_is_known_of_a_text_stays(kind: str, mask: str) -> None:
    """Whatever is drawn beside it: the part is one of the text, not of its room; no end is drawn in front of it."""
    modality, raw = _made(LEARNED[kind])
    texts = [text for text in to_texts(raw) if len(text.split()) >= 4][:40]
    x = modality.encode(to_raw(texts, raw.shape[1]))
    known = Known.of(x, modality.measurement("inpaint", {"mask": mask}))
    ended = modality.encode(to_raw([""] * len(texts), raw.shape[1]))
    for drawn in (ended, Draws(0, torch.arange(len(texts))).noise("drawn", modality.spec.shape)):
        found = [text.split() for text in to_texts(modality.decode(known.put_into(drawn)))]
        for text, after in zip(texts, found, strict=True):
            before, half, third = text.split(), len(text.split()) // 2, round(0.3 * len(text.split()) - 1e-9)
            if mask == "left":
                assert after[:half] == before[:half]
            else:
                assert len(after) == len(before)
                assert after[-third:] == before[-third:]
    shown = to_texts(modality.decode(known.measurement.back(known.value)))
    assert all("\N{REPLACEMENT CHARACTER}" in text for text in shown)


def test_a_text_is_completed(cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line, by a network that is told what is known of embedded tokens; other masks are a sentence."""
    assert cmm("train", *QUICK, "data.embedding=8", "path=linear", "net.known=true", "name=told") == 0
    assert cmm("edit", "run=runs/told", "how=continue", "n=6", "steps=2", "out=more") == 0
    assert Path("more/grid.txt").read_text().count("\n") >= 6
    after = [file.read_text().split() for file in sorted(Path("more").glob("0*.txt"))]
    real = TextModality.dataset({"name": "grammar", "limit": 300, "length": 12}).test
    before = [text.split()[: len(text.split()) // 2] for text in to_texts(real.raw[:6])]
    assert [one[: len(two)] for one, two in zip(after, before, strict=True)] == before
    assert cmm("edit", "run=runs/told", "mask=top") == 2
    assert "mask=top is no part of a text" in capsys.readouterr().err
    assert cmm("train", *QUICK, "data.embedding=8", "name=other") == 2
    assert "path=decoding is the clock of one-hot tokens" in capsys.readouterr().err
    words = ("data.name=pydoc", "data.tokens=words", "data.vocabulary=36", "data.embedding=8", "data.length=12", "n=8")
    assert cmm("evaluate", "bundle=runs/told/bundle", *words, "steps=[1]", "seeds=[0]") == 2
    assert "their vocabulary is another one" in capsys.readouterr().err


@pytest.mark.smoke
def test_a_run_from_training_to_a_table(
    cmm: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts are written, previewed side by side and scored with the measures of a grammar; the same seed, the same texts."""
    monkeypatch.setattr(language, "UPDATES", 20)
    assert cmm("train", *QUICK, "name=first") == 0
    sheet = next(Path("runs/first/samples").glob("*.txt")).read_text()
    assert all(f"{name}  " in sheet for name in ("1 step", "8 steps", "64 steps", "real"))
    assert cmm("sample", "run=runs/first", "n=4", "steps=4", "out=one") == 0
    assert (
        cmm("sample", "run=runs/first", "n=2", "steps=4", "sampler=renoise", "out=two") == 0
    )  # the usual one of tokens
    assert Path("one/000001.txt").read_text() == Path("two/000001.txt").read_text()
    capsys.readouterr()
    words = (
        "steps=[1,8]",
        "n=64",
        "seeds=[0]",
        "also=[grammatical,rules,found,bigrams]",
        "baselines=true",
    )
    assert cmm("evaluate", "run=runs/first", *words) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("grammatical", "rules", "found", "bigrams", "5-gram", "autoregressive"))


def test_measures_of_a_grammar_are_of_a_grammar_alone() -> None:
    """Other texts do not have them."""
    assert "grammatical" in _made(LEARNED["grammar"])[0].measures
    other = _made({"name": "pydoc", "tokens": "characters"})[0]
    assert "grammatical" not in other.measures
    assert "bigrams" in other.measures


def test_a_sheet_holds_the_same_sample_in_every_row(tmp_path: Path) -> None:
    """Line breaks are shown; a row without a sample is left out."""
    modality = _made(LEARNED["grammar"])[0]
    rows = {"1 call": to_raw(["a\nb", "c"], 8), "real": to_raw(["d"], 8)}
    assert "1 call  a \N{RETURN SYMBOL} b" in modality.preview(rows, tmp_path / "sheet").read_text()


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("and é", "and ü", "their vocabulary is another one"),
        ("a lion", "i-lo-n", "clean states are mixed of are others"),
    ],
)
def test_what_tokens_mean_stays_the_same(
    cmm: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
    says: str,
) -> None:
    """Where texts that no window reaches were changed, and with them the tokens or their embeddings, no run goes on.

    Nor does another one begin with its weights.
    """
    monkeypatch.setattr(TextModality, "previewed", (1,))
    lines = "a sea lion - an old one - sees you\n" * 28
    words = (
        "experiment=text/texts",
        "data.folder=one.txt",
        "data.test_fraction=0",
        "data.layout=pack",
        "data.length=32",
    )
    words = (*words, "data.embedding=8", "path=linear", "net.channels=32", "net.blocks=1", "train.batch=16", "name=it")
    for text, samples, code in ((before, 32, 0), (after, 48, 3), (before, 48, 0)):
        Path("one.txt").write_text(lines[: 32 * 30] + text)
        assert cmm("train", *words, f"train.samples={samples}") == code, capsys.readouterr().err
        assert (says in capsys.readouterr().err) == (code == 3)
    Path("one.txt").write_text(lines[: 32 * 30] + after)
    assert cmm("train", *words[:-1], "name=new", "weights=runs/it", "train.samples=16") == 2
    assert "weights=runs/it is not possible: " in capsys.readouterr().err


def test_the_memory_format_of_pictures_is_refused(cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Samples without a grid of pixels have none: the option is not passed over."""
    assert cmm("train", *QUICK, "train.channels_last=true", "name=mine") == 2
    assert "train.channels_last=true is for pictures and clips" in capsys.readouterr().err
