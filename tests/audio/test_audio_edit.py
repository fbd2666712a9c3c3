r"""A clip is gone on with, or its gap is filled: what is known stays, and a network that is told it makes use of it."""

import numpy as np
import pytest
import soundfile
import torch

from cm_multimodal.batch import Batch, Conditions, told
from cm_multimodal.errors import UsageError
from cm_multimodal.modality import TensorSpec
from cm_multimodal.random import Draws
from collections.abc import Callable
from modalities.audio import edit
from modalities.audio.net import build_net
from pathlib import Path

SHAPE = (1, 8, 16)
WAVE = TensorSpec((4, 32), 0.5, ("a", "b"))
PICTURE = TensorSpec(SHAPE, 0.5)


def test_what_is_shown_in_training_is_nothing_or_all_but_a_gap() -> None:
    """Three quarters of the samples show nothing, half of the gaps reach to the end, each by its own number."""
    shown = edit.shown(Draws(0, torch.arange(4000)), SHAPE)
    rows = shown[:, 0, 0]
    assert shown.shape == (4000, 1, 8, 16)
    assert torch.equal(shown, rows[:, None, None, :].expand_as(shown))
    some = rows[rows.any(dim=1)]
    assert 0.19 < len(some) / 4000 < 0.25  # a known part shorter than half a frame is none
    borders = (some.diff(dim=1) != 0).sum(dim=1)
    assert int(borders.max()) <= 2
    assert 0.4 < float((some[:, -1] == 0).double().mean()) < 0.65
    assert torch.equal(edit.shown(Draws(0, torch.arange(7, 9)), SHAPE), shown[7:9])


@pytest.mark.parametrize("spec", [PICTURE, WAVE], ids=["spectrogram", "waveform"])
def test_a_network_listens_to_what_it_is_told(spec: TensorSpec) -> None:
    """Told nothing is told zeros; told a part, its answer depends on it; one that is not to be told has fewer weights."""
    torch.manual_seed(0)
    config = {"size": "xs", "channels": 8, "patch": 2}
    net = build_net({**config, "known": True}, spec, True)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, time = torch.randn(2, *spec.shape), torch.full((2,), 0.5)
    where = torch.zeros(1, 1, *spec.shape[1:])
    nothing, zeros = (net(x, time, time, Conditions(known=known)) for known in (None, told(x, where)))
    where[..., :10] = 1
    part = net(x, time, time, Conditions(known=told(x, where)))
    assert torch.equal(nothing, zeros)
    assert not torch.allclose(nothing, part, atol=1e-4)
    assert told(x, where).shape == (2, spec.shape[0] + 1, *spec.shape[1:])
    counts = [sum(p.numel() for p in one.parameters()) for one in (net, build_net(config, spec, True))]
    assert counts[0] > counts[1]


@pytest.mark.parametrize("spec", [PICTURE, WAVE], ids=["spectrogram", "waveform"])
def test_a_gain_multiplies_the_state(spec: TensorSpec) -> None:
    """With nothing but a bias of one on the gains a network returns its input; a clock makes it tell early from late."""
    config = {"size": "xs", "channels": 8, "patch": 2}
    net = build_net({**config, "gain": True}, spec, True)
    x, time = torch.randn(2, *spec.shape), torch.full((2,), 0.5)
    half = len(net.unet.leave.bias) // 2
    torch.nn.init.ones_(net.unet.leave.bias[:half])
    assert torch.equal(net(x, time, time, Conditions()), x)


@pytest.mark.parametrize("spec", [PICTURE, WAVE], ids=["spectrogram", "waveform"])
@pytest.mark.parametrize("clock", [False, True])
def test_a_clock_tells_early_from_late(spec: TensorSpec, clock: bool) -> None:
    """Far from the ends of a long, even clip nothing else does."""
    torch.manual_seed(0)
    long = TensorSpec((*spec.shape[:-1], 128), 0.5)
    config = {"channels": 8, "patch": 2, "attention": [], "multipliers": [1], "clock": clock}
    net = build_net(config, long, True)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    time = torch.full((2,), 0.5)
    with torch.no_grad():
        middle = net(torch.ones(2, *long.shape), time, time, Conditions())[..., 56:72:2]
    assert (float(middle.std(dim=-1).max()) > 1e-3) is clock


def test_conditions_keep_what_is_known_by_rows() -> None:
    """It is taken and moved with the rest of the conditions."""
    batch = Batch(torch.randn(3, *SHAPE), Conditions(known=told(torch.randn(3, *SHAPE), torch.ones(1, 1, 1, 1))))
    known = batch.cond.take(slice(1, 2)).to(torch.device("cpu")).known
    assert known is not None
    assert torch.equal(known, batch.cond.known[1:2])


def test_masks_are_parts_of_the_time() -> None:
    """The first half, the second, all but the middle; others are a sentence."""
    even = torch.ones(1, *SHAPE)
    parts = {name: edit.measurement("inpaint", {"mask": name}, SHAPE).measure(even)[0].bool() for name in edit.MASKS}
    assert torch.equal(parts["left"], ~parts["right"])
    assert torch.equal(parts["left"], edit.measurement("continue", {"mask": "nothing"}, SHAPE).measure(even)[0].bool())
    assert parts["frame"][0, 0].tolist() == [True] * 5 + [False] * 6 + [True] * 5
    with pytest.raises(UsageError, match="mask=top is no part of a clip"):
        edit.measurement("inpaint", {"mask": "top"}, SHAPE)


def test_clips_are_gone_on_with(cmm: Callable[..., int]) -> None:
    """From a waveform network that is told: its first half is the real one's to the bit of rounding, the rest is drawn."""
    quick = ("train.samples=640", "data.limit=120", "data.length=1024", "train.preview_every=640", "net.channels=8")
    assert cmm("train", "experiment=audio/notes", *quick, "name=told") == 0
    assert cmm("edit", "run=runs/told", "how=continue", "n=3", "out=more") == 0
    assert cmm("edit", "run=runs/told", "mask=frame", "n=3", "out=filled") == 0
    assert cmm("sample", "run=runs/told", "seconds=0.3", "n=2", "steps=2", "out=long") == 0
    assert len(soundfile.read("long/000000.wav")[0]) == 2560  # five blocks of 16 patches of 32
    assert cmm("sample", "run=runs/told", "seconds=0", "n=2", "out=none") == 2
    done, _ = soundfile.read("more/000000.wav", dtype="int16")
    real, _ = soundfile.read("more/grid-real.wav", dtype="int16")
    assert np.abs(done[:512].astype(int) - real[:512]).max() <= 1
    assert np.abs(done[512:].astype(int) - real[512:1024]).max() > 100
    assert Path("filled/grid.png").exists()
