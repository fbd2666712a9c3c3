"""Judges from outside say what their formulas say, whatever stands beside a text; nothing of a folder is run or fetched."""

import json
import math
import numpy as np
import pytest
import socket
import sys
import torch

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.random import noise
from collections.abc import Callable
from modalities.text import judges
from modalities.text.adapter import TextModality
from modalities.text.grammar import sentences
from modalities.text.judges import Judge, judge_of
from modalities.text.mauve import area, mauve
from pathlib import Path
from typing import Any

TEXTS = tuple(sentences(0, torch.arange(40)))
CONTEXT = 12
QUICK = (
    "experiment=text/grammar", "data.limit=300", "train.samples=128", "train.batch=64", "net.channels=32", "net.blocks=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("transformers", reason="the extra 'judges' is not installed: no language model is read")


@pytest.fixture(scope="module")
def folder(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers with large random weights, and the words of a grammar for tokens."""
    return written(library, library.GPT2LMHeadModel, library.GPT2Config, tmp_path_factory.mktemp("models") / "tiny")


def written(library: Any, kind: Any, config: Any, place: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<s>", "<unk>", *sorted({word for text in TEXTS for word in text.split()})]
    numbers = {word: number for number, word in enumerate(words)}
    split = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="<unk>"))
    split.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    wrapped = library.PreTrainedTokenizerFast(tokenizer_object=split, bos_token="<s>", unk_token="<unk>")
    wrapped.save_pretrained(place)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": CONTEXT}
    model = kind(config(vocab_size=len(words), bos_token_id=0, eos_token_id=0, **size))
    for number, weight in enumerate(model.parameters()):
        weight.data = noise(number, "weights", torch.arange(1), tuple(weight.shape))[0] * 0.4
    model.save_pretrained(place)
    return place


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection can be made."""

    def refuse(*args: Any) -> None:
        raise AssertionError("something is to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    judge_of.cache_clear()


@pytest.mark.usefixtures("alone")
def test_a_perplexity_is_what_its_formula_says(library: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text by text without padding it is the same; the first token counts, what the context has no room for does not."""
    monkeypatch.setattr(judges, "TOGETHER", 64)
    judge, model = Judge(folder), library.GPT2LMHeadModel.from_pretrained(folder).eval()
    known = judge.tokenizer.get_vocab()
    texts, lost, count = (*TEXTS, "", " ".join(TEXTS[:4]), "nonsense"), 0.0, 0
    for text in texts:
        numbers = [0, *(known.get(word, 1) for word in text.split())][:CONTEXT]
        with torch.no_grad():
            logs = model(torch.tensor([numbers])).logits[0].double().log_softmax(dim=-1)
        lost -= sum(float(logs[place, number]) for place, number in enumerate(numbers[1:]))
        count += len(numbers) - 1
    assert judge.perplexity(texts) == pytest.approx(math.exp(lost / count), rel=1e-5)
    assert judge.perplexity(texts) > len(known)  # large weights are wrong and sure of it
    assert math.isnan(judge.perplexity(("",)))


@pytest.mark.usefixtures("alone")
def test_features_are_those_of_the_last_token(library: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding beside a text changes none of them; a text without a token has those of its beginning."""
    monkeypatch.setattr(judges, "TOGETHER", 64)
    judge, model = Judge(folder), library.GPT2LMHeadModel.from_pretrained(folder).eval()
    texts = tuple(sorted((*TEXTS[:9], ""), key=lambda text: len(text.split())))
    found = judge.features(texts)
    assert found.shape == (10, 16)
    for row, text in zip(found, texts, strict=True):
        numbers = torch.tensor([[0, *judge.tokenizer(text)["input_ids"]]])[:, :CONTEXT]
        with torch.no_grad():
            state = model(numbers, output_hidden_states=True).hidden_states[-1][0, -1]
        assert np.allclose(row, state.numpy(), atol=1e-4)


def test_the_area_is_what_its_formula_says() -> None:
    """1 for equal shares, the integral of the frontier in between, and what published scores have at the least."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    assert area(p, p) == pytest.approx(1)
    assert area(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(0.00407209626, abs=1e-9)
    assert area(p, q) == pytest.approx(area(q, p))
    w = np.linspace(0, 1, 20_001)[:, None]
    r = w * p + (1 - w) * q
    x, y = (np.exp(-5 * (side * np.log(side / r)).sum(axis=1)) for side in (q, p))
    exact = np.trapezoid(y[::-1], x[::-1]) + x[-1]  # the frontier begins and ends beside the axes
    assert area(p, q) == pytest.approx(exact, abs=2e-3)


def test_mauve_tells_distributions_apart() -> None:
    """The same features score 1, two samples of one distribution less, a shifted one far less, the same each time."""
    a, b = (noise(seed, "points", torch.arange(200), (6,), torch.float64).numpy() + 1 for seed in (0, 1))
    assert mauve(a, a) == pytest.approx(1)
    assert 0.8 < mauve(a, b) < 1
    assert mauve(a, b - 2) < 0.1
    assert mauve(a, b + np.eye(6)[0]) < mauve(a, b)
    assert mauve(a, b) == mauve(a, b)
    assert mauve(np.ones((20, 3)), np.ones((10, 3))) == 1
    assert math.isnan(mauve(a[:0], b))


@pytest.mark.usefixtures("alone")
def test_a_folder_that_holds_no_judge_is_refused(library: Any, folder: Path, tmp_path: Path) -> None:
    """Pickles are not read, code is not run, weights are not made up, and what reads ahead does not judge."""
    assert Judge(folder).name == "tiny"
    assert len(Judge(folder).digest) == 12
    copy = {file.name: file.read_bytes() for file in folder.iterdir()}
    config, weights = json.loads(copy["config.json"]), copy["model.safetensors"]

    def changed(name: str, **files: bytes | dict[str, Any]) -> Path:
        (tmp_path / name).mkdir()
        for key, value in {**copy, **files}.items():
            (tmp_path / name / key).write_bytes(json.dumps(value).encode() if isinstance(value, dict) else value)
        return tmp_path / name

    pickled = changed("pickled", **{"pytorch_model.bin": weights})
    (pickled / "model.safetensors").unlink()
    for wrong in (pickled, tmp_path / "nowhere", folder / "config.json"):
        with pytest.raises(UsageError, match="is no folder with a language model"):
            Judge(wrong)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    theirs = {"architectures": ["Own"], "auto_map": {"AutoModelForCausalLM": "own.Own", "AutoConfig": "own.C"}}
    for name, files in {
        "broken": {"model.safetensors": weights[:-100]},
        "larger": {"config.json": {**config, "n_layer": 3, "num_hidden_layers": 3}},
        "smaller": {"config.json": {**config, "vocab_size": 5}},
        "code": {"config.json": {**config, **theirs, "model_type": "own"}, "own.py": code},
        "none": {"config.json": b"{}"},
    }.items():
        with pytest.raises(DataError, match="cannot be used"):
            Judge(changed(name, **files))
    with pytest.raises(DataError, match="weights are missing"):
        Judge(tmp_path / "larger")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError, match="reads ahead"):
        Judge(written(library, library.BertForMaskedLM, library.BertConfig, tmp_path / "both_ways"))
    assert Judge(changed("other", **{"model.safetensors": weights[:-1] + b"\0"})).digest != Judge(folder).digest


@pytest.mark.usefixtures("alone")
def test_an_evaluation_says_who_judged(
    cmm: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Both measures of samples and of real texts, the model's name and checksum; real texts are no further off."""
    monkeypatch.setattr(TextModality, "previewed", (1,))
    assert cmm("train", *QUICK, "name=first") == 0
    capsys.readouterr()
    words = ("evaluate", "run=runs/first", "steps=[1]", "n=64", "seeds=[0]", "also=[perplexity_external,mauve]")
    assert cmm(*words) == 2
    assert "needs a language model: language_model=FOLDER" in capsys.readouterr().err
    assert cmm(*words, f"language_model={folder}") == 0
    digest = judge_of(str(folder)).digest
    assert f"language model tiny, {digest}" in " ".join(capsys.readouterr().out.split())
    found = json.loads(Path("runs/first/evaluation/metrics.json").read_text())
    assert found["protocol"]["judges"] == {"tiny": digest}
    assert str(folder.parent) not in json.dumps(found)
    real, drawn = ({key: row["also"][key] for key in judges.MEASURES} for row in found["rows"])
    assert real["mauve"] >= drawn["mauve"]
    assert real["perplexity_external"] != drawn["perplexity_external"] > 1


def test_without_the_extra_a_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library is not installed."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"the extra 'judges'.*pip install 'cm-multimodal\[judges\]'"):
        Judge(tmp_path)
