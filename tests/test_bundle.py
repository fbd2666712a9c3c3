r"""Bundles: what is written is read again, and foreign ones are hostile until checked."""

import json
import pickle
import pytest
import struct
import sys
import torch

from cm_multimodal.bundle import Card, empty_map, read_bundle, write_bundle
from cm_multimodal.errors import UserError
from cm_multimodal.modality import TensorSpec
from modalities.image.adapter import ImageModality
from pathlib import Path

SPEC = TensorSpec((1, 8, 8), 0.75, tuple("0123456789"))
CARD = Card(
    "image", SPEC, {"size": "xs", "channels": 8, "blocks": 1}, "linear", "euler", True, ("diagonal", "edge", "triangle"),
    "mean_flow", 16, 5,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_bundle(CARD, empty_map(CARD, ImageModality(SPEC)).net.state_dict(), tmp_path / "bundle")
    return tmp_path / "bundle"


def change(folder: Path, **changes: object) -> None:
    """Rewrites entries of the card; a dotted key reaches inside."""
    card = json.loads((folder / "bundle.json").read_text())
    for key, value in changes.items():
        place, _, leaf = key.rpartition("__")
        (card[place] if place else card)[leaf] = value
    (folder / "bundle.json").write_text(json.dumps(card))


def test_a_bundle_is_read_as_it_was_written(folder: Path) -> None:
    """Card and weights survive the way through the two files."""
    bundle = read_bundle(folder)
    assert bundle.card == CARD
    torch.manual_seed(0)
    fresh = empty_map(CARD, ImageModality(SPEC)).net.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in bundle.flow_map.net.state_dict().items())
    assert sorted(file.name for file in folder.iterdir()) == ["bundle.json", "weights.safetensors"]


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "os.system"}, {"scaling": "builtins.open"}, {"modality": "os"}, {"modality": "../x"}, {"format": 99},
        {"net": {"_target_": "pathlib.Path.write_text"}}, {"net": {"size": "xs", "channels": 10**9}},
        {"net": {"size": "xs", "blocks": 10**6}}, {"net": {"size": "l", "channels": 4096, "multipliers": [64] * 8}},
        {"net": {"size": "xs", "multipliers": [1] * 10**4}}, {"spec__shape": [10**6, 10**6, 10**6]},
        {"spec__shape": [1, -8, 8]}, {"spec__sigma_data": float("nan")}, {"spec__surprise": 1}, {"chunk": 10**9},
        {"learned": ["everything"]}, {"surprise": True}, {"spec": 3}, {"learned": 3}, {"two_times": "yes"},
    ],
)  # fmt: skip
def test_a_hostile_card_is_refused(folder: Path, changes: dict[str, object]) -> None:
    """Import paths, unknown keys, absurd sizes and wrong types are a sentence, before anything is allocated."""
    change(folder, **changes)
    with pytest.raises(UserError) as caught:
        read_bundle(folder)
    assert len(str(caught.value)) > 20


def test_a_card_that_is_not_json_is_refused(folder: Path) -> None:
    """Random bytes, deep nesting and a huge file are refused."""
    for text in (b"\xff\xfe\x00", b"[" * 100_000, b"[]", b" " * (2 << 20), b""):
        (folder / "bundle.json").write_bytes(text)
        with pytest.raises(UserError):
            read_bundle(folder)


class Payload:
    """Would leave a canary behind if it were ever unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (str(self.canary), "w")


@pytest.mark.parametrize("kind", ["pickle", "torch", "huge header", "empty", "missing", "truncated"])
def test_hostile_weights_are_refused_and_never_run(folder: Path, tmp_path: Path, kind: str) -> None:
    """Pickles in the place of weights are not run; damaged safetensors are a sentence."""
    weights, canary = folder / "weights.safetensors", tmp_path / "canary"
    whole = weights.read_bytes()
    if kind == "torch":
        torch.save({"x": Payload(canary)}, weights)
    elif kind == "missing":
        weights.unlink()
    else:
        weights.write_bytes(
            {
                "pickle": pickle.dumps(Payload(canary)), "huge header": struct.pack("<Q", 2**63), "empty": b"",
                "truncated": whole[: len(whole) // 2],
            }[kind]
        )  # fmt: skip
    with pytest.raises(UserError):
        read_bundle(folder)
    assert not canary.exists()


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    """Weights that do not fit the card's network are a sentence."""
    change(folder, net={"size": "xs", "channels": 16, "blocks": 1})
    with pytest.raises(UserError, match="do not fit"):
        read_bundle(folder)


def test_nothing_reads_pickles() -> None:
    """The sources load tensors with weights_only=True or from safetensors, never otherwise."""
    root = Path(sys.modules["cm_multimodal"].__file__).parent
    for file in [*root.rglob("*.py"), *(root.parent / "modalities").rglob("*.py")]:
        text = file.read_text()
        assert "import pickle" not in text, file
        assert text.count("torch.load(") == text.count("weights_only=True"), file
        assert "allow_pickle=True" not in text, file
