r"""The training loop: the stream of samples, and that something is learned. What stops it is in tests/robustness/."""

import json
import pytest
import torch

from cm_multimodal.training.data import Stream, batches
from cm_multimodal.training.settings import TrainSettings
from collections.abc import Callable
from modalities.image.adapter import ImageModality
from modalities.image.data import load as load_images
from pathlib import Path

Cmm = Callable[..., int]
TOY = (
    "experiment=toy/points",
    "train.samples=5120",
    "train.checkpoint_every=1024",
    "train.log_every=2",
    "train.threads=1",
)


def test_a_finished_run_says_so(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """Starting a finished run again changes nothing and ends well."""
    assert cmm("train", *TOY) == 0
    capsys.readouterr()
    assert cmm("train", *TOY) == 0
    assert "This run is finished" in capsys.readouterr().out


def test_the_stream_shows_every_sample_once_an_epoch_and_starts_anywhere() -> None:
    """Each epoch is a permutation; a stream that starts late goes on as the whole one; horizontal flips belong to the id."""
    splits = load_images({"name": "digits"})
    modality = ImageModality(ImageModality.describe(splits.train, {}))

    def stream(first: int, last: int) -> Stream:
        return Stream(splits.train, modality, 5, first, TrainSettings(last, 100, augment={"flip": 0.5}))

    whole, late = list(batches(stream(0, 2800))), list(batches(stream(1400, 2800)))
    epoch = torch.cat([drawn.batch.x for drawn in whole[:14]])
    ink = epoch.sum(dim=(1, 2, 3)).sort().values
    assert torch.allclose(ink, modality.encode(splits.train.raw).sum(dim=(1, 2, 3)).sort().values)
    assert not torch.equal(epoch, torch.cat([drawn.batch.x for drawn in whole[14:]]))
    assert all(torch.equal(a.batch.x, b.batch.x) for a, b in zip(whole[14:], late, strict=True))


def test_points_are_learned(cmm: Cmm) -> None:
    """The toy modality trains through the same command to samples that lie on the half-moons."""
    assert cmm("train", "experiment=toy/points", "train.threads=1") == 0
    assert cmm("evaluate", "run=runs/points", "steps=[1,4]", "threads=1") == 0
    rows = {row["steps"]: row for row in json.loads(Path("runs/points/evaluation/metrics.json").read_text())["rows"]}
    assert rows[1]["frechet"] < 0.05
    assert rows[4]["precision"] > 0.5
    assert rows[4]["recall"] > 0.9
