r"""Running statistics of a training: a window of scalars, and the loss by noise ratio."""

__all__ = ["LossByNoise", "Window"]

import math
import torch

from collections.abc import Mapping
from pathlib import Path
from torch import Tensor
from typing import Any

from ..tensors import row_mean
from ..times import RATIO_MAX, RATIO_MIN


class Window:
    """Means of named scalars since the last row of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, **values: float) -> None:
        """Adds one value to each scalar."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Returns the means and starts anew."""
        means = {name: value / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Returns sums and counts."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes sums and counts over."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


class LossByNoise:
    """The mean loss in equal bins of the logarithm of the noise ratio, forgetting slowly.

    Arguments:
        bins: The number of bins.
        keep: The weight an update leaves to what came before it.
    """

    def __init__(self, bins: int = 24, keep: float = 0.995) -> None:
        self.bins, self.keep = bins, keep
        self.sums = torch.zeros(2, bins, dtype=torch.float64)

    def count(self, noise_ratio: Tensor, loss: Tensor) -> Tensor:
        """Returns the sums of the losses in each bin, and how many they are, with shape (2, bins), in float64.

        Arguments:
            noise_ratio: The samples' noise ratios, with shape (B, ...).
            loss: Their losses, with shape (B,).
        """
        low, high = math.log(RATIO_MIN), math.log(RATIO_MAX)
        ratio = row_mean(noise_ratio.detach())
        place = ((ratio.clamp(RATIO_MIN, RATIO_MAX).log() - low) / (high - low) * self.bins).long()
        one_hot = torch.nn.functional.one_hot(place.clamp(0, self.bins - 1), self.bins).double()
        values = torch.stack([loss.double(), torch.ones_like(loss, dtype=torch.float64)])
        return values @ one_hot

    def add(self, counts: Tensor) -> None:
        """Adds the counts of an update, with shape (2, bins)."""
        self.sums = self.sums.to(counts.device) * self.keep + counts

    def curve(self) -> tuple[Tensor, Tensor]:
        """Returns the noise ratios of the bins that hold samples, and their mean losses."""
        sums = self.sums.cpu()
        low, high = math.log(RATIO_MIN), math.log(RATIO_MAX)
        centres = torch.exp(low + (torch.arange(self.bins) + 0.5) / self.bins * (high - low))
        filled = sums[1] > 0.5
        return centres[filled], (sums[0] / sums[1].clamp_min(1e-12))[filled]

    def plot(self, file: Path) -> None:
        """Draws the curve."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.add_subplot(xscale="log", yscale="log", xlabel="noise ratio", ylabel="loss (unweighted)")
        axes.plot(*(part.numpy() for part in self.curve()), marker="o", markersize=3)
        axes.grid(alpha=0.3)
        figure.savefig(file, dpi=120)

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums."""
        return {"sums": self.sums.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the sums over."""
        self.sums = state["sums"]
