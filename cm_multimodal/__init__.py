r"""cm-multimodal: few-step generators learned from scratch, as solution maps of the probability-flow ODE."""

from __future__ import annotations

__all__ = ["load"]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import Model


def load(folder: str, device: str = "cpu") -> Model:
    """Loads a run or a bundle, ready to sample.

    Arguments:
        folder: The folder of a run (its newest checkpoint is taken) or of a bundle.
        device: Where it computes: 'auto', 'cpu' or 'cuda'.

    Example:
        >>> model = cm_multimodal.load("runs/first")
        >>> model.sample(n=64, steps=2, seed=0).raw.shape
        torch.Size([64, 1, 8, 8])
    """
    from .model import Model

    return Model.load(folder, device)
