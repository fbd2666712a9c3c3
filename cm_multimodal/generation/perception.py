r"""What a generator's own network sees of samples.

A network that takes noise away had to learn what samples consist of, from all that it was shown, with classes and without.
Its state half the way up, when it is asked about samples with hardly any noise and told no class, averaged over a coarse
grid, is therefore a description of them that a few labelled ones are enough to name the others by.

References:
    | Denoising Diffusion Autoencoders are Unified Self-supervised Learners (Xiang et al., 2023)
"""

__all__ = ["Perception"]

import numpy as np
import torch

from collections.abc import Callable
from dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Conditions
from ..bundle import Bundle
from ..errors import UsageError
from ..nets.unet import UNet
from ..random import Draws

NOISE = 0.07  # as a share of the data's deviation
SIDE = 7  # of the coarse grid, at most
POOLS: dict[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


@dataclass(frozen=True)
class Perception:
    """Maps raw samples to what a network sees of them; the same samples in the same order give the same.

    Arguments:
        bundle: The generator.
        device: Where it computes.

    Raises:
        UsageError: Its network is no U-Net.
    """

    bundle: Bundle
    device: torch.device = torch.device("cpu")

    def __post_init__(self) -> None:
        if self._unet() is None:
            raise UsageError(
                "What a network sees of samples can be asked of U-Nets alone, and this one is none: leave perception= out."
            )

    @torch.no_grad()
    def __call__(self, raw: Tensor) -> np.ndarray:
        """Returns an array with shape (N, D)."""
        kept: list[Tensor] = []
        unet = self._unet()
        assert unet is not None
        handle = unet.up[(len(unet.up) - 1) // 2].register_forward_hook(
            lambda _, given, state: kept.append(coarse(state))
        )
        try:
            for start in range(0, len(raw), self.bundle.card.chunk):
                self._look(raw[start : start + self.bundle.card.chunk], start)
        finally:
            handle.remove()
        return torch.cat(kept).cpu().numpy()

    def _look(self, raw: Tensor, start: int) -> None:
        flow_map, card = self.bundle.flow_map.to(self.device), self.bundle.card
        ids = torch.arange(start, start + len(raw), device=self.device)
        x, classes = self.bundle.modality.encode(raw.to(self.device)), len(card.spec.classes)
        ratio = torch.full((len(x),), NOISE * card.spec.sigma_data, dtype=torch.float64, device=self.device)
        time = flow_map.path.time_of(ratio)
        noisy = flow_map.path.sample(x, Draws(0, ids).noise("perception", tuple(x.shape[1:])), time).to(x.dtype)
        cond = Conditions(torch.full_like(ids, classes) if classes else None)
        if "diagonal" in card.learned:
            flow_map.velocity(noisy, time, cond)
        else:
            flow_map.jump(noisy, time, torch.zeros_like(time), cond)

    def _unet(self) -> UNet | None:
        parts: list[nn.Module] = list(self.bundle.flow_map.net.modules())
        return next((part for part in parts if isinstance(part, UNet)), None)


def coarse(state: Tensor) -> Tensor:
    """Averages a grid with shape (B, C, *) over at most seven places in each dimension; returns (B, D)."""
    sides = tuple(min(SIDE, side) for side in state.shape[2:])
    return POOLS[len(sides)](state, sides).flatten(1)
