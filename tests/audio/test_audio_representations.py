r"""Representations are what they say: exact pairs of maps at the standard deviation asked for, and one that is not."""

import json
import os
import pytest
import torch

from cm_multimodal.errors import DataError
from cm_multimodal.modality import TensorSpec
from modalities.audio.adapter import AudioModality
from modalities.audio.clips import to_wave
from modalities.audio.data import SPOKEN_DIGITS, load
from modalities.audio.representations import ENVELOPE, SIGMA, STFT, LogMel, Patches, Representation, Wavelets, build
from modalities.audio.strings import strings
from pathlib import Path
from typing import Any

needs_digits = pytest.mark.skipif(
    not (Path(os.environ.get("CMM_DATA") or "data") / SPOKEN_DIGITS).is_file(), reason="there are no spoken digits here"
)
LENGTH = 4096
NOTES = strings(0, torch.arange(24), 8000, LENGTH)[0]
EXACT: list[Representation] = [
    STFT(LENGTH), STFT(LENGTH, 512, 128, 0.65), STFT(LENGTH, 128, 64, envelope=True),
    Patches(LENGTH), Patches(LENGTH, 32), Wavelets(LENGTH), Wavelets(LENGTH, 6),
]  # fmt: skip


def decibels(wave: torch.Tensor, other: torch.Tensor) -> float:
    return float(10 * torch.log10(wave.square().sum() / (wave - other).square().sum()))


@pytest.mark.parametrize("blank", EXACT, ids=lambda each: f"{each.name}-{each.shape[0]}")
def test_the_way_back_is_the_inverse(blank: Representation) -> None:
    """For notes, for noise, for a click at either end, and for the highest frequency that there is."""
    kind = blank.fitted(NOTES)
    clicks = torch.zeros(2, LENGTH)
    clicks[0, 0], clicks[1, -1] = 1, -1
    fastest = torch.ones(1, LENGTH)
    fastest[:, 1::2] = -1
    noise = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(0)) - 0.5
    for wave in (NOTES, noise, clicks, fastest):
        x = kind.encode(wave)
        assert x.shape[1:] == kind.shape
        assert (kind.decode(x) - wave).abs().max() < 1e-5
    x = blank.fitted(noise).encode(noise)
    x, envelope = (x[:, :2], x[:, 2:]) if isinstance(blank, STFT) else (x, x[:, :0])
    assert float(x.square().mean().sqrt()) == pytest.approx(SIGMA, rel=1e-3)
    assert not envelope.numel() or float(envelope.std()) == pytest.approx(ENVELOPE, rel=1e-3)


@pytest.mark.parametrize("blank", [*EXACT, LogMel(LENGTH)], ids=lambda each: f"{each.name}-{each.shape[0]}")
def test_a_representation_survives_json(blank: Representation) -> None:
    """What a bundle keeps of it makes the same one."""
    kind = blank.fitted(NOTES)
    assert build(json.loads(json.dumps(kind.settings()))) == kind


@needs_digits
def test_real_speech_survives() -> None:
    """At least 80 dB for the compressed transform; the table (`pytest -s`) has deviations and kurtosis."""
    speech = to_wave(load({"name": "spoken_digits"}).test.raw)
    length = speech.shape[1]
    for blank in (STFT(length), Patches(length), Wavelets(length), LogMel(length)):
        kind = blank.fitted(speech)
        x = kind.encode(speech)
        back, centred = kind.decode(x[:32]), x - x.mean()
        kurtosis = float(centred.pow(4).mean() / centred.square().mean() ** 2)
        snr = decibels(speech[:32], back)
        shape, figures = "x".join(map(str, kind.shape)), f"kurtosis {kurtosis:5.1f}, back at {snr:6.1f} dB"
        print(f"\n{kind.name:10s} {shape:12s} deviation {x.std():.3f}, {figures}", end="")
        assert float(x.std()) == pytest.approx(SIGMA, rel=0.01)
        assert not kind.exact or snr > 80
        assert not kind.exact or (speech[:32] - back).abs().max() < 1e-5


def test_the_envelope_says_how_loud_it_is_around_a_place() -> None:
    """It does not hear phases: a sound upside down has the same one; the way back does not listen to it."""
    kind = STFT(LENGTH, 128, 64, envelope=True).fitted(NOTES)
    noise = torch.randn(3, LENGTH, generator=torch.Generator().manual_seed(0)) / 4
    there, turned = kind.encode(noise), kind.encode(-noise)
    assert torch.allclose(there[:, :2], -turned[:, :2], atol=1e-5)
    assert torch.allclose(there[:, 2], turned[:, 2], atol=1e-5)
    quieter = kind.encode(noise / 4)
    assert bool((quieter[:, 2] < there[:, 2]).all())
    deaf = there.clone()
    deaf[:, 2] = 0
    assert torch.equal(kind.decode(deaf), kind.decode(there))


def test_sound_is_found_again_from_log_mel() -> None:
    """The spectrogram of what Griffin and Lim's iteration finds is near the one that it was found for."""
    kind = LogMel(LENGTH, mels=24, n_fft=256, hop=64).fitted(NOTES)
    x = kind.encode(NOTES)
    again = kind.encode(kind.decode(x))
    loud = x > x.mean()
    assert kind.decode(x).shape == NOTES.shape
    assert float((again - x)[loud].square().mean().sqrt()) < 0.2 * SIGMA


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "stfd", "length": 4096}, "did you mean 'stft'"), ({"length": 4096}, "no representation 'None'"),
        ({"name": "stft", "length": 4096, "hops": 2}, "did you mean 'hop'"),
        ({"name": "stft", "length": 100}, "no multiple of"),
        ({"name": "stft", "length": 4096, "hop": 0}, "even"), ({"name": "stft", "length": 4096, "power": "x"}, "power=x"),
        ({"name": "stft", "length": 4096, "gain": 0.0}, "above 0"),
        ({"name": "stft", "length": 4096, "gains": [1.0]}, "128 numbers"), ({"name": "stft"}, "length"),
        ({"name": "wavelets", "length": 4096, "levels": 40}, "between 1 and 12"),
        ({"name": "patches", "length": 1 << 40}, "too large"),
        ({"name": "log_mel", "length": 4096, "mels": 4000}, "quarter"),
    ],
)  # fmt: skip
def test_what_is_no_representation_is_said(settings: dict[str, Any], says: str) -> None:
    """A sentence for each, and in a bundle an error of what lies in the file."""
    with pytest.raises(ValueError, match=says):
        build(settings)
    with pytest.raises(DataError, match="no representation of sounds"):
        AudioModality(TensorSpec((2, 128, 64), 0.5, settings={"rate": 8000, "representation": settings}))


def test_a_bundle_without_settings_is_refused() -> None:
    """So is one whose shape is not that of its representation."""
    fitting = {"name": "stft", "length": 4096}
    for settings in (
        {},
        {"rate": 10**9, "representation": fitting},
        {"rate": 8000, "representation": {"name": "stft", "length": 8192}},
    ):
        with pytest.raises(DataError, match="no representation of sounds"):
            AudioModality(TensorSpec((2, 128, 64), 0.5, settings=settings))
