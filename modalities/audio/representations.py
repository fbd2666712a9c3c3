r"""Representations: waveforms as tensors that a network can learn, and back.

Each is fitted to a corpus, so that the standard deviation of its tensors is `SIGMA`, and is a pair of maps. All but log-mel
are exact: `decode(encode(x)) = x` to rounding.

    stft      the complex short-time Fourier transform, with compressed amplitudes: two channels over frequency and time
    patches   the waveform itself, cut into patches that are the channels
    wavelets  the biorthogonal wavelets 4.4 (Cohen-Daubechies-Feauveau 9/7), by lifting, whitened band by band
    log_mel   the logarithm of the mel spectrogram; back by Griffin and Lim's iteration

**The compressed transform.** Frames of n samples, h apart, begin (n - h) / 2 before the first sample, where silence is
supposed, and end as far behind the last, so that T samples are T / h frames and every sample is covered.
A coefficient X becomes :math:`g_f |X|^{p} e^{i \angle X}`, with a gain for each frequency. Two of the n / 2 + 1 frequencies
are real, the lowest and the highest: the latter is carried where the imaginary part of the former would be. Back, frames
are added where they overlap, in the weights :math:`w / \sum w^2` of the window.

What a word is lies in its amplitudes, and the mean of coefficients of unknown phase is nothing. With `envelope` a third
channel therefore holds the logarithm of the amplitudes, averaged over 3 x 3 places, with twice the deviation: it is drawn
together with the coefficients, stands out of the noise before they do, and tells them where to be. The way back drops it.

References:
    | Music2Latent (Pasini et al., 2024), section 2.1: the compressed transform
    | Boosting Generative Image Modeling via Joint Image-Feature Synthesis (Kouzelis et al., 2025), section 3: the envelope
    | Factoring Wavelet Transforms into Lifting Steps (Daubechies & Sweldens, 1998), section 7.3
    | Signal Estimation from Modified Short-Time Fourier Transform (Griffin & Lim, 1984)
"""

__all__ = ["REPRESENTATIONS", "STFT", "LogMel", "Patches", "Representation", "Wavelets", "build"]

import dataclasses
import torch

from abc import ABC, abstractmethod
from cm_multimodal.errors import nearest
from cm_multimodal.values import fits
from collections.abc import Mapping
from dataclasses import dataclass
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import GriffinLim
from typing import Any, ClassVar

SIGMA, ENVELOPE = 0.5, 1.0
QUIETEST = 0.01  # a frequency below this share of the loudest one is not raised further
MOST_SAMPLES = 1 << 24
LEAST_RATE, MOST_RATE = 1000, 192_000  # samples a second
LIFTING = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
STRETCH = 1.149604398860241


@dataclass(frozen=True)
class Representation(ABC):
    """A pair of maps between waveforms, with shape (B, T) in [-1, 1], and tensors, with shape (B, *shape).

    Arguments:
        length: The samples of a waveform, T.

    Attributes:
        name: Its name.
        exact: Whether `decode` is the inverse of `encode`.
    """

    length: int
    name: ClassVar[str]
    exact: ClassVar[bool] = True

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of a tensor."""

    @abstractmethod
    def encode(self, wave: Tensor) -> Tensor:
        """Returns the tensors of waveforms."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Returns the waveforms of tensors."""

    @abstractmethod
    def fitted(self, wave: Tensor) -> "Representation":
        """Returns the same representation with its gains fitted to waveforms."""

    def settings(self) -> dict[str, Any]:
        """Returns all that `build` needs, as plain data."""
        return {"name": self.name, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class STFT(Representation):
    """The compressed complex transform, with shape (2, n_fft / 2, T / hop), and with its envelope (3, n_fft / 2, T / hop).

    Arguments:
        length: The samples of a waveform, a multiple of the hop.
        n_fft: The samples of a frame.
        hop: The samples from frame to frame.
        power: The exponent of the amplitudes.
        envelope: Whether a third channel holds the logarithm of the amplitudes around each place.
        gains: The gain of each frequency.
        mean: The mean of the third channel before it is subtracted.
        gain: What the third channel is multiplied by then.
    """

    n_fft: int = 256
    hop: int = 64
    power: float = 0.5
    envelope: bool = False
    gains: tuple[float, ...] = ()
    mean: float = 0.0
    gain: float = 1.0
    name = "stft"

    def __post_init__(self) -> None:
        _check_frames(self.length, self.n_fft, self.hop)
        if not 0.1 <= self.power <= 1:
            raise ValueError("power lies between 0.1 and 1")
        if not self.gain > 0:
            raise ValueError("gain is above 0")
        if self.gains and len(self.gains) != self.n_fft // 2:
            raise ValueError(f"gains are {self.n_fft // 2} numbers, one for each frequency")

    @property
    def shape(self) -> tuple[int, ...]:
        return (2 + self.envelope, self.n_fft // 2, self.length // self.hop)

    def encode(self, wave: Tensor) -> Tensor:
        x = self._coefficients(wave)
        return torch.cat([x, (_around(x) - self.mean) * self.gain], dim=1) if self.envelope else x

    def _coefficients(self, wave: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(_frames(wave, self.n_fft, self.hop) * _window(self.n_fft, wave))
        lowest = torch.complex(*(_compress(spectrum[..., end].real, self.power) for end in (0, -1)))
        inner = torch.polar(spectrum[..., 1:-1].abs() ** self.power, spectrum[..., 1:-1].angle())
        x = torch.view_as_real(torch.cat([lowest[..., None], inner], dim=-1))
        return rearrange(x, "b t f c -> b c f t") * self._gains(wave)

    def decode(self, x: Tensor) -> Tensor:
        pair = rearrange(x[:, :2] / self._gains(x), "b c f t -> b t f c").contiguous()
        whole = torch.view_as_complex(pair)
        low, high = (_compress(part, 1 / self.power) + 0j for part in pair[..., 0, :].unbind(-1))
        inner = torch.polar(whole[..., 1:].abs() ** (1 / self.power), whole[..., 1:].angle())
        frames = torch.fft.irfft(torch.cat([low[..., None], inner, high[..., None]], dim=-1), self.n_fft)
        window = _window(self.n_fft, x)
        total = _overlapped((window**2).expand(1, x.shape[-1], -1), self.hop)
        return _overlapped(frames * window, self.hop) / total

    def fitted(self, wave: Tensor) -> "STFT":
        x = dataclasses.replace(self, gains=())._coefficients(wave)
        fitted = dataclasses.replace(self, gains=_gains_of(x.square().mean(dim=(0, 1, 3)).sqrt()))
        around = _around(x * fitted._gains(x))
        return dataclasses.replace(fitted, mean=around.mean().item(), gain=ENVELOPE / max(around.std().item(), 1e-5))

    def _gains(self, like: Tensor) -> Tensor:
        return torch.tensor(self.gains or [1.0], dtype=like.dtype, device=like.device)[:, None]


@dataclass(frozen=True)
class Patches(Representation):
    """The waveform, with shape (patch, T / patch).

    Arguments:
        length: The samples of a waveform, a multiple of the patch.
        patch: The samples of a patch.
        gain: What the waveform is multiplied by.
    """

    patch: int = 16
    gain: float = 1.0
    name = "patches"

    def __post_init__(self) -> None:
        _check_length(self.length, self.patch)
        if not self.gain > 0:
            raise ValueError("gain is above 0")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.patch, self.length // self.patch)

    def encode(self, wave: Tensor) -> Tensor:
        return rearrange(wave, "b (t p) -> b p t", p=self.patch) * self.gain

    def decode(self, x: Tensor) -> Tensor:
        return rearrange(x, "b p t -> b (t p)") / self.gain

    def fitted(self, wave: Tensor) -> "Patches":
        return dataclasses.replace(self, gain=_gains_of(wave.square().mean().sqrt()[None])[0])


@dataclass(frozen=True)
class Wavelets(Representation):
    """Wavelet bands, the coarsest first, with shape (2 ** levels, T / 2 ** levels).

    Arguments:
        length: The samples of a waveform, a multiple of 2 ** levels.
        levels: How many times the coarser half is split.
        gains: The gain of each band: the coarsest, and the details from coarse to fine.
    """

    levels: int = 4
    gains: tuple[float, ...] = ()
    name = "wavelets"

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 12:
            raise ValueError("levels lie between 1 and 12")
        _check_length(self.length, 2**self.levels)
        if self.gains and len(self.gains) != self.levels + 1:
            raise ValueError(f"gains are {self.levels + 1} numbers, one for each band")

    @property
    def shape(self) -> tuple[int, ...]:
        return (2**self.levels, self.length >> self.levels)

    def encode(self, wave: Tensor) -> Tensor:
        bands = zip(self._bands(wave), self.gains or [1.0] * (self.levels + 1), strict=True)
        folded = [rearrange(band * gain, "b (t c) -> b c t", t=self.shape[1]) for band, gain in bands]
        return torch.cat(folded, dim=1)

    def decode(self, x: Tensor) -> Tensor:
        sizes = [1, *(2**level for level in range(self.levels))]
        bands = zip(x.split(sizes, dim=1), self.gains or [1.0] * (self.levels + 1), strict=True)
        coarse, *details = (rearrange(band, "b c t -> b (t c)") / gain for band, gain in bands)
        for detail in details:
            coarse = _merge(coarse, detail)
        return coarse

    def fitted(self, wave: Tensor) -> "Wavelets":
        sizes = torch.stack([band.square().mean().sqrt() for band in self._bands(wave)])
        return dataclasses.replace(self, gains=_gains_of(sizes))

    def _bands(self, wave: Tensor) -> list[Tensor]:
        coarse, details = wave, []
        for _ in range(self.levels):
            coarse, detail = _split(coarse)
            details.append(detail)
        return [coarse, *reversed(details)]


@dataclass(frozen=True)
class LogMel(Representation):
    """The log-mel spectrogram, with shape (1, mels, T / hop); phases are lost, and found again by iteration.

    Arguments:
        length: The samples of a waveform, a multiple of the hop.
        rate: The samples a second.
        mels: The bands.
        n_fft: The samples of a frame.
        hop: The samples from frame to frame.
        floor: The amplitude below which nothing is told apart: a deep one leaves most of the deviation to silence.
        mean: What is subtracted from the logarithm.
        gain: What that is multiplied by.
        iterations: Griffin and Lim's, on the way back.
    """

    rate: int = 8000
    mels: int = 32
    n_fft: int = 512
    hop: int = 256
    floor: float = 1e-5
    mean: float = 0.0
    gain: float = 1.0
    iterations: int = 60
    name = "log_mel"
    exact = False

    def __post_init__(self) -> None:
        _check_frames(self.length, self.n_fft, self.hop)
        if not (1 <= self.mels <= self.n_fft // 4 and LEAST_RATE <= self.rate <= MOST_RATE):
            raise ValueError("mels are at most a quarter of n_fft, and the rate lies between 1,000 and 192,000")
        if self.mels * self.n_fft > MOST_SAMPLES:
            raise ValueError("mels and n_fft are too large")
        if not (min(self.gain, self.floor) > 0 and 1 <= self.iterations <= 1000):
            raise ValueError("gain and floor are above 0, and there are 1 to 1,000 iterations")

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.mels, self.length // self.hop)

    def encode(self, wave: Tensor) -> Tensor:
        return (self._log_mel(wave) - self.mean) * self.gain

    def decode(self, x: Tensor) -> Tensor:
        mel = (torch.exp(self.logarithm(x)[:, 0]) - self.floor).clamp_min(0.0)  # the floor is silence
        spectrum = (torch.linalg.pinv(self._filters(x)) @ mel).clamp_min(0.0)
        find = GriffinLim(self.n_fft, self.iterations, hop_length=self.hop, power=1.0, rand_init=False).to(x.device)
        return F.pad(find(spectrum), (self.hop // 2, self.hop // 2))  # its frames begin half a hop later

    def logarithm(self, x: Tensor) -> Tensor:
        """Returns the logarithm of mel amplitudes, with shape (B, 1, mels, T / hop), that tensors stand for."""
        return x / self.gain + self.mean

    def fitted(self, wave: Tensor) -> "LogMel":
        logarithm = self._log_mel(wave)
        gain = SIGMA / max(logarithm.std().item(), 1e-5)
        return dataclasses.replace(self, mean=logarithm.mean().item(), gain=gain)

    def _log_mel(self, wave: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(_frames(wave, self.n_fft, self.hop) * _window(self.n_fft, wave)).abs()
        return torch.log((self._filters(wave) @ spectrum.transpose(1, 2)).clamp_min(self.floor))[:, None]

    def _filters(self, like: Tensor) -> Tensor:
        """Returns the triangular filters, with shape (mels, n_fft / 2 + 1)."""
        return melscale_fbanks(self.n_fft // 2 + 1, 0.0, self.rate / 2, self.mels, self.rate).T.to(like)


REPRESENTATIONS: dict[str, Any] = {kind.name: kind for kind in (STFT, Patches, Wavelets, LogMel)}


def build(settings: Mapping[str, Any]) -> Representation:
    """Builds a representation from plain data: its name, and its arguments.

    Raises:
        ValueError: They are not those of a representation; the message says which.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"a representation has a name and settings; {str(settings)[:40]!r} is none")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    name = given.pop("name", None)
    if name not in REPRESENTATIONS:
        raise ValueError(f"There is no representation '{name}'; {nearest(str(name), REPRESENTATIONS)}")
    known = {field.name: field.type for field in dataclasses.fields(REPRESENTATIONS[name])}
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"The representation '{name}' has no setting '{key}'; {nearest(key, known)}")
        if not fits(value, known[key]):
            raise ValueError(f"The representation '{name}' cannot have {key}={value}.")
    try:
        return REPRESENTATIONS[name](**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The representation '{name}' cannot be made: {error}.") from error


def _around(x: Tensor) -> Tensor:
    """Returns the logarithm of the amplitudes around each place, with shape (B, 1, F, T), with a floor."""
    power = F.avg_pool2d(x.square().mean(dim=1, keepdim=True), 3, stride=1, padding=1, count_include_pad=False)
    return torch.log(power.sqrt() + SIGMA / 5)


def _check_length(length: int, step: int) -> None:
    if not (0 < step <= length <= MOST_SAMPLES and length % step == 0):
        raise ValueError(f"the length of {length} samples is no multiple of {step}, or too large")


def _check_frames(length: int, n_fft: int, hop: int) -> None:
    if not (2 <= hop <= n_fft <= MOST_SAMPLES and n_fft % 2 == hop % 2 == 0 and 2 * hop <= n_fft):
        raise ValueError("n_fft and hop are even, and a frame is at least two hops long")
    _check_length(length, hop)


def _window(n_fft: int, like: Tensor) -> Tensor:
    return torch.hann_window(n_fft, dtype=like.dtype, device=like.device)


def _frames(wave: Tensor, n_fft: int, hop: int) -> Tensor:
    """Returns the frames, with shape (B, T / hop, n_fft), of waveforms with shape (B, T)."""
    return F.pad(wave, ((n_fft - hop) // 2,) * 2).unfold(-1, n_fft, hop)


def _overlapped(frames: Tensor, hop: int) -> Tensor:
    """Returns the sum, with shape (B, T), of frames with shape (B, T / hop, n_fft) where they came from."""
    count, n_fft = frames.shape[1:]
    whole = (1, (count - 1) * hop + n_fft)
    edge = (n_fft - hop) // 2
    return F.fold(frames.transpose(1, 2), whole, (1, n_fft), stride=(1, hop))[:, 0, 0, edge : edge + count * hop]


def _compress(x: Tensor, power: float) -> Tensor:
    return x.sign() * x.abs() ** power


def _gains_of(sizes: Tensor) -> tuple[float, ...]:
    """Returns the gains that bring root mean squares, one for each band, to `SIGMA`."""
    least = max(QUIETEST * sizes.max().item(), 1e-8)
    return tuple(float(f"{SIGMA / max(size, least):.6g}") for size in sizes.tolist())


def _shifted(x: Tensor, by: int) -> Tensor:
    """Returns a sequence with its neighbours on one side, the last of which is repeated."""
    return torch.cat([x[..., 1:], x[..., -1:]] if by > 0 else [x[..., :1], x[..., :-1]], dim=-1)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the coarse and the fine half of sequences, by lifting."""
    coarse, fine = x[..., 0::2], x[..., 1::2]
    for predict, update in (LIFTING[:2], LIFTING[2:]):
        fine = fine + predict * (coarse + _shifted(coarse, 1))
        coarse = coarse + update * (fine + _shifted(fine, -1))
    return coarse * STRETCH, fine / STRETCH


def _merge(coarse: Tensor, fine: Tensor) -> Tensor:
    """Returns what `_split` has split: the same steps, backwards."""
    coarse, fine = coarse / STRETCH, fine * STRETCH
    for predict, update in (LIFTING[2:], LIFTING[:2]):
        coarse = coarse - update * (fine + _shifted(fine, -1))
        fine = fine - predict * (coarse + _shifted(coarse, 1))
    return torch.stack([coarse, fine], dim=-1).flatten(-2)
