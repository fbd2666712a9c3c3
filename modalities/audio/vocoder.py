r"""A vocoder: a network that is told the log-mel spectrogram of a clip draws the clip, phases and all.

Log-mel spectrograms are easily learned, and say how a clip sounds, but not its phases. Griffin and Lim's iteration finds
some that fit, of a metallic voice. Here its clip is only where to begin: noise of its own size is added, and the map of the
compressed transform, given the spectrogram, jumps from there to a clip, in one call and with one and the same noise, so that
what is decoded is a function of the spectrogram alone. The clip is then filtered by the ratio of the spectrogram that was
told to its own, which leaves phases and harmonics alone. The spectrogram is told as one channel on the transform's own grid,
interpolated along frequency, at the centres of the mel bands, and time.

References:
    | Vocos: Closing the gap between time-domain and Fourier-based neural vocoders (Siuzdak, 2023)
    | SDEdit: Guided image synthesis and editing with stochastic differential equations (Meng et al., 2022)
"""

__all__ = ["Hearsay", "Voice"]

import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.maps import FlowMap
from cm_multimodal.random import Draws
from dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from .representations import STFT, LogMel

CHUNK = 32  # clips at a time
START = 0.5  # the noise ratio; coefficients deviate by as much
CORRECTIONS = 2  # the second one mends what overlapping frames leave of the first
SAME = ("length", "rate", "mels", "n_fft", "hop", "floor")  # what two log-mel spectrograms must share to be exchanged


@dataclass(frozen=True)
class Hearsay:
    """What a vocoder's network is told of clips.

    Arguments:
        mel: The spectrogram.
        transform: The transform whose grid it lies on.
    """

    mel: LogMel
    transform: STFT

    def of(self, wave: Tensor) -> Tensor:
        """Returns the spectrograms, with shape (B, 1, F, T), of waveforms, on the transform's grid."""
        return self.on_grid(self.mel.encode(wave))

    def on_grid(self, mel: Tensor) -> Tensor:
        """Returns log-mel spectrograms, with shape (B, 1, mels, frames), on the transform's grid, (B, 1, F, T)."""
        frequencies, frames = self.transform.shape[1:]
        hertz = torch.arange(frequencies, dtype=mel.dtype, device=mel.device) * self.mel.rate / self.transform.n_fft
        band = _mels(hertz) / _mels(torch.tensor(self.mel.rate / 2, dtype=mel.dtype)) * (self.mel.mels + 1) - 1
        time = (torch.arange(frames, dtype=mel.dtype, device=mel.device) + 0.5) / frames
        places = torch.stack(torch.meshgrid((2 * band + 1) / self.mel.mels - 1, 2 * time - 1, indexing="ij")[::-1], -1)
        return F.grid_sample(mel, places.expand(len(mel), -1, -1, -1), padding_mode="border", align_corners=False)

    def corrected(self, x: Tensor, known: Tensor) -> Tensor:
        """Returns transforms filtered by how far their own spectrograms are from the ones that were told, (B, 1, F, T)."""
        away = (known - self.of(self.transform.decode(x))) / self.mel.gain
        return x * torch.exp(self.transform.power * away)


@dataclass(frozen=True)
class Voice:
    """A trained vocoder.

    Arguments:
        hearsay: What its network is told.
        flow_map: Its map.
    """

    hearsay: Hearsay
    flow_map: FlowMap

    def differs_from(self, mel: LogMel) -> list[str]:
        """Returns in what log-mel spectrograms differ from those that it was told of, by name and both values."""
        pairs = {name: (getattr(mel, name), getattr(self.hearsay.mel, name)) for name in SAME}
        return [f"{name}={mine} (the vocoder's: {its})" for name, (mine, its) in pairs.items() if mine != its]

    @torch.no_grad()
    def decode(self, logarithm: Tensor) -> Tensor:
        """Returns the waveforms, with shape (B, T), of the logarithms of mel spectrograms, (B, 1, mels, frames)."""
        return torch.cat([self._decode(part) for part in logarithm.split(CHUNK)]).to(logarithm.device)

    def _decode(self, logarithm: Tensor) -> Tensor:
        its, transform, count = self.hearsay.mel, self.hearsay.transform, len(logarithm)
        where = next(self.flow_map.parameters()).device
        mel = (logarithm.to(where) - its.mean) * its.gain
        known, found = self.hearsay.on_grid(mel), transform.encode(its.decode(mel))
        s = self.flow_map.path.time_of(torch.tensor(START, dtype=torch.float64, device=where)).expand(count)
        one = Draws(0, torch.zeros(count, dtype=torch.int64, device=where))
        noisy = self.flow_map.path.sample(found, one.noise("vocoder", transform.shape), s)
        x = self.flow_map.jump(noisy, s, torch.zeros_like(s), Conditions(known=known))
        for _ in range(CORRECTIONS):
            x = self.hearsay.corrected(x, known)
        return transform.decode(x)


def _mels(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)
