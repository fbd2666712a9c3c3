r"""Clips: any recording as a waveform of one rate, one channel, one length and one level.

Channels are averaged, and the rate is changed by a windowed sinc. Silence at both ends, 40 dB below the loudest part, is cut
off. What is left, and is no mere click, is brought to one level (its root mean square; the peak stays below 1), and its
loudest part is taken where it is too long; where it is too short, it is placed at random among silence, so that no place
means anything.
"""

__all__ = ["FRAME", "LEVEL", "QUIET", "Silent", "cut_clips", "fit_clip", "to_int16", "to_wave"]

import torch

from torch import Tensor
from torchaudio.functional import resample

LEVEL = 0.07  # of the active part: 23 dB below full scale
PEAK = 0.99
QUIET = 0.01  # of the loudest frame: 40 dB below it
FRAME = 0.02  # seconds
LEAST_SOUND = 0.05  # of a clip
LEAST_LEVEL = 0.1  # of the loudest clip of a recording: 20 dB below it
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

    A recording of at most two clips' length is one clip (`fit_clip`, which has the arguments and the errors). A longer one
    is cut into clips, and those 20 dB below the loudest one are left out.
    """
    wave = _sound(wave, rate, wanted_rate)
    if len(wave) <= 2 * length:
        return [_placed(wave, length, place, level)]
    parts = wave.unfold(0, length, length)
    size = parts.square().mean(dim=1).sqrt()
    heard = parts[size > LEAST_LEVEL * size.max()]
    return [_levelled(part) if level else part for part in heard]


def _sound(wave: Tensor, rate: int, wanted_rate: int) -> Tensor:
    """Returns a recording in one channel, of the wanted rate, without the silence at its ends."""
    wave = wave.float().mean(dim=0) if wave.ndim > 1 else wave.float()
    if not wave.numel():
        raise ValueError("it has no samples")
    if not wave.isfinite().all():
        raise ValueError("it holds samples that are no numbers")
    wave = resample(wave, rate, wanted_rate) if rate != wanted_rate else wave
    return _trimmed(wave, max(round(FRAME * wanted_rate), 1))


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


def _trimmed(wave: Tensor, frame: int) -> Tensor:
    frames = torch.nn.functional.pad(wave, (0, -len(wave) % frame)).reshape(-1, frame)
    size = frames.square().mean(dim=1).sqrt()
    if not size.max() > 0:
        raise Silent("it is silent")
    heard = (size > QUIET * size.max()).nonzero()
    return wave[int(heard[0]) * frame : (int(heard[-1]) + 1) * frame]


def _loudest(wave: Tensor, length: int) -> Tensor:
    """Returns the part with the largest root mean square, to a quarter of its length."""
    parts = wave.unfold(0, length, max(length // 4, 1))
    return parts[parts.square().mean(dim=1).argmax()]
