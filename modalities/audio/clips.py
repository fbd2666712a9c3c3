r"""Clips: any recording as a waveform of one rate, one channel, one length and one level.

Channels are averaged, and the rate is changed by a windowed sinc. Silence at both ends, 40 dB below the loudest part, is cut
off. What is left, and is no mere click, is brought to one level (its root mean square; the peak stays below 1), and its
loudest part is taken where it is too long; where it is too short, it is placed among silence. Or a recording longer than two
clips is cut into clips, without those that are quiet beside its loudest frame.
"""

__all__ = [
    "FRAME",
    "LEVEL",
    "QUIET",
    "Silent",
    "cut_clips",
    "fit_clip",
    "long_clips",
    "loudest_frame",
    "one_channel",
    "resampled",
    "stored",
    "to_int16",
    "to_wave",
]

import torch

from collections.abc import Iterable, Iterator
from fractions import Fraction
from torch import Tensor
from torchaudio.functional import resample

LEVEL = 0.07  # of the active part: 23 dB below full scale
PEAK = 0.99
QUIET = 0.01  # of the loudest frame: 40 dB below it
FRAME = 0.02  # seconds
LEAST_SOUND = 0.05  # of a clip
LEAST_LEVEL = 0.05  # of the loudest frame of a recording: 26 dB below it
LEAST_RATE, MOST_RATE = 100, 2_000_000  # samples a second
MOST_PHASES = 2000
FULL = 32767


class Silent(ValueError):
    """There is nothing to hear."""


def to_int16(wave: Tensor) -> Tensor:
    """Returns waveforms in [-1, 1] as 16-bit numbers."""
    return (wave.clamp(-1, 1) * FULL).round().to(torch.int16)


def to_wave(raw: Tensor) -> Tensor:
    """Returns 16-bit numbers as waveforms in [-1, 1], in float32."""
    return raw.float() / FULL


def fit_clip(wave: Tensor, rate: int, wanted_rate: int, length: int, place: float, level: bool = True) -> Tensor:
    """Returns a clip, with shape (length,), in float32.

    Arguments:
        wave: A recording, with shape (channels, T) or (T,).
        rate: Its samples a second.
        wanted_rate: The clip's samples a second.
        length: The clip's samples.
        place: Where a short clip lies among silence: from 0, at the begin, to 1, at the end.
        level: Whether it is brought to one level; else it is as loud as it was recorded.

    Raises:
        Silent: No sample differs from zero.
        ValueError: It is empty, holds numbers that are none, or too little sound.
    """
    return _placed(_sound(wave, rate, wanted_rate), length, place, level)


def cut_clips(wave: Tensor, rate: int, wanted_rate: int, length: int, place: float, level: bool = True) -> list[Tensor]:
    """Returns the clips of a recording, each with shape (length,), in float32.

    A recording of at most two clips' length is one clip (`fit_clip`, which has the arguments and the errors); a longer one
    is cut (`long_clips`).
    """
    wave = _sound(wave, rate, wanted_rate)
    if len(wave) <= 2 * length:
        return [_placed(wave, length, place, level)]
    return list(long_clips([wave], loudest_frame(wave, wanted_rate), wanted_rate, wanted_rate, length, level))


def long_clips(
    parts: Iterable[Tensor], loudest: float, rate: int, wanted_rate: int, length: int, level: bool = True
) -> Iterator[Tensor]:
    """Yields the clips that a long recording is cut into, one behind the other, but for quiet ones.

    Arguments:
        parts: The recording in one channel, part by part.
        loudest: The level of its loudest frame; clips 26 dB below it are left out.
        rate: Its samples a second.
        wanted_rate: The clips' samples a second.
        length: The clips' samples.
        level: Whether they are brought to one level.
    """
    rest = torch.zeros(0)
    for part in parts:
        wave = torch.cat([rest, resampled(part, rate, wanted_rate)])
        end = len(wave) // length * length
        clips, rest = wave[:end].reshape(-1, length), wave[end:]
        for clip in clips[clips.square().mean(dim=1).sqrt() > LEAST_LEVEL * loudest]:
            yield _levelled(clip) if level else clip


def one_channel(wave: Tensor) -> Tensor:
    """Returns a recording, with shape (channels, T) or (T,), as the mean of its channels, in float32.

    Raises:
        ValueError: It is empty, or holds numbers that are none.
    """
    wave = wave.float().mean(dim=0) if wave.ndim > 1 else wave.float()
    if not wave.numel():
        raise ValueError("it has no samples")
    if not wave.isfinite().all():
        raise ValueError("it holds samples that are no numbers")
    return wave


def loudest_frame(wave: Tensor, rate: int) -> float:
    """Returns the largest root mean square of the frames of a waveform."""
    return float(_frame_sizes(wave, _frame(rate)).max())


def stored(wave: Tensor) -> Tensor:
    """Returns a clip as 16-bit numbers.

    Raises:
        Silent: None of them differs from zero.
    """
    raw = to_int16(wave)
    if not raw.any():
        raise Silent("it is too quiet for 16 bits")
    return raw


def _sound(wave: Tensor, rate: int, wanted_rate: int) -> Tensor:
    """Returns a recording in one channel, of the wanted rate, without the silence at its ends."""
    return _trimmed(resampled(one_channel(wave), rate, wanted_rate), _frame(wanted_rate))


def resampled(wave: Tensor, rate: int, wanted_rate: int) -> Tensor:
    """Returns waveforms, with shape (..., T), at a rate, or one that sounds as it: an odd ratio's filter is huge."""
    if rate == wanted_rate:
        return wave
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise ValueError(f"{rate:,} samples a second are no rate of sounds")
    ratio = Fraction(wanted_rate, rate).limit_denominator(MOST_PHASES)
    return resample(wave, ratio.denominator, ratio.numerator)


def _placed(wave: Tensor, length: int, place: float, level: bool) -> Tensor:
    if len(wave) < LEAST_SOUND * length:
        raise ValueError(f"{len(wave)} samples of sound are too few for a clip of {length}")
    wave = _levelled(wave) if level else wave
    if len(wave) > length:
        return _loudest(wave, length)
    left = round(place * (length - len(wave)))
    return torch.nn.functional.pad(wave, (left, length - len(wave) - left))


def _levelled(wave: Tensor) -> Tensor:
    return wave * min(LEVEL / wave.square().mean().sqrt().item(), PEAK / wave.abs().max().item())


def _frame(rate: int) -> int:
    return max(round(FRAME * rate), 1)


def _frame_sizes(wave: Tensor, frame: int) -> Tensor:
    return torch.nn.functional.pad(wave, (0, -len(wave) % frame)).reshape(-1, frame).square().mean(dim=1).sqrt()


def _trimmed(wave: Tensor, frame: int) -> Tensor:
    size = _frame_sizes(wave, frame)
    if not size.max() > 0:
        raise Silent("it is silent")
    heard = (size > QUIET * size.max()).nonzero()
    return wave[int(heard[0]) * frame : (int(heard[-1]) + 1) * frame]


def _loudest(wave: Tensor, length: int) -> Tensor:
    """Returns the part with the largest root mean square, to a quarter of its length."""
    parts = wave.unfold(0, length, max(length // 4, 1))
    return parts[parts.square().mean(dim=1).argmax()]
