r"""Features for distances between sets of clips, and the classifier behind the accuracy score.

Both see log-mel spectrograms of their own, whatever the model's representation, of clips that are turned so that half of
their energy lies before the middle, down to 43 dB below their loudest place: where a clip lies in its silence, and what
hums in it, means nothing. Features say how the energy of each band
is spread over a clip: the mean, the deviation and the mean change from frame to frame. They are no learned ones, so that a
distance on them is nobody's "FAD".
"""

__all__ = ["accuracy", "centred", "features", "log_mel"]

import numpy as np
import torch

from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.modality import Dataset
from collections.abc import Mapping
from sklearn.svm import SVC
from torch import Tensor
from typing import Any

from .clips import to_wave
from .representations import LogMel

EXTRACTORS = ("bands",)
MELS, FRAMES, CHUNK = 32, 32, 256
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
    spectrum = LogMel(wave.shape[1], rate, MELS, 2 * hop, hop)
    return torch.cat([spectrum.encode(part)[:, 0] for part in wave.split(CHUNK)])


def features(raw: Tensor, rate: int, config: Mapping[str, Any]) -> Tensor:
    """Returns features, with shape (N, 96), in float64.

    Arguments:
        raw: Clips with shape (N, T), in int16.
        rate: The samples a second.
        config: `features`: 'bands', the only ones yet.
    """
    name = config.get("features") or "bands"
    if name not in EXTRACTORS:
        raise UsageError(f"There are no features '{name}'; {nearest(str(name), EXTRACTORS)}")
    mel = _heard(raw, rate).double()
    return torch.cat([mel.mean(dim=2), mel.std(dim=2), mel.diff(dim=2).abs().mean(dim=2)], dim=1)


def accuracy(train: Dataset, test: Dataset, rate: int) -> float:
    """Returns the accuracy on `test` of a support-vector classifier (C = 10) fitted to `train`."""
    if train.label is None or test.label is None:
        raise UsageError("The accuracy score needs classes, and this data set has none.")
    judge = SVC(C=10).fit(_flat(train, rate), train.label.numpy())
    return float(judge.score(_flat(test, rate), test.label.numpy()))


def _flat(part: Dataset, rate: int) -> np.ndarray:
    return _heard(part.raw, rate).flatten(1).numpy()


def _heard(raw: Tensor, rate: int) -> Tensor:
    """Returns what can be heard of clips, with shape (N, 32, 32): 0 in the loudest place."""
    mel = log_mel(centred(raw), rate)
    return (mel - mel.amax(dim=(1, 2), keepdim=True)).clamp_min(-RANGE)
