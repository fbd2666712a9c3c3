r"""Averages of the weights over training.

With \(\beta\) the share of the old average that an update keeps,

* constant: \(\beta\) is given;
* half-life: \(\beta = 2^{-\Delta / h}\) for \(\Delta\) samples an update, \(h\) growing with training at first;
* power function: \(\beta = (1 - \Delta / n)^{\gamma + 1}\) after n samples, so that the average has a relative width
  \(\sigma_{rel} = \sqrt{(\gamma + 1) / ((\gamma + 2)^2 (\gamma + 3))}\) at any length of training.

From snapshots of two power-function averages any other width can be reconstructed after training: its profile is
projected on those of the snapshots.

References:
    | Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2023), section 3 and algorithm 3
"""

__all__ = ["DECAYS", "Average", "Constant", "Decay", "HalfLife", "PowerFunction", "Snapshot", "exponent", "reconstruct"]

import numpy as np
import torch

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from torch import Tensor, nn


class Decay(ABC):
    """How much of the old average an update keeps."""

    @abstractmethod
    def beta(self, seen: int, batch: int) -> float:
        """Returns the share that is kept.

        Arguments:
            seen: The samples seen, this update's included.
            batch: The samples of this update.
        """


@dataclass(frozen=True)
class Constant(Decay):
    """The same share at each update.

    Arguments:
        keep: The share that is kept.
    """

    keep: float = 0.999

    def beta(self, seen: int, batch: int) -> float:
        return self.keep


@dataclass(frozen=True)
class HalfLife(Decay):
    """A half-life in samples.

    Arguments:
        samples: The half-life.
        ramp: It is at most this multiple of the samples seen.
    """

    samples: float = 500_000
    ramp: float = 0.05

    def beta(self, seen: int, batch: int) -> float:
        return 0.5 ** (batch / max(min(self.samples, seen * self.ramp), 1e-8))


@dataclass(frozen=True)
class PowerFunction(Decay):
    """A fixed width relative to the length of training.

    Arguments:
        std: The relative width, between 0.01 and 0.25.
    """

    std: float = 0.05

    def __post_init__(self) -> None:
        if not 0.01 <= self.std <= 0.25:
            raise ValueError("a relative width lies between 0.01 and 0.25")

    def beta(self, seen: int, batch: int) -> float:
        return max(1 - batch / seen, 0.0) ** (exponent(self.std) + 1)


DECAYS: dict[str, type[Decay]] = {"constant": Constant, "half_life": HalfLife, "power": PowerFunction}


def exponent(std: float) -> float:
    r"""Returns the exponent \(\gamma\) of a power-function average of a relative width."""
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(roots.real.max())


class Average:
    """A moving average of a module's parameters and buffers; what is not a floating-point number is copied.

    Arguments:
        module: The module to follow.
        decay: How fast it follows.
    """

    def __init__(self, module: nn.Module, decay: Decay) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, seen: int, batch: int) -> None:
        """Moves towards the module's weights after an update."""
        live = module.state_dict()
        floating = [name for name, value in live.items() if value.is_floating_point()]
        old, new = [self.weights[name] for name in floating], [live[name].detach() for name in floating]
        torch._foreach_lerp_(old, new, 1 - self.decay.beta(seen, batch))
        for name in live.keys() - set(floating):
            self.weights[name].copy_(live[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the averaged weights by name."""
        return self.weights

    @torch.no_grad()
    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Takes averaged weights over."""
        for name, value in self.weights.items():
            value.copy_(weights[name])


@dataclass(frozen=True)
class Snapshot:
    """A power-function average at some time of the training.

    Arguments:
        std: Its relative width.
        seen: The samples seen.
        weights: The averaged weights by name.
    """

    std: float
    seen: int
    weights: Mapping[str, Tensor]


def reconstruct(snapshots: Sequence[Snapshot], std: float, seen: int | None = None) -> dict[str, Tensor]:
    """Returns the weights that a power-function average of another width would have had.

    Arguments:
        snapshots: Averages of two widths at several times.
        std: The width wanted.
        seen: The time wanted, in samples; the last snapshot's unless given.
    """
    seen = max(shot.seen for shot in snapshots) if seen is None else seen
    times = np.array([shot.seen for shot in snapshots], dtype=np.float64)
    powers = np.array([exponent(shot.std) for shot in snapshots])
    gram = _overlap(times[:, None], powers[:, None], times[None, :], powers[None, :])
    goal = _overlap(times, powers, np.array(float(seen)), np.array(exponent(std)))
    share = np.linalg.lstsq(gram, goal, rcond=None)[0]
    first = snapshots[0].weights
    return {
        name: sum(c * shot.weights[name].double() for c, shot in zip(share, snapshots, strict=True)).to(value.dtype)
        if value.is_floating_point() and not all(torch.equal(value, shot.weights[name]) for shot in snapshots)
        else snapshots[-1].weights[name]
        for name, value in first.items()
    }


def _overlap(t_a: np.ndarray, p_a: np.ndarray, t_b: np.ndarray, p_b: np.ndarray) -> np.ndarray:
    """Returns the inner product of two averages' profiles over training time (Karras et al., algorithm 3)."""
    ratio = t_a / t_b
    power = np.where(t_a < t_b, p_b, -p_a)
    span = np.maximum(t_a, t_b)
    return (p_a + 1) * (p_b + 1) * ratio**power / ((p_a + p_b + 1) * span)
