"""FID's features are those of the user's own file, by the published protocol; nothing has its name without that file.

The published network is not here. The one of the tests is a TorchScript file that is called alike and answers what it saw.
"""

import json
import pytest
import torch

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.evaluation.frechet import frechet_distance
from cm_multimodal.evaluation.reference import Reference, reference
from cm_multimodal.evaluation.runner import real_row
from cm_multimodal.files import digest
from cm_multimodal.model import Model
from collections.abc import Callable
from modalities.image import metrics
from modalities.image.adapter import ImageModality
from modalities.image.data import load
from pathlib import Path
from torch import Tensor, nn
from typing import Any

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Seeing(nn.Module):
    """Answers the mean of each colour, the mean of the upper half and of the left one, and the number of sides."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        assert x.dtype == torch.uint8
        y = x.double()
        halves = [y[:, :, : x.shape[2] // 2].flatten(1).mean(1), y[..., : x.shape[3] // 2].flatten(1).mean(1)]
        sides = torch.full((len(x), 1), float(x.shape[2] + x.shape[3]), dtype=torch.float64)
        return torch.cat([y.flatten(2).mean(2), torch.stack(halves, dim=1), sides], dim=1)


class Other(nn.Module):
    """Takes pictures, and knows no switch."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def saved(net: nn.Module, file: Path) -> dict[str, Any]:
    torch.jit.script(net).save(str(file))
    return {"features": "inception", "feature_weights": str(file)}


def test_pictures_reach_the_network_as_they_are(tmp_path: Path) -> None:
    """Whole numbers from 0 to 255 in three colours, not resized by us: a row a picture, in their order."""
    config = saved(Seeing(), tmp_path / "mine.pt")
    grey = torch.arange(130, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 12)
    rows = metrics.features(grey, config)
    assert (rows.shape, rows.dtype) == ((130, 6), torch.float64)
    assert torch.equal(rows[:, :5], torch.arange(130).double()[:, None].expand(-1, 5))
    assert (rows[:, 5] == 20).all()
    colours = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    colours[:, 1] = 255
    assert metrics.features(colours, config)[0, :3].tolist() == [0, 255, 0]
    assert metrics.extractor(config) == f"inception, network {digest(tmp_path / 'mine.pt')}"


def test_the_published_protocol_holds_against_the_training_split(tmp_path: Path, cmm: Callable[..., int]) -> None:
    """50,000 samples unless fewer are asked for; the real row is of test samples, and the record says which split it was."""
    config = saved(Seeing(), tmp_path / "mine.pt")
    splits = load({"name": "digits"})
    modality = ImageModality(ImageModality.describe(splits.train, {}))
    sides = [metrics.features(part.raw, config) for part in (splits.test, splits.train)]
    ground = Reference(modality, splits, {**config, "accuracy": False}, 1400, config)
    assert real_row(ground).frechet == pytest.approx(frechet_distance(*sides))
    words = ("experiment=image/smoke", "net.channels=8", "train.samples=128", "train.threads=1", "name=run")
    assert cmm("train", *words) == 0
    more = [f"{key}={value}" for key, value in config.items()]
    assert cmm("evaluate", "run=runs/run", *more, "n=60", "seeds=0", "steps=[1]") == 0
    record = json.loads(Path("runs/run/evaluation/metrics.json").read_text())["protocol"]
    assert record["reference"] == f"train split, {len(splits.train)} samples"
    assert record["features"].startswith("inception, network ")
    bundle = Model.load("runs/run").bundle
    assert [reference(bundle, {"name": "digits"}, {**config, "n": n}).n for n in (None, 60)] == [50_000, 60]


def test_what_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no TorchScript, another network: a sentence each."""
    pictures = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setenv("CMM_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=r"no file '.*inception-2015-12-05\.pt': type feature_weights=PATH"):
        metrics.features(pictures, {"features": "inception"})
    (tmp_path / "broken.pt").write_bytes(b"no network")
    with pytest.raises(DataError, match="cannot be read as a TorchScript file"):
        metrics.features(pictures, {"features": "inception", "feature_weights": tmp_path / "broken.pt"})
    with pytest.raises(DataError, match="holds another network"):
        metrics.features(pictures, saved(Other(), tmp_path / "other.pt"))
