r"""Features for distances between sets of clips, and what the classifier of the accuracy score sees.

Both see log-mel spectrograms of their own, whatever the model's representation, of clips that are turned so that half of
their energy lies before the middle, down to 43 dB below their loudest place: where a clip lies in its silence, and what
hums in it, means nothing. Features say how the energy of each band
is spread over a clip: the mean, the deviation and the mean change from frame to frame. They are no learned ones, so that a
distance on them is nobody's "FAD"; that is one on the embeddings of VGGish, which hears the clips as they are (`vggish.py`).
"""

__all__ = ["active", "centred", "cents", "extractor", "features", "level", "log_mel", "vectors"]

import librosa
import numpy as np
import torch

from cm_multimodal.errors import UsageError, nearest
from collections.abc import Mapping
from torch import Tensor
from typing import Any

from . import vggish
from .clips import FRAME, QUIET, to_wave
from .representations import LogMel
from .strings import fundamental

EXTRACTORS = ("bands", "vggish")
MELS, FRAMES, CHUNK = 32, 32, 256
LOW, HIGH, PITCH_FRAME = 90.0, 550.0, 1024  # an octave more than the notes have, in hertz; samples
NO_PITCH = 10_000.0  # cents
RANGE = 5.0  # of the logarithms: 43 dB


def centred(raw: Tensor) -> Tensor:
    """Returns clips, with shape (N, T), turned so that half of their energy lies before the middle."""
    energy = raw.double().square().cumsum(dim=1)
    middle = (energy < energy[:, -1:] / 2).sum(dim=1, keepdim=True)
    place = torch.arange(raw.shape[1]) + middle - raw.shape[1] // 2
    return raw.gather(1, place % raw.shape[1])


def log_mel(raw: Tensor, rate: int) -> Tensor:
    """Returns the logarithm of mel amplitudes, with shape (N, 32, 32), of clips with shape (N, T) in int16."""
    hop = max(raw.shape[1] // FRAMES // 2 * 2, 4)
    wave = to_wave(raw[:, : hop * FRAMES])
    spectrum = LogMel(wave.shape[1], rate, MELS, max(2 * hop, 4 * MELS), hop)
    return torch.cat([spectrum.encode(part)[:, 0] for part in wave.split(CHUNK)])


def features(raw: Tensor, rate: int, config: Mapping[str, Any]) -> Tensor:
    """Returns features, with shape (N, 96), or embeddings, with shape (N * patches, 128), in float64.

    Arguments:
        raw: Clips with shape (N, T), in int16.
        rate: The samples a second.
        config: `features`: 'bands' or 'vggish'; of the latter `feature_weights`, the file of its weights, and `root`.
    """
    name = _name(config)
    if name == "vggish":
        return vggish.embeddings(raw, rate, vggish.weights_of(config))
    mel = _heard(raw, rate).double()
    return torch.cat([mel.mean(dim=2), mel.std(dim=2), mel.diff(dim=2).abs().mean(dim=2)], dim=1)


def extractor(config: Mapping[str, Any]) -> str:
    """Returns the name of the features, with a checksum of the file that they come from."""
    name = _name(config)
    return f"{name}, weights {vggish.weights_of(config).digest}" if name == "vggish" else name


def _name(config: Mapping[str, Any]) -> str:
    name = str(config.get("features") or "bands")
    if name not in EXTRACTORS:
        raise UsageError(f"There are no features '{name}'; {nearest(name, EXTRACTORS)}")
    return name


def vectors(raw: Tensor, rate: int) -> np.ndarray:
    """Returns what can be heard of clips, with shape (N, 1024)."""
    return _heard(raw, rate).flatten(1).numpy()


def level(raw: Tensor, real: Tensor) -> float:
    """Returns the mean level (root mean square) of clips as a share of that of real ones."""
    sizes = [
        torch.cat([to_wave(some).square().mean(dim=1).sqrt() for some in part.split(CHUNK)]) for part in (raw, real)
    ]
    return sizes[0].mean().item() / max(sizes[1].mean().item(), 1e-9)


def active(raw: Tensor, real: Tensor, rate: int) -> float:
    """Returns the share of frames that can be heard, at most 40 dB below a clip's loudest one, beside that of real clips."""
    shares = [torch.cat([_active(to_wave(some), rate) for some in part.split(CHUNK)]).mean() for part in (raw, real)]
    return float(shares[0] / shares[1].clamp_min(1e-9))


def _active(wave: Tensor, rate: int) -> Tensor:
    frame = min(max(round(FRAME * rate), 1), wave.shape[1])
    frames = wave.unfold(1, frame, frame).square().mean(dim=2).sqrt()
    return (frames > QUIET * frames.amax(dim=1, keepdim=True).clamp_min(1e-9)).double().mean(dim=1)


def cents(raw: Tensor, note: Tensor, rate: int) -> float:
    """Returns the median error of the pitch of notes, in hundredths of a semitone; a clip without a pitch is 10,000 off.

    The pitch is that of librosa's pYIN, the median over the frames that are voiced.

    Arguments:
        raw: Clips with shape (N, T), in int16.
        note: Their notes, counted from C3, with shape (N,).
        rate: The samples a second.
    """
    errors = []
    for wave, pitch in zip(to_wave(raw).numpy(), fundamental(note).tolist(), strict=True):
        found, voiced, _ = librosa.pyin(wave, fmin=LOW, fmax=HIGH, sr=rate, frame_length=PITCH_FRAME)
        errors.append(abs(1200 * np.log2(np.median(found[voiced]) / pitch)) if voiced.any() else NO_PITCH)
    return float(np.median(errors))


def _heard(raw: Tensor, rate: int) -> Tensor:
    """Returns what can be heard of clips, with shape (N, 32, 32): 0 in the loudest place."""
    mel = torch.cat([log_mel(centred(part), rate) for part in raw.split(CHUNK)])
    return (mel - mel.amax(dim=(1, 2), keepdim=True)).clamp_min(-RANGE)
