r"""A folder of recordings becomes clips; what cannot be used is skipped, counted and named, or refused with a sentence."""

import json
import numpy as np
import pytest
import signal
import soundfile
import torch
import zipfile

from cm_multimodal import signals
from cm_multimodal.errors import DataError, Interrupted, UsageError
from cm_multimodal.modality import Splits
from collections.abc import Callable
from modalities.audio import recordings
from modalities.audio.clips import LEVEL, to_wave
from modalities.audio.data import load
from pathlib import Path
from typing import Any

RATE, LENGTH = 8000, 4000
FORM = {"name": "folder", "rate": RATE, "length": LENGTH, "representation": {"name": "patches"}}
KINDS = {"wav": "PCM_16", "flac": "PCM_24", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def tone(pitch: float, seconds: float, rate: int) -> np.ndarray:
    return 0.2 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def save(file: Path, sound: np.ndarray, rate: int = RATE, subtype: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, sound, rate, subtype=subtype)


def read(folder: Path, **options: Any) -> Splits:
    return load({**FORM, "folder": str(folder), **options})


def pitch(raw: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(to_wave(raw), n=8 * LENGTH).abs()
    return float(spectrum.argmax(dim=-1)) * RATE / (8 * LENGTH)


def test_kinds_rates_channels_and_depths_become_one(tmp_path: Path) -> None:
    """WAV, FLAC, OGG and MP3, three rates, mono and stereo: each class keeps its pitch, at one level."""
    for number, (suffix, subtype) in enumerate(KINDS.items()):
        for name, hertz in (("high", 1200), ("low", 300)):
            rate = (8000, 22050, 44100)[number % 3]
            sound = tone(hertz, 0.5, rate)
            save(tmp_path / name / f"{number}.{suffix}", np.stack([sound, 0.5 * sound], 1) if number % 2 else sound,
                 rate, subtype)  # fmt: skip
    splits = read(tmp_path, test_fraction=0.0)
    assert splits.train.classes == ("high", "low")
    assert (splits.train.raw.dtype, splits.train.raw.shape) == (torch.int16, (8, LENGTH))
    assert not splits.train.skipped
    assert [round(pitch(clip), -1) for clip in splits.train.raw] == [1200.0] * 4 + [300.0] * 4
    assert to_wave(splits.train.raw).square().mean(1).sqrt().numpy() == pytest.approx(LEVEL, rel=0.1)


def test_a_long_recording_is_many_clips_of_one_side(tmp_path: Path) -> None:
    """It is read in parts, its silence is left out, and all of it is learned from or all held back."""
    loud, silent = tone(440, 3.0, RATE), np.zeros(3 * RATE)
    for number in range(6):
        save(tmp_path / f"{number}.wav", np.concatenate([loud, silent, loud]))
    splits = read(tmp_path, test_fraction=0.3)
    assert len(splits.train) + len(splits.test) == 6 * 12
    assert len(splits.test) % 12 == 0
    assert len(splits.test) > 0
    assert (to_wave(splits.train.raw).square().mean(1).sqrt() > 0.5 * LEVEL).all()


def test_levels_are_kept_if_they_are_to_be(tmp_path: Path) -> None:
    """A quiet recording is as loud as a loud one, or as quiet as it was."""
    for name, scale in (("loud", 1.0), ("quiet", 0.1)):
        save(tmp_path / f"{name}.wav", scale * tone(440, 0.5, RATE))
    for level, ratio in (("even", 1.0), ("kept", 0.1)):
        loud, quiet = to_wave(read(tmp_path, level=level, test_fraction=0.0).train.raw).square().mean(1).sqrt()
        assert float(quiet / loud) == pytest.approx(ratio, rel=0.02)


def test_parts_join_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of seconds read at a time bounds the memory, not what comes out."""
    save(tmp_path / "a.wav", tone(440, 9.0, RATE))
    whole = read(tmp_path, test_fraction=0.0, length=4096).train.raw
    monkeypatch.setattr(recordings, "BLOCK", 3)
    parts = read(tmp_path, test_fraction=0.0, length=4096).train.raw
    assert whole.shape == parts.shape == (17, 4096)
    assert torch.equal(whole, parts)


def test_silence_is_that_of_the_whole_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of hiss between two of sound are no clips, though each part of them is as loud as its loudest frame."""
    hiss = 0.002 * np.random.RandomState(0).randn(12 * RATE)
    save(tmp_path / "a.wav", np.concatenate([tone(440, 4.0, RATE), hiss, tone(440, 4.0, RATE)]))
    monkeypatch.setattr(recordings, "BLOCK", 3)
    train = read(tmp_path, test_fraction=0.0).train
    assert len(train) == 16
    assert all(round(pitch(clip), -1) == 440 for clip in train.raw)
    broken = np.concatenate([tone(440, 6.0, RATE), np.full(RATE, np.nan), tone(440, 6.0, RATE)])
    save(tmp_path / "b.wav", broken, subtype="FLOAT")
    again = read(tmp_path, test_fraction=0.0).train
    assert [(one.path, one.reason) for one in again.skipped] == [("b.wav", "it holds samples that are no numbers")]
    assert torch.equal(again.raw, train.raw)


def test_a_wish_to_stop_is_no_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the reading, whatever decoder it falls into."""
    for number in range(3):
        save(tmp_path / f"{number}.wav", tone(440, 0.5, RATE))
    usual = recordings.cut_clips

    def stopped(*how: Any) -> list[torch.Tensor]:
        signal.raise_signal(signal.SIGTERM)
        return usual(*how)

    monkeypatch.setattr(recordings, "cut_clips", stopped)
    with pytest.raises(Interrupted):
        read(tmp_path, test_fraction=0.0)
    assert not signals.received()


def test_a_wav_that_is_cut_short_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    """Whatever its header claims."""
    save(tmp_path / "a.wav", tone(440, 20.0, RATE))
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[: len(whole) // 2])
    assert len(read(tmp_path, test_fraction=0.0).train) == 19


def test_a_folder_with_nothing_held_back_trains_and_one_class_is_scored(
    tmp_path: Path, cmm: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its previews show no real samples; a set of one class has no accuracy score, and all the others."""
    for number in range(30):
        save(tmp_path / "mine" / "voices" / f"{number}.wav", tone(300 + 10 * number, 0.5, RATE))
    quick = (
        "data.length=2048",
        "net.channels=8",
        "net.multipliers=[1,2]",
        "train.samples=64",
        "train.preview_every=64",
    )
    words = ("train", "experiment=audio/sounds", f"data.folder={tmp_path / 'mine'}", *quick)
    assert cmm(*words, "data.test_fraction=0.0", "name=none") == 0
    assert cmm(*words, "data.test_fraction=0.4", "name=some") == 0
    assert cmm("evaluate", "run=runs/some", "steps=[1]", "seeds=[0]", "n=12", "device=cpu") == 0
    real, drawn = json.loads(Path("runs/some/evaluation/metrics.json").read_text())["rows"]
    assert real["accuracy"] is drawn["accuracy"] is None
    assert drawn["also"].keys() == {"diversity", "memorised", "level", "active"}


def test_classes_stand_in_names_too(tmp_path: Path) -> None:
    """A pattern says where; names that do not fit are counted."""
    for name in ("7_anna_0", "7_ben_1", "3_anna_0", "noise"):
        save(tmp_path / f"{name}.wav", tone(440, 0.5, RATE))
    train = read(tmp_path, pattern="{class}_*_?", test_fraction=0.0).train
    assert train.classes == ("3", "7")
    assert train.label.tolist() == [0, 1, 1]
    assert [one.path for one in train.skipped] == ["noise.wav"]
    assert read(tmp_path, pattern="*_{class}_*", test_fraction=0.0).train.classes == ("anna", "ben")


def test_an_archive_is_a_folder(tmp_path: Path) -> None:
    """The recordings of a .zip give the clips of its folder."""
    for name in ("a/1.wav", "b/2.flac"):
        save(tmp_path / "sounds" / name, tone(440, 0.5, RATE))
    with zipfile.ZipFile(tmp_path / "sounds.zip", "w") as archive:
        for file in sorted((tmp_path / "sounds").rglob("*.*")):
            archive.write(file, file.relative_to(tmp_path / "sounds"))
    folder, packed = (read(tmp_path / name, test_fraction=0.0).train for name in ("sounds", "sounds.zip"))
    assert torch.equal(folder.raw, packed.raw)
    assert folder.classes == packed.classes == ("a", "b")


def spoil(folder: Path) -> dict[str, str]:
    """Writes recordings that nothing can be learned from; returns the reasons that are expected."""
    folder.mkdir(exist_ok=True)
    save(folder / "silent.wav", np.zeros(RATE))
    save(folder / "none.wav", np.zeros(0))
    save(folder / "nan.wav", np.full(RATE, np.nan), subtype="FLOAT")
    save(folder / "click.wav", np.concatenate([np.zeros(3000), np.ones(10), np.zeros(3000)]))
    (folder / "zero.flac").write_bytes(b"")
    (folder / "text.mp3").write_text("This is no sound at all. " * 40)
    (folder / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    save(folder / "cut.flac", np.random.RandomState(0).randn(20 * RATE) / 9)
    whole = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    save(folder / "hours.mp3", tone(440, 20, RATE))
    whole = (folder / "hours.mp3").read_bytes()
    (folder / "hours.mp3").write_bytes(whole[: len(whole) // 2])
    return {
        "silent.wav": "it is silent", "none.wav": "no samples", "nan.wav": "no numbers", "click.wav": "too few",
        "zero.flac": "empty", "text.mp3": "not a sound", "phone.m4a": "convert it to WAV", "cut.flac": "lost sync",
        "hours.mp3": "its header promises",
    }  # fmt: skip


def test_what_cannot_be_used_is_skipped_and_named(tmp_path: Path) -> None:
    """Beside good ones, each bad recording is listed with its reason, and the good ones are learned from."""
    expected = spoil(tmp_path)
    for number in range(3):
        save(tmp_path / f"good{number}.wav", tone(440, 0.5, RATE))
    train = read(tmp_path, test_fraction=0.0).train
    found = {one.path: one.reason for one in train.skipped}
    assert len(train) == 3
    assert found.keys() == expected.keys()
    for name, says in expected.items():
        assert says in found[name], name


def test_nothing_usable_is_refused(tmp_path: Path) -> None:
    """If all are bad, a sentence says so and names the first."""
    spoil(tmp_path / "bad")
    with pytest.raises(DataError, match=r"none of 9 recordings can be learned from. '.*': "):
        read(tmp_path / "bad", test_fraction=0.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no sound: looked for \.wav"):
        read(tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"folder": None}, "Which folder"), ({"folder": "nowhere"}, "There is no folder 'nowhere'"),
        ({"pattern": "x_*"}, "where the class stands"), ({"pattern": "{class}_7"}, "fits none of the 1 names"),
        ({"test_fraction": 1.5}, "is no share"), ({"level": "loud"}, "even, kept"), ({"name": "strings"}, "reads no folder"),
    ],
)  # fmt: skip
def test_wrong_options_get_sentences(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Options that do not fit, and folders that are not there."""
    save(tmp_path / "a.wav", tone(440, 0.5, RATE))
    with pytest.raises(UsageError, match=says):
        load({**FORM, "folder": str(tmp_path), **options})
