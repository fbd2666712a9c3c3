r"""Points in the plane: two half-moons, one class each."""

__all__ = ["Points"]

import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.modality import Dataset, Splits, TensorSpec
from cm_multimodal.nets.embeddings import ConditionEmbedding
from collections.abc import Mapping
from sklearn.datasets import make_moons
from torch import Tensor, nn
from typing import Any

from .base import ToyModality


class PointNet(nn.Module):
    """A small perceptron on points, with shape (B, 2)."""

    def __init__(self, width: int, two_times: bool, classes: int) -> None:
        super().__init__()
        self.embedding = ConditionEmbedding(width, two_times, classes)
        self.enter, self.out = nn.Linear(2, width), nn.Linear(width, 2)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        h = self.enter(x) + self.embedding(n_s, n_t, cond)
        for layer in self.hidden:
            h = h + layer(torch.nn.functional.silu(h))
        return self.out(torch.nn.functional.silu(h))


class Points(ToyModality):
    """Points in the plane."""

    name = "toy_points"

    @classmethod
    def dataset(cls, config: Mapping[str, Any]) -> Splits:
        parts = []
        for seed, size in ((0, config["size"]), (1, 400)):
            x, label = make_moons(size, noise=0.05, random_state=seed)
            parts.append(
                Dataset(torch.tensor(x - [0.5, 0.25]).float(), torch.tensor(label), classes=("lower", "upper"))
            )
        return Splits(*parts)

    @classmethod
    def describe(cls, train: Dataset, config: Mapping[str, Any]) -> TensorSpec:
        return TensorSpec((2,), float(train.raw.std()), train.classes)

    def encode(self, raw: Tensor) -> Tensor:
        return raw

    def decode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x

    def net(self, config: Mapping[str, Any], two_times: bool) -> nn.Module:
        return PointNet({"tiny": 8, "xs": 64, "s": 128}[config["size"]], two_times, len(self.spec.classes))
