r"""Editing with a learned map: what is known of a sample stays, the map draws the rest.

Known is a linear measurement M of a sample y: its values under a mask, its luminance, its means over patches. With a
right inverse, :math:`M M^+ = 1`, the projection \(P(x) = x + M^+ (M y - M x)\) puts it in, and jumps to clean data, each
from fresh noise, alternate with it,

.. math:: x \leftarrow P(\Psi_{s \to 0}(\alpha_s x + \sigma_s \varepsilon)), \qquad s = s_0 > s_1 > \dots,

from \(x = M^+ M y\) on. It needs the edge of the triangle and no training of its own. What is drawn tends to fit what is
known as steps are added; it is no exact sample of the rest given the known part. A network that was told parts of samples
in training (`Conditions.known`) needs none of this: told this one, its map is that of the samples that have it, from which
any sampler draws.

References:
    | Consistency Models (Song et al., 2023), algorithm 4 and appendix D
"""

__all__ = ["Hint", "Known", "Measurement", "between", "complete", "masked"]

import torch

from collections.abc import Callable
from dataclasses import dataclass
from torch import Tensor

from .batch import Conditions, told
from .maps import SolutionMap
from .random import Draws
from .tensors import expand_right


@dataclass(frozen=True)
class Measurement:
    """A linear measurement of samples, and a right inverse of it.

    Arguments:
        measure: Maps samples, with shape (B, *), to what is known of them.
        back: Maps that to samples that measure the same.
        told: Maps them to what a network is told that was trained on parts of samples (`Conditions.known`); absent: nothing.
    """

    measure: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    told: Callable[[Tensor], Tensor] | None = None

    def project(self, x: Tensor, value: Tensor) -> Tensor:
        """Returns samples, with shape (B, *), moved by the right inverse so that they measure a value."""
        return x + self.back(value - self.measure(x))


class Hint(Measurement):
    """A measurement, of any kind, that only the network is told; `back` shows it as a sample, and none is moved by it."""

    def project(self, x: Tensor, value: Tensor) -> Tensor:
        return x


def masked(mask: Tensor) -> Measurement:
    """Returns the measurement of what lies under a mask, ones or zeros that broadcast to a sample."""
    return Measurement(lambda x: x * mask.to(x), lambda x: x, lambda x: told(x, mask))


@dataclass(frozen=True)
class Known:
    """What is known of samples.

    Arguments:
        measurement: Of what kind it is.
        value: The measured samples.
    """

    measurement: Measurement
    value: Tensor

    @classmethod
    def of(cls, x: Tensor, measurement: Measurement) -> "Known":
        """Measures samples, with shape (B, *)."""
        return cls(measurement, measurement.measure(x))

    def put_into(self, x: Tensor) -> Tensor:
        """Returns samples, with shape (B, *), moved by the right inverse so that they measure what is known."""
        return self.measurement.project(x, self.value)


def complete(
    flow_map: SolutionMap, known: Known, like: Tensor, times: Tensor, cond: Conditions, draws: Draws
) -> Tensor:
    """Returns clean samples, with shape (B, *), of which a part is known, by one jump from each time but the last.

    Arguments:
        flow_map: The map; it must have learned the edge.
        known: What is known of the samples.
        like: Any tensor of their shape and type.
        times: The decreasing grid on the map's path, with shape (steps + 1,), ending in 0.
        cond: The conditions.
        draws: Where the noise comes from.
    """
    x = known.put_into(torch.zeros_like(like))
    for index, s in enumerate(times[:-1]):
        eps = draws.noise(f"edit/{index}", tuple(x.shape[1:]), x.dtype)
        start = s.expand(len(x))
        noisy = flow_map.path.sample(x, eps, start)
        x = known.put_into(flow_map.jump(noisy, start, torch.zeros_like(start), cond))
    return x


def between(first: Tensor, last: Tensor, shares: Tensor) -> Tensor:
    """Returns noise on the great circle between two noises of one shape, with one more dimension at the left.

    Arguments:
        first: The noise at share 0.
        last: The noise at share 1.
        shares: The shares, with shape (N,).
    """
    unit = [noise.flatten() / noise.norm() for noise in (first, last)]
    angle = torch.arccos((unit[0] @ unit[1]).clamp(-1, 1))
    parts = zip((1 - shares, shares), (first, last), strict=True)
    mixed = [expand_right(torch.sin(share * angle) / torch.sin(angle), noise[None]) * noise for share, noise in parts]
    return mixed[0] + mixed[1]
