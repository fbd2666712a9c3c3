"""Clips become tensors and clips again; frames that are known stay; everything works from the command line."""

import json
import numpy as np
import pytest
import torch

from cm_multimodal.editing import Known
from cm_multimodal.errors import DataError
from cm_multimodal.modality import TensorSpec
from cm_multimodal.random import Draws
from collections.abc import Callable
from modalities.video import edit
from modalities.video.adapter import VideoModality
from modalities.video.noise import SharedNoise
from pathlib import Path
from torch import Tensor
from typing import Any

DATA = {"name": "moving_digits", "frames": 4, "size": 12, "count": 300}
QUICK = (
    "experiment=video/smoke", "data.count=200", "net.channels=8", "train.samples=256", "train.preview_every=256",
    "train.threads=1",
)  # fmt: skip


def _made(config: dict[str, Any]) -> tuple[VideoModality, Tensor]:
    splits = VideoModality.dataset(config)
    return VideoModality(VideoModality.describe(splits.train, config)), splits.train.raw


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_clips_go_there_and_back(shared: float) -> None:
    """Bit for bit; what the model sees lies around 0 and has the deviation that the core is told."""
    modality, raw = _made({**DATA, "shared": shared})
    x = modality.encode(raw)
    assert x.shape == (300, 1, 4, 12, 12)
    assert float(x.mean()) == pytest.approx(0, abs=0.01)
    assert float(x.std()) == pytest.approx(modality.spec.sigma_data, rel=0.02)
    assert torch.equal(modality.decode(x), raw)
    assert modality.duration() == pytest.approx(0.4)
    with pytest.raises(DataError, match="has diverged"):
        modality.decode(x * torch.nan)


def test_shared_noise_is_that_of_its_definition() -> None:
    """Independent noise, coloured, has variance 1 and the asked-for share between frames; whitening is its inverse."""
    noise = SharedNoise(0.3, 6)
    eps = Draws(0, torch.arange(4000)).noise("noise", (1, 6, 2, 2), torch.float64)
    seen = noise.coloured(eps)
    frames = seen.permute(2, 0, 1, 3, 4).flatten(1)
    assert torch.allclose(torch.cov(frames), 0.7 * torch.eye(6).double() + 0.3, atol=0.03)
    assert torch.allclose(noise.whitened(seen), eps, atol=1e-12)
    with pytest.raises(ValueError, match="in common"):
        SharedNoise(1.0, 6)


def test_a_bundle_of_something_else_is_refused() -> None:
    """What is no specification of clips is a sentence."""
    spec = _made(DATA)[0].spec
    for settings, shape in (
        (spec.settings, (12, 12)),
        ({"fps": 3}, spec.shape),
        ({**spec.settings, "fps": 0}, spec.shape),
    ):
        with pytest.raises(DataError, match="This is no specification of clips"):
            VideoModality(TensorSpec(shape, 0.5, settings=settings))


@pytest.mark.parametrize("shared", [0.0, 0.5])
@pytest.mark.parametrize("how", edit.EDITS)
def test_known_frames_are_kept(how: str, shared: float) -> None:
    """Whatever was drawn, the known frames are put in their place, and nothing else is changed."""
    modality, raw = _made({**DATA, "shared": shared})
    x, known = modality.encode(raw[:20]), edit.given(how, 4)
    assert 0 < int(known.sum()) < 4
    fact = Known.of(x, modality.measurement(how, {}))
    done = modality.decode(fact.put_into(modality.encode(raw[20:40])))
    assert torch.equal(done[:, known], raw[:20][:, known])
    assert torch.equal(done[:, ~known], raw[20:40][:, ~known])


def test_what_is_shown_in_training() -> None:
    """In half of the samples something is known; a run of frames never is, at the end or anywhere."""
    where = edit.shown(Draws(0, torch.arange(4000)), (1, 8, 3, 3))
    frames = where[:, 0, :, 0, 0]
    assert torch.equal(where, frames[:, None, :, None, None].expand_as(where))
    assert (frames.sum(dim=1) < 8).all()
    assert float((frames.sum(dim=1) > 0).double().mean()) == pytest.approx(0.5, abs=0.03)
    runs = (frames.diff(dim=1) == -1).sum(dim=1) + (frames[:, 0] == 0)
    assert (runs <= 1).all()
    shown = frames[frames.sum(dim=1) > 0]
    assert float((shown[:, -1] == 0).double().mean()) > 0.5
    assert float((shown[:, 0] == 0).double().mean()) > 0.05


def test_a_copy_is_of_the_nearest_known_frame() -> None:
    raw = torch.arange(6).reshape(1, 6, 1, 1, 1)
    for known, copied in (([1, 1, 1, 0, 0, 0], [0, 1, 2, 2, 2, 2]), ([1, 0, 0, 0, 0, 1], [0, 0, 0, 5, 5, 5])):
        assert edit.copied(raw, torch.tensor(known).bool()).flatten().tolist() == copied


def test_a_run_from_training_to_a_table(cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Train, sample, edit, evaluate, export and sample again: files that can be looked at, and numbers for each row."""
    assert cmm("train", *QUICK, "name=mine") == 0
    assert list(Path("runs/mine/samples").glob("*.png"))
    assert list(Path("runs/mine/samples").glob("*.gif"))
    assert cmm("sample", "run=runs/mine", "steps=2", "n=3", "out=clips") == 0
    assert len(list(Path("clips").glob("0*.gif"))) == 3
    assert cmm("edit", "run=runs/mine", "how=predict", "steps=1", "n=4", "out=predicted") == 0
    assert "signal-to-noise ratio of the frames drawn" in capsys.readouterr().out
    for way in (("sampler=mean", "steps=1"), ("solver=heun", "steps=2"), ("sampler=gamma", "gamma=0.3")):
        assert cmm("edit", "run=runs/mine", "how=fill", "n=2", *way) == 0
    names = {"fill-mean-steps1-seed0-n2", "fill-heun-steps2-seed0-n2", "fill-gamma-steps2-seed0-n2-gamma0.3"}
    assert {file.name for file in Path("runs/mine/edited").iterdir()} == names
    assert cmm("evaluate", "run=runs/mine", "steps=[1]", "n=40", "also=[speed,still,identity]") == 0
    row = json.loads(Path("runs/mine/evaluation/metrics.json").read_text())["rows"][-1]
    assert {"speed", "still", "identity"} <= row["also"].keys() if "also" in row else {"speed"} <= row.keys()
    assert cmm("export", "run=runs/mine", "out=shared") == 0
    for source, out in (("run=runs/mine", "one"), ("bundle=shared", "two")):
        assert cmm("sample", source, "steps=1", "n=2", "format=npz", f"out={out}") == 0
    one, two = (np.load(f"{out}/samples.npz") for out in ("one", "two"))
    assert one["x"].shape == (2, 4, 12, 12, 1)
    assert one["fps"] == 10
    assert (one["x"] == two["x"]).all()
