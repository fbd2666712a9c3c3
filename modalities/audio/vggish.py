r"""VGGish: the embeddings of the Fréchet audio distance (FAD), for whoever has the published weights as a file.

Of a waveform of 16,000 samples a second, frames of 25 ms begin every 10 ms. Each is windowed (Hann, periodic), filled up to
512 samples and transformed; its amplitudes are weighed by 64 triangles,

.. math::
    x = \log(|X| M + 0.01), \qquad M_{fi} = \max(0, \min(\frac{m_f - a_i}{c_i - a_i}, \frac{b_i - m_f}{b_i - c_i})),
    \qquad m_f = 1127 \ln(1 + f / 700),

whose corners a, c, b lie evenly on the mel scale from 125 to 7,500 Hz: they are straight in mel, where those of most
libraries are straight in hertz. 96 frames are a patch of 0.96 seconds. Patches do not overlap, and frames too few for
another one are left out; a clip that is shorter than a patch (15,600 samples) is followed by silence.

A patch goes through six 3x3 convolutions of 64, 128, 256, 256, 512 and 512 channels, halved after the first, second, fourth
and sixth, and three linear layers of 4,096, 4,096 and 128. All are rectified but the last: an embedding is what comes out of
it, as the published network and the usual tools for FAD have it, before whitening and 8-bit rounding. (The public port to
PyTorch rectifies the last, too.) Every patch is a row of its own: FAD takes those of all clips as one Gaussian.

Numbers of others were made alike only if their patches do not overlap, and their clips were as loud and of the same rate.

References:
    | CNN Architectures for Large-Scale Audio Classification (Hershey et al., 2017)
    | Fréchet Audio Distance (Kilgour et al., 2019)
"""

__all__ = ["SHAPES", "Weights", "embed", "embeddings", "patches", "weights_of"]

import functools
import math
import safetensors.torch
import torch

from cm_multimodal.errors import DataError, Interrupted
from cm_multimodal.files import digest
from cm_multimodal.listing import feature_file, reason_of
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor
from torch.nn import functional as F
from typing import Any

from .clips import resampled, to_wave

RATE, WINDOW, HOP, FFT = 16_000, 400, 160, 512
MELS, LOW, HIGH, OFFSET = 64, 125.0, 7500.0, 0.01
FRAMES = 96
PATCH = WINDOW + (FRAMES - 1) * HOP  # samples
CHANNELS = {0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512)}
HALVED = ("features.0", "features.3", "features.8", "features.13")
CONVOLUTIONS: dict[str, tuple[int, ...]] = {f"features.{place}": (*sizes, 3, 3) for place, sizes in CHANNELS.items()}
LINEAR = {"embeddings.0": (4096, 12_288), "embeddings.2": (4096, 4096), "embeddings.4": (128, 4096)}
SHAPES = {
    f"{layer}.{part}": sizes[:dimensions]
    for layer, sizes in {**CONVOLUTIONS, **LINEAR}.items()
    for part, dimensions in (("weight", 4), ("bias", 1))
}
FILE, MOST_BYTES = "vggish.pth", 1 << 30
CLIPS, BATCH = 16, 64


@dataclass(frozen=True)
class Weights:
    """The network's weights, and the first 12 digits of the SHA-256 of the file that they come from."""

    tensors: Mapping[str, Tensor]
    digest: str


def embeddings(raw: Tensor, rate: int, weights: Weights) -> Tensor:
    """Returns the embeddings of all patches of clips, with shape (N, T) in int16: (N * patches, 128), in float64."""
    parts = (patches(resampled(to_wave(part), rate, RATE)).flatten(0, 1) for part in raw.split(CLIPS))
    return torch.cat([embed(some, weights) for part in parts for some in part.split(BATCH)]).double()


def patches(wave: Tensor) -> Tensor:
    """Returns the patches of waveforms, with shape (N, patches, 96, 64), of 16,000 samples a second."""
    wave = F.pad(wave, (0, max(PATCH - wave.shape[1], 0)))
    frames = wave.unfold(1, WINDOW, HOP) * torch.hann_window(WINDOW, dtype=wave.dtype)
    x = (torch.fft.rfft(frames, FFT).abs() @ _triangles().to(wave.dtype) + OFFSET).log()
    count = x.shape[1] // FRAMES
    return x[:, : count * FRAMES].unflatten(1, (count, FRAMES))


def _triangles() -> Tensor:
    low, high = (1127 * math.log1p(hertz / 700) for hertz in (LOW, HIGH))
    corner = torch.linspace(low, high, MELS + 2, dtype=torch.float64)
    place = 1127 * torch.log1p(torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64) / 700)[:, None]
    return torch.minimum(place - corner[:-2], corner[2:] - place).clamp_min(0) / (corner[1] - corner[0])


@torch.no_grad()
def embed(x: Tensor, weights: Weights) -> Tensor:
    """Returns the embeddings, with shape (N, 128), of patches with shape (N, 96, 64)."""
    w, x = weights.tensors, x[:, None]
    for layer in CONVOLUTIONS:
        x = F.relu(F.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], padding=1))
        x = F.max_pool2d(x, 2) if layer in HALVED else x
    x = x.permute(0, 2, 3, 1).flatten(1)  # channels last, as where the weights were learned
    for layer in LINEAR:
        x = F.linear(F.relu(x), w[f"{layer}.weight"], w[f"{layer}.bias"])
    return x


def weights_of(config: Mapping[str, Any]) -> Weights:
    """Reads the weights: a state dict of the public port, as `.safetensors`, or else as torch saves it.

    Arguments:
        config: `feature_weights`, the file; unless given, `features/vggish.pth` under the data root.

    Raises:
        UsageError: There is no such file.
        DataError: It holds something else.
    """
    return _read(feature_file(config, "vggish", FILE))


@functools.lru_cache(maxsize=1)
def _read(file: Path) -> Weights:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        plain = file.suffix.lower() == ".safetensors"
        state = safetensors.torch.load_file(file) if plain else torch.load(file, "cpu", weights_only=True)
        if not isinstance(state, Mapping):
            raise ValueError("it holds no mapping of names to tensors")
    except Interrupted:
        raise
    except Exception as error:  # what a foreign file makes of a reader is open; torch's own advice would be to run it
        reason = reason_of(error) if isinstance(error, OSError | ValueError) else "it is no state dict"
        raise DataError(f"The weights '{file}' cannot be read, and nothing in them was run: {reason}.") from error
    for name, shape in SHAPES.items():
        value = state.get(name)
        if not (isinstance(value, Tensor) and value.shape == shape):
            found = f"has shape {tuple(value.shape)}" if isinstance(value, Tensor) else "is missing"
            raise DataError(f"'{file}' holds no weights of VGGish: '{name}' {found}; its shape is {shape}.")
    return Weights({name: state[name].float() for name in SHAPES}, digest(file))  # others, of whitening, are not needed
