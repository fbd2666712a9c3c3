r"""A trained map in a notebook: load it, sample from it."""

__all__ = ["Model"]

import math
import torch

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .bundle import Bundle
from .generation.labels import Wish
from .generation.sampling import Samples, collect, make_plan
from .machine import choose_device
from .training.saved import load


@dataclass(frozen=True)
class Model:
    """A bundle that draws samples.

    Arguments:
        bundle: The map and its modality.
        device: Where it computes.
    """

    bundle: Bundle
    device: torch.device = torch.device("cpu")

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "Model":
        """Loads a run (its newest checkpoint) or a bundle.

        Raises:
            UsageError: There is neither in the folder.
            DataError: What is there is damaged.
        """
        return cls(load(Path(folder).expanduser()), choose_device(device))

    def lasting(self, seconds: float) -> "Model":
        """Returns the same model, whose samples last about so many seconds.

        Raises:
            UsageError: Its samples have no time, or cannot last so long.
        """
        spec, card = self.bundle.modality.lasting(seconds), self.bundle.card
        chunk = max(1, card.chunk * math.prod(card.spec.shape) // math.prod(spec.shape))
        other = replace(card, spec=spec, chunk=min(chunk, card.chunk))
        return replace(self, bundle=replace(self.bundle, card=other, modality=type(self.bundle.modality)(spec)))

    def decoded_by(self, decoder: "Model") -> "Model":
        """Returns the same model, what it draws being made samples by another one, such as a vocoder.

        Raises:
            UsageError: They do not fit.
        """
        other = decoder.bundle
        modality = self.bundle.modality.decoded_by(other.modality, other.flow_map.to(self.device))
        return replace(self, bundle=replace(self.bundle, modality=modality))

    def sample(self, n: int = 64, steps: int = 1, seed: int = 0, label: Wish | None = None, **how: Any) -> Samples:
        """Draws samples; the same numbers give the same samples.

        Arguments:
            n: The number of samples.
            steps: The number of jumps.
            seed: The seed of noise.
            label: A class, or several in turn, or counts or shares of classes; sample ids count through all unless given.
            how: `sampler`, `solver`, `gamma`, `guidance`, `interval`, `grid` or `path`, as in `cmm sample`.
        """
        return collect(self.bundle, make_plan(self.bundle, n, steps, seed, label, **how), self.device)
