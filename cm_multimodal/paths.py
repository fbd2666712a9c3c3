r"""Probability paths between data and noise.

A path gives a noisy state \(x_s = \alpha_s x + \sigma_s \varepsilon\) at each time \(s\), with \(\varepsilon \sim
\mathcal{N}(0, I)\); time grows towards noise. The noise ratio \(\rho_s = \sigma_s / \alpha_s\) (the "EDM sigma") is what
paths have in common: two states of equal ratio differ by a factor only, and

.. math:: x^B = \frac{\sqrt{\alpha_B^2 + \sigma_B^2}}{\sqrt{\alpha_A^2 + \sigma_A^2}} \, x^A

carries one onto the other without a division by \(\alpha\). The velocity of the probability-flow ODE, \(v(x_s, s) =
\alpha'_s D + \sigma'_s \hat\varepsilon\), belongs to the path; the denoised \(D\) and the noise \(\hat\varepsilon\) do not.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | Flow Matching for Generative Modeling (Lipman et al., 2022)
    | Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models (Lu & Song, 2024)
"""

__all__ = [
    "EDM", "PATHS", "Decoding", "Linear", "Path", "TrigFlow", "VPCosine", "VPLinear", "build_path", "one_hot_sigma",
]  # fmt: skip

import math
import torch

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from .errors import UsageError, nearest
from .tensors import expand_right


class Path(ABC):
    """A Gaussian path. Times are float64 tensors on the path's own clock; 0 is clean data.

    Attributes:
        even: Whether equal spans of its own clock are equal work, so that solvers' steps lie evenly there, and
            jumps get shorter towards its begin, unless asked otherwise.
    """

    even = False

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Returns the signal's coefficient, with the shape of `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Returns the noise's coefficient, with the shape of `t`."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """Returns the derivative of the signal's coefficient, with the shape of `t`."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """Returns the derivative of the noise's coefficient, with the shape of `t`."""

    @abstractmethod
    def time_of(self, noise_ratio: Tensor) -> Tensor:
        """Returns the time at which sigma / alpha has a given value, with its shape."""

    def noise_ratio(self, t: Tensor) -> Tensor:
        """Returns sigma / alpha, with the shape of `t`; infinite where alpha is zero."""
        return self.sigma(t) / self.alpha(t)

    def sample(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Returns the noisy state, with shape (B, *), of clean data and noise, both with shape (B, *)."""
        return self._scale(self.alpha(t), x) * x + self._scale(self.sigma(t), x) * eps

    def velocity(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Returns the velocity, with shape (B, *), that a (denoised, noise) pair implies."""
        return self._scale(self.d_alpha(t), x) * x + self._scale(self.d_sigma(t), x) * eps

    def denoised(self, x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        r"""Returns the denoised state that a velocity implies.

        It is \((\sigma' x_t - \sigma v) / (\alpha \sigma' - \sigma \alpha')\).
        """
        ds, s, w = self.d_sigma(t), self.sigma(t), self._wronskian(t)
        return self._scale(ds / w, x_t) * x_t - self._scale(s / w, x_t) * velocity

    def noise(self, x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        r"""Returns the noise that a velocity implies: \((\alpha v - \alpha' x_t) / (\alpha \sigma' - \sigma \alpha')\)."""
        da, a, w = self.d_alpha(t), self.alpha(t), self._wronskian(t)
        return self._scale(a / w, x_t) * velocity - self._scale(da / w, x_t) * x_t

    def noise_from_denoised(self, x_t: Tensor, denoised: Tensor, t: Tensor) -> Tensor:
        """Returns the noise, with shape (B, *), that a denoised state implies. Sigma must not be zero."""
        return (x_t - self._scale(self.alpha(t), x_t) * denoised) / self._scale(self.sigma(t), x_t)

    def transport(self, x_t: Tensor, t: Tensor, other: "Path") -> tuple[Tensor, Tensor]:
        """Returns the state, with shape (B, *), and the time of another path at the same noise ratio."""
        time = other.time_of(self.noise_ratio(t))
        return self._scale(other.norm(time) / self.norm(t), x_t) * x_t, time

    def norm(self, t: Tensor) -> Tensor:
        """Returns the length of (alpha, sigma), which is never zero, with the shape of `t`."""
        return torch.hypot(self.alpha(t), self.sigma(t))

    def _wronskian(self, t: Tensor) -> Tensor:
        return self.alpha(t) * self.d_sigma(t) - self.sigma(t) * self.d_alpha(t)

    @staticmethod
    def _scale(coefficient: Tensor, x: Tensor) -> Tensor:
        return expand_right(coefficient, x).to(x.dtype)


class EDM(Path):
    r"""The variance-exploding path: \(\alpha = 1, \sigma = t\). Time is the noise ratio."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_of(self, noise_ratio: Tensor) -> Tensor:
        return noise_ratio


class VPLinear(Path):
    r"""The variance-preserving path of a linear beta: \(\log\alpha = -\tfrac14 t^2(\beta_1-\beta_0) - \tfrac12 t\beta_0\).

    Arguments:
        beta_0: The noise rate at time 0.
        beta_1: The noise rate at time 1.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021), equation 33
    """

    def __init__(self, beta_0: float = 0.1, beta_1: float = 20.0) -> None:
        self.beta_0, self.beta_1 = beta_0, beta_1

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_1 - self.beta_0) - 0.5 * t * self.beta_0

    def _half_beta(self, t: Tensor) -> Tensor:
        return 0.5 * (self.beta_0 + t * (self.beta_1 - self.beta_0))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2.0 * self._log_alpha(t)))

    def d_alpha(self, t: Tensor) -> Tensor:
        return -self._half_beta(t) * self.alpha(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return self._half_beta(t) * self.alpha(t) ** 2 / self.sigma(t)

    def time_of(self, noise_ratio: Tensor) -> Tensor:
        log_inverse_alpha = 0.5 * torch.log1p(noise_ratio**2)
        slope = self.beta_1 - self.beta_0
        root = torch.sqrt(self.beta_0**2 + 4.0 * slope * log_inverse_alpha)
        return 4.0 * log_inverse_alpha / (root + self.beta_0)


class VPCosine(Path):
    r"""The variance-preserving cosine path: \(\alpha = \cos(\pi t/2), \sigma = \sin(\pi t/2)\)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * math.pi / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * math.pi / 2)

    def d_alpha(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(t * math.pi / 2)

    def d_sigma(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(t * math.pi / 2)

    def time_of(self, noise_ratio: Tensor) -> Tensor:
        return torch.atan(noise_ratio) * 2 / math.pi


class Linear(Path):
    r"""The straight path of flow matching: \(\alpha = 1 - t, \sigma = t\)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_of(self, noise_ratio: Tensor) -> Tensor:
        return noise_ratio / (1.0 + noise_ratio)


class TrigFlow(Path):
    r"""The spherical path: \(\alpha = \cos t, \sigma = \sigma_{data} \sin t\).

    Arguments:
        sigma_data: The standard deviation of the data.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        self.sigma_data = sigma_data

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_data * torch.sin(t)

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.sin(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return self.sigma_data * torch.cos(t)

    def time_of(self, noise_ratio: Tensor) -> Tensor:
        return torch.atan(noise_ratio / self.sigma_data)


class Decoding(Path):
    r"""The straight path of one-hot tokens, on the clock of what can be read: tokens are decided evenly in time.

    Of a token among K, noisy by the ratio \(\rho\), the largest entry is the right one with probability
    \(q = \mathbb{E}_z \Phi(z + 1/\rho)^{K-1}\); it is above chance by the share \(a = (K q - 1) / (K - 1)\). With the
    time \(\tau\) of the straight path, which keeps a twentieth so that the clock runs where all can be read,

    .. math:: t = 0.95 \, (1 - a) + 0.05 \, \tau, \qquad \alpha = 1 - \tau, \quad \sigma = \tau .

    The expectation is a Gauss-Hermite quadrature, and clocks are read off cubic splines through 4,097 of its values.

    Arguments:
        tokens: The number of tokens, K.

    References:
        | Flow Map Language Models (Lee et al., 2026), appendix: the time reparametrisation by decoding accuracy
    """

    even = True
    KNOTS, NODES, STRAIGHT = 4097, 128, 0.05

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def accuracy(self, signal: Tensor) -> Tensor:
        """Returns the probability that the largest entry is the token, of inverse noise ratios, with their shape."""
        return self._expect(signal, lambda z: torch.special.ndtr(z) ** (self.tokens - 1))

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - self.sigma(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._splines(t.device)[0](t)[0]

    def d_alpha(self, t: Tensor) -> Tensor:
        return -self.d_sigma(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return self._splines(t.device)[0](t)[1]

    def time_of(self, noise_ratio: Tensor) -> Tensor:
        straight = torch.where(noise_ratio.isinf(), 1.0, noise_ratio / (1.0 + noise_ratio))
        straight_of, clock_of = self._splines(straight.device)
        t = clock_of(straight)[0]
        for _ in range(2):  # Newton's steps to the exact inverse of the other spline
            value, slope = straight_of(t)
            t = (t - (value - straight) / slope).clamp(0.0, 1.0)
        return t

    def _splines(self, device: torch.device) -> tuple["Spline", "Spline"]:
        """Returns the straight time of a time, and the time of a straight one."""
        return _decoding_splines(self.tokens, device)

    def _clock(self, straight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns times and their derivatives, of times of the straight path, with their shape."""
        chance, power = self.accuracy(straight.new_zeros(())), self.tokens - 1  # 1 / K, but for the quadrature
        signal = (1.0 - straight) / straight.clamp_min(1e-6)
        above = (self.accuracy(signal) - chance) / (1.0 - chance)
        rate = self._expect(signal, lambda z: power * torch.special.ndtr(z) ** (power - 1) * _density(z)) / (
            1.0 - chance
        )
        share, d_signal = self.STRAIGHT, -1.0 / straight.clamp_min(1e-6) ** 2
        return (1 - share) * (1 - above) + share * straight, share - (1 - share) * rate * d_signal

    def _expect(self, signal: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        nodes, weights = (torch.from_numpy(each).to(signal.device) for each in hermegauss(self.NODES))
        return of(signal[..., None] + nodes) @ (weights / weights.sum())


@dataclass(frozen=True)
class Spline:
    """The cubic spline with given values and slopes at knots that rise (Hermite), all with shape (N,)."""

    knots: Tensor
    values: Tensor
    slopes: Tensor

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the values and the slopes at places, with their shape."""
        knots, values, slopes = self.knots, self.values, self.slopes
        at = (torch.searchsorted(knots, x.detach().to(knots.dtype).contiguous()) - 1).clamp(0, len(knots) - 2)
        width = knots[at + 1] - knots[at]
        u = (x - knots[at]) / width
        rise, first, last = values[at + 1] - values[at], slopes[at] * width, slopes[at + 1] * width
        c, d = 3 * rise - 2 * first - last, first + last - 2 * rise
        return values[at] + u * (first + u * (c + u * d)), (first + u * (2 * c + 3 * u * d)) / width


@lru_cache(maxsize=32)
def _decoding_splines(tokens: int, device: torch.device) -> tuple[Spline, Spline]:
    straight = torch.linspace(0, 1, Decoding.KNOTS, dtype=torch.float64)
    clock, slope = Decoding(tokens)._clock(straight)
    straight, clock, slope = (each.to(device) for each in (straight, clock, slope))
    return Spline(clock, straight, 1.0 / slope), Spline(straight, clock, slope)


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)


PATHS = {
    "edm": EDM, "vp_linear": VPLinear, "vp_cosine": VPCosine, "linear": Linear, "trigflow": TrigFlow, "decoding": Decoding,
}  # fmt: skip


def build_path(name: str, sigma_data: float) -> Path:
    """Builds a path by its name; `sigma_data` is the data's standard deviation.

    Raises:
        UsageError: There is no such path.
    """
    if name not in PATHS:
        raise UsageError(f"There is no path '{name}'; {nearest(name, PATHS)}")
    if name == "trigflow":
        return TrigFlow(sigma_data)
    return Decoding(_tokens(sigma_data)) if name == "decoding" else PATHS[name]()


def _tokens(sigma_data: float) -> int:
    """Returns the K of one-hot tokens, whose entries deviate by sqrt((1 - 1/K) / K); other data are taken for such."""
    return max(2, round(2 / (1 - math.sqrt(max(1 - 4 * sigma_data**2, 0.0)))))


def one_hot_sigma(tokens: int) -> float:
    """Returns the standard deviation of an entry of one-hot tokens, over all entries."""
    return math.sqrt((1 - 1 / tokens) / tokens)
