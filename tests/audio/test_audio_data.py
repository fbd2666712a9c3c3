r"""Recordings become clips by rule; strings have the pitch they say; runs on sounds go from end to end."""

import json
import librosa
import numpy as np
import os
import pytest
import soundfile
import torch

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.judge import Judge
from cm_multimodal.training.saved import load as load_bundle
from collections.abc import Callable
from functools import partial
from modalities.audio import metrics, preview
from modalities.audio.adapter import AudioModality
from modalities.audio.clips import LEVEL, Silent, fit_clip, to_int16
from modalities.audio.data import SPOKEN_DIGITS, load
from modalities.audio.membranes import DRUMS, membranes
from modalities.audio.strings import fundamental, strings
from pathlib import Path
from scipy.special import jn_zeros
from typing import Any

needs_digits = pytest.mark.skipif(
    not (Path(os.environ.get("CMM_DATA") or "data") / SPOKEN_DIGITS).is_file(), reason="there are no spoken digits here"
)
RATE = 8000
TONE = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)


def test_a_clip_is_trimmed_levelled_and_placed() -> None:
    """Silence around it goes, its active part has one level whatever it had, and lies where it is told."""
    padded = torch.nn.functional.pad(TONE[:2000], (3000, 1000))  # 2,240 samples from 2,880 on, in whole frames of 160
    for scale in (1.0, 0.01):
        for place, begin in ((0.0, 0), (1.0, 8192 - 2240)):
            clip = fit_clip(scale * padded, RATE, RATE, 8192, place)
            heard = clip.nonzero()
            assert clip.shape == (8192,)
            assert int(heard[0]) == begin + 121
            assert float(clip.square().sum() / 2240) ** 0.5 == pytest.approx(LEVEL, rel=1e-3)


def fitted(wave: torch.Tensor, rate: int = RATE) -> torch.Tensor:
    return fit_clip(wave, rate, RATE, 8000, 0.0)


def test_channels_rates_and_lengths_become_one() -> None:
    """Stereo is averaged; another rate keeps the pitch; of what is too long the loudest part stays."""
    stereo = torch.stack([TONE, -TONE + 0.1 * TONE.flip(0)])
    assert torch.allclose(
        fit_clip(stereo, RATE, RATE, 8192, 0.0), fit_clip(0.05 * TONE.flip(0), RATE, RATE, 8192, 0.0), atol=1e-5
    )
    fast = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(44100) / 44100)
    peak = torch.fft.rfft(fitted(fast, 44100)).abs().argmax()
    assert int(peak) == 440
    swell = torch.cat([0.1 * TONE, TONE, 0.1 * TONE])
    assert (
        fit_clip(swell, RATE, RATE, 4000, 0.0).square().mean()
        > 0.9 * fit_clip(TONE, RATE, RATE, 4000, 0.0).square().mean()
    )


@pytest.mark.parametrize(
    ("wave", "kind", "says"),
    [
        (torch.zeros(0), ValueError, "no samples"), (torch.zeros(4000), Silent, "silent"),
        (torch.full((4000,), float("nan")), ValueError, "no numbers"),
    ],
)  # fmt: skip
def test_what_is_no_clip_is_said(wave: torch.Tensor, kind: type[Exception], says: str) -> None:
    """Empty, silent and broken recordings are errors with a reason."""
    with pytest.raises(kind, match=says):
        fit_clip(wave, RATE, RATE, 8192, 0.0)


def test_odd_rates_keep_the_pitch_and_absurd_ones_are_none() -> None:
    """The filter of a ratio of large primes would fill the memory: a ratio so near is taken that nobody hears it."""
    odd = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(11127) / 11127)
    assert int(torch.fft.rfft(fitted(odd, 11127)).abs().argmax()) == 440
    for rate in (7, 3_000_000_000):
        with pytest.raises(ValueError, match="no rate of sounds"):
            fitted(odd, rate)


def test_strings_have_their_pitch() -> None:
    """Within the few cents that they are detuned and stretched by, for all twelve notes."""
    wave, note = strings(3, torch.arange(24), RATE, 8192)
    heard = librosa.yin(wave.numpy()[:, 1024:5120], fmin=100, fmax=300, sr=RATE, frame_length=2048)
    cents = 1200 * np.log2(np.median(heard, axis=1) / fundamental(note).numpy())
    assert note[:13].tolist() == [*range(12), 0]
    assert np.abs(cents).max() < 15


def test_the_embedded_set_is_the_same_each_time() -> None:
    """It needs no file, its splits differ, and its classes are even."""
    config = {"name": "strings", "length": 1024, "limit": 60}
    first, again = load(config), load(config)
    assert torch.equal(first.train.raw, again.train.raw)
    assert first.train.raw.dtype == torch.int16
    assert not torch.equal(first.train.raw[:24], first.test.raw[:24])
    assert torch.bincount(first.train.label).tolist() == [5] * 12


def test_membranes_swing_in_the_modes_of_a_round_one() -> None:
    """Struck in the centre a drum has its fundamental, and the overtones of the zeros of Bessel's functions, no others."""
    wave, drum = membranes(0, torch.arange(60), RATE, 8192)
    assert torch.bincount(drum).tolist() == [10] * 6
    spectrum = torch.fft.rfft(wave * torch.hann_window(8192)).abs()
    heard = spectrum.argmax(dim=1) * RATE / 8192
    ratio = heard / (60 * (4 / 3) ** drum)
    zeros = torch.tensor([z for m in range(5) for z in jn_zeros(m, 4)]) / jn_zeros(0, 1)[0]
    assert (ratio[:, None] / zeros - 1).abs().amin(dim=1).max() < 0.04
    splits = load({"name": "membranes", "length": 1024, "limit": 60})
    assert (splits.train.classes, len(splits.train)) == (DRUMS, 60)


@needs_digits
def test_packed_instruments_are_cut_and_split() -> None:
    """Every kind of five or more is in both splits, and long recordings are several clips."""
    splits = load({"name": "instruments", "length": 4096})
    assert len(splits.train.classes) == 17
    assert len(torch.unique(splits.train.label)) == 17
    assert len(splits.train) > 156
    assert len(splits.test) > 30
    assert len(torch.unique(splits.test.label)) == 12


def test_measures_of_level_and_activity() -> None:
    """Half as loud is 0.5, and silent for half of the time as well; a set beside itself is 1."""
    raw = to_int16(torch.stack([TONE, TONE.flip(0)]))
    assert metrics.level(raw, raw) == metrics.active(raw, raw, RATE) == 1.0
    assert metrics.level(raw // 2, raw) == pytest.approx(0.5, abs=0.01)
    silent = raw.clone()
    silent[:, :4000] = 0
    assert metrics.active(silent, raw, RATE) == pytest.approx(0.5, abs=0.01)


def test_the_pitch_of_notes_is_measured_in_cents() -> None:
    """Real strings are off by a few cents, a semitone higher is a hundred, and silence is 10,000 off."""
    wave, note = strings(0, torch.arange(12), RATE, 4096)
    raw = to_int16(0.3 * wave)
    assert metrics.cents(raw, note, RATE) < 12
    assert metrics.cents(raw, (note - 1) % 12, RATE) == pytest.approx(100, abs=12)
    assert metrics.cents(torch.zeros_like(raw), note, RATE) == metrics.NO_PITCH
    notes, others = (AudioModality.describe(load({"name": name, "limit": 24}).train, {"name": name}) for name in
                     ("strings", "membranes"))  # fmt: skip
    assert "cents" in AudioModality(notes).measures
    assert "cents" not in AudioModality(others).measures


def test_judges_do_not_see_where_a_clip_lies() -> None:
    """The same sound, early or late in its silence, has the same features."""
    places = [to_int16(fit_clip(TONE[:3000], RATE, RATE, 8192, place))[None] for place in (0.0, 0.3, 1.0)]
    found = [metrics.features(place, RATE, {}) for place in places]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_digits
def test_spoken_digits_are_split_by_takes() -> None:
    """Takes 0 to 4 of every speaker and digit are the test set; clips are of one level and lie at different places."""
    splits = load({"name": "spoken_digits"})
    assert (len(splits.train), len(splits.test)) == (2700, 300)
    assert torch.bincount(splits.test.label).tolist() == [30] * 10
    begins = [int(clip.nonzero()[0]) for clip in splits.train.raw[:200]]
    assert np.std(begins) > 500
    middle = [
        clip.nonzero()[:, 0] for clip in load({"name": "spoken_digits", "place": "middle", "limit": 50}).train.raw
    ]
    assert max(abs(int(heard[0] + heard[-1]) - 8191) for heard in middle) < 2 * 161  # to a frame of silence at each end
    both = load({"name": "spoken_digits", "by": "both", "limit": 500}).train
    assert len(both.classes) == 60
    assert both.classes[:2] == ("george 0", "george 1")
    assert torch.equal(both.label % 10, splits.train.label[:500])
    speakers = load({"name": "spoken_digits", "by": "speaker", "limit": 500}).train
    assert torch.equal(both.label // 10, speakers.label)
    judge = Judge(partial(metrics.vectors, rate=RATE), splits.train)
    assert judge.accuracy(splits.test) > 0.99


@needs_digits
def test_a_speaker_may_be_held_back() -> None:
    """All of one speaker's takes test, whom nothing else is of; a judge of the other five knows the digits, if less well."""
    splits = load({"name": "spoken_digits", "test_speaker": "theo"})
    assert (len(splits.train), len(splits.test)) == (2500, 500)
    by_speaker = load({"name": "spoken_digits", "by": "speaker"})
    assert by_speaker.train.label is not None
    theirs = by_speaker.train.raw[by_speaker.train.label == by_speaker.train.classes.index("theo")]
    assert not (splits.train.raw[:, None, ::64] == theirs[None, :20, ::64]).all(dim=-1).any()
    judge = Judge(partial(metrics.vectors, rate=RATE), splits.train)
    assert 0.5 < judge.accuracy(splits.test) < 0.99
    with pytest.raises(UsageError, match="did you mean 'theo'"):
        load({"name": "spoken_digits", "test_speaker": "teo"})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"name": "string"}, "did you mean 'strings'"), ({"name": "strings", "lenght": 4}, "did you mean 'length'"),
        ({"name": "strings", "rate": 10}, "between 1,000"), ({"name": "strings", "length": "long"}, "a whole number"),
        ({"name": "strings", "limit": 0}, "at least 1"), ({"name": "strings", "place": "left"}, "middle, random"),
        ({"name": "strings", "by": "speaker"}, "digit, speaker, both"),
        ({"name": "strings", "place": "middle"}, "no short recordings"),
        ({"name": "strings", "test_speaker": "theo"}, "data=spoken_digits"),
        ({"name": "spoken_digits", "by": "speaker", "test_speaker": "theo"}, "data.by=digit"),
        ({"name": "strings", "test_fraction": 0.2}, "reads no folder"),
        ({"name": "strings", "length": 8191}, "no multiple of 64"),
        ({"name": "spoken_digits", "root": "nowhere"}, "CMM_DATA"),
        ({"name": "strings", "representation": "stft"}, "data.representation.name=stft"),
    ],
)  # fmt: skip
def test_wrong_options_get_sentences(config: dict[str, Any], says: str) -> None:
    """Unknown names and values that do not fit."""
    with pytest.raises(UsageError, match=says):
        load(config)


def test_damaged_packs_are_refused(tmp_path: Path) -> None:
    """What is no archive, or lacks a part."""
    file = tmp_path / SPOKEN_DIGITS
    file.parent.mkdir(parents=True)
    for content in (b"", b"PK\x03\x04 and no more"):
        file.write_bytes(content)
        with pytest.raises(DataError, match="is damaged"):
            load({"name": "spoken_digits", "root": str(tmp_path)})
    np.savez(file, audio=np.zeros(8, np.int16))
    with pytest.raises(DataError, match="is damaged"):
        load({"name": "spoken_digits", "root": str(tmp_path)})


def adapter(**representation: Any) -> AudioModality:
    config = {"name": "strings", "length": 4096, "limit": 48, "representation": representation}
    return AudioModality(AudioModality.describe(load(config).train, config))


def test_variations_that_nobody_makes_are_refused() -> None:
    """A setting of augmentation is not accepted and ignored."""
    x = torch.zeros(2, 256)
    assert torch.equal(adapter(name="patches").augment(x, torch.zeros(2), {}), x)
    with pytest.raises(UsageError, match="varies no samples"):
        adapter(name="patches").augment(x, torch.zeros(2), {"flip": 0.5})


def test_generated_clips_are_never_broken_or_silent(tmp_path: Path) -> None:
    """Numbers that are none are an error when they are decoded; silence is one before any file is written."""
    sounds = adapter(name="patches")
    with pytest.raises(DataError, match="no numbers"):
        sounds.decode(torch.full((2, *sounds.spec.shape), float("nan")))
    raw = torch.stack([to_int16(TONE), torch.zeros(RATE, dtype=torch.int16)])
    with pytest.raises(DataError, match="1 of 2 generated clips are silent"):
        sounds.write(raw, ["a", "b"], tmp_path)
    with pytest.raises(DataError, match="1 of 2 generated clips are silent"):
        sounds.arrays(raw)
    assert list(tmp_path.iterdir()) == []


def test_files_hold_the_sound(tmp_path: Path) -> None:
    """A WAV of each clip, bit for bit, at its rate; a sheet, and the sound of each of its rows."""
    raw = to_int16(strings(0, torch.arange(3), RATE, 2048)[0])
    files = preview.write_files(raw, ["x/0", "1", "2"], RATE, tmp_path)
    read, rate = soundfile.read(files[0], dtype="int16")
    assert rate == RATE
    assert np.array_equal(read, raw[0].numpy())
    page = preview.sheet({"1 step": raw[:2], "real": raw}, RATE, tmp_path / "sheet")
    assert page.stat().st_size > 5000
    assert {file.name for file in tmp_path.glob("sheet*.wav")} == {"sheet-1-step.wav", "sheet-real.wav"}


@pytest.mark.smoke
def test_sounds_end_to_end(cmm: Callable[..., int]) -> None:
    """A run trains, draws, is scored, and its bundle draws the same; a solver follows its diagonal."""
    quick = ("train.samples=640", "net.channels=8", "data.limit=120", "train.preview_every=320")
    assert cmm("train", "experiment=audio/smoke", *quick, "name=mine") == 0
    assert list(Path("runs/mine/samples").glob("*.png"))
    assert cmm("sample", "run=runs/mine", "steps=2", "n=12", "out=some") == 0
    assert len(list(Path("some").glob("0*.wav"))) == 12
    assert cmm("sample", "bundle=runs/mine/bundle", "steps=2", "n=12", "out=again") == 0
    assert all(file.read_bytes() == Path("again", file.name).read_bytes() for file in Path("some").glob("0*.wav"))
    assert cmm("sample", "run=runs/mine", "steps=2", "n=12", "out=packed", "format=npz") == 0
    with np.load("packed/samples.npz") as arrays:
        assert arrays["x"].shape == (12, 4096)
        assert (int(arrays["rate"]), int(arrays["length"])) == (8000, 4096)
    assert cmm("sample", "run=runs/mine", "solver=unipc", "steps=4", "n=4", "out=solved") == 0
    assert cmm("evaluate", "run=runs/mine", "steps=[1]", "n=60") == 0
    rows = json.loads(Path("runs/mine/evaluation/metrics.json").read_text())["rows"]
    assert rows[0]["method"] == "real"
    assert rows[0]["frechet"] < rows[1]["frechet"]
    spec = load_bundle(Path("runs/mine/bundle")).card.spec
    assert (spec.shape, spec.settings["rate"]) == ((1, 32, 32), 8000)
