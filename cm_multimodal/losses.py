r"""Distances between a prediction and its target, and the weights on them.

A metric gives one number a sample, averaged over the real positions; a weight rescales it without a gradient of its own.

References:
    | Improved Techniques for Training Consistency Models (Song & Dhariwal, 2023)
    | Mean Flows for One-step Generative Modeling (Geng et al., 2025)
    | Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2023)
"""

__all__ = [
    "L2", "AdaptiveWeight", "CrossEntropy", "LearnedLogVariance", "Loss", "Metric", "PseudoHuber", "Weight",
    "edm_weight", "normalise_tangent",
]  # fmt: skip

import torch

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from torch import Tensor, nn

from .tensors import expand_right, masked_mean, real_elements


@dataclass(frozen=True)
class Loss:
    """What an objective returns.

    Arguments:
        value: The number to minimise, a scalar.
        per_sample: The unweighted distances, with shape (B,), detached.
        noise_ratio: The source's noise ratio, with shape (B,).
        logs: Named scalars for the log.
    """

    value: Tensor
    per_sample: Tensor
    noise_ratio: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


class Metric(ABC):
    """A distance per sample.

    Attributes:
        quadratic: Whether its gradient is linear in the target.
        simplex: Whether prediction and target are probabilities.
    """

    quadratic = False
    simplex = False

    @abstractmethod
    def __call__(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the distance, with shape (B,), of two tensors with shape (B, *)."""


class L2(Metric):
    """The mean squared difference."""

    quadratic = True

    def __call__(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return masked_mean((prediction - target) ** 2, mask)


class PseudoHuber(Metric):
    r"""\(\sqrt{\lVert d \rVert^2 + c^2} - c\) over the whole sample, with \(c = 0.00054 \sqrt{D}\) unless given.

    Arguments:
        scale: The constant as a multiple of the square root of the sample's dimension.
    """

    def __init__(self, scale: float = 0.00054) -> None:
        self.scale = scale

    def __call__(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        square = (prediction - target) ** 2
        size = real_elements(square, mask)
        c = self.scale * size**0.5
        return torch.sqrt(masked_mean(square, mask) * size + c**2) - c


class CrossEntropy(Metric):
    """The cross-entropy of probabilities along the last dimension against soft targets.

    Arguments:
        floor: The smallest probability that counts.
    """

    simplex = True

    def __init__(self, floor: float = 1e-6) -> None:
        self.floor = floor

    def __call__(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return masked_mean(-(target * prediction.clamp_min(self.floor).log()).sum(dim=-1), mask)


class Weight(ABC):
    """Rescales the distances of a batch."""

    @abstractmethod
    def __call__(self, loss: Tensor, *clocks: Tensor) -> Tensor:
        """Returns the weighted losses, with shape (B,), of losses and what the network is told of their times."""


class AdaptiveWeight(Weight):
    r"""Multiplies each sample's loss L by \(1 / (L + c)^p\) without gradient: large residuals pull less.

    Arguments:
        power: The exponent p; zero leaves the loss alone.
        constant: The constant c.
    """

    def __init__(self, power: float = 0.0, constant: float = 1e-3) -> None:
        self.power, self.constant = power, constant

    def __call__(self, loss: Tensor, *clocks: Tensor) -> Tensor:
        return loss * (loss.detach() + self.constant) ** -self.power if self.power else loss


class LearnedLogVariance(nn.Module, Weight):
    r"""Multi-task weighting by a learned uncertainty of each noise level: \(L / e^{w(n)} + w(n)\), n in [0, pi/2].

    Arguments:
        features: The number of frequencies at which the uncertainty may depend on a time.
        times: The number of times that it depends on.
    """

    def __init__(self, features: int = 32, times: int = 1) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.arange(1, features + 1, dtype=torch.float32))
        self.times, self.linear = times, nn.Linear(2 * features * times, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, loss: Tensor, *clocks: Tensor) -> Tensor:
        """Returns the weighted loss, with shape (B,), of losses and times n, all with shape (B,)."""
        angle = torch.cat(
            [clock.to(self.frequencies)[:, None] * self.frequencies for clock in clocks[: self.times]], dim=1
        )
        log_variance = self.linear(torch.cat([angle.sin(), angle.cos()], dim=1))[:, 0]
        return loss * torch.exp(-log_variance) + log_variance


def edm_weight(ratio: Tensor, sigma_data: float) -> Tensor:
    r"""Returns \((\rho^2 + \sigma_{data}^2) / (\rho \sigma_{data})^2\): an error of the denoised state in units of F's."""
    return (ratio**2 + sigma_data**2) / (ratio * sigma_data) ** 2


def normalise_tangent(tangent: Tensor, constant: float = 0.1, mask: Tensor | None = None) -> Tensor:
    r"""Returns \(g / (\lVert g \rVert + c)\), with shape (B, *), the norm being the root mean square of a sample.

    References:
        | Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models (Lu & Song, 2024), section 4.2
    """
    size = masked_mean(tangent.square(), mask).sqrt()
    return tangent / (expand_right(size, tangent) + constant)
