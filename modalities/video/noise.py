r"""Noise that frames have in common.

Independent noise in every frame makes each of them decide alone what it shows. Of noise

.. math:: \varepsilon_f = \sqrt{\rho} \, \bar\varepsilon + \sqrt{1 - \rho} \, \varepsilon'_f

frames share a part \(\rho\) of its variance, which stays 1. With the covariance \(M = (1 - \rho) I + \rho \, 1 1^\top\) over
T frames, noise of this kind on clips x is independent noise on \(M^{-1/2} x\), so that it is a change of the space in which
the model sees clips: training, samplers and solvers, and all that they prove, stay what they are. Of a clip with mean frame
\(\bar x\),

.. math:: M^{-1/2} x = \frac{x - \bar x}{\sqrt{1 - \rho}} + \frac{\bar x}{\sqrt{1 - \rho + \rho T}}.

References:
    | Preserve Your Own Correlation: A Noise Prior for Video Diffusion Models (Ge et al., 2023), section 4: mixed noise
"""

__all__ = ["SharedNoise"]

from dataclasses import dataclass
from torch import Tensor


@dataclass(frozen=True)
class SharedNoise:
    """A change of space, for clips with shape (B, C, T, H, W).

    Arguments:
        share: The share of the noise's variance that all frames have in common, at least 0 and below 1.
        frames: The frames of a clip.
    """

    share: float
    frames: int

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"the share of the noise that frames have in common is {self.share:g}")

    def whitened(self, x: Tensor) -> Tensor:
        """Returns clips as the model sees them."""
        return self._scaled(x, -0.5)

    def coloured(self, x: Tensor) -> Tensor:
        """Returns clips as they are."""
        return self._scaled(x, 0.5)

    def _scaled(self, x: Tensor, power: float) -> Tensor:
        if not self.share:
            return x
        apart, together = (1 - self.share) ** power, (1 - self.share + self.share * self.frames) ** power
        return apart * x + (together - apart) * x.mean(dim=2, keepdim=True)
