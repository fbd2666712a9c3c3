r"""Sequences of one-hot tokens, of varying length: they alternate between the two tokens of their class."""

__all__ = ["LENGTH", "VOCABULARY", "Tokens"]

import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.modality import Dataset, Splits, TensorSpec
from cm_multimodal.nets.embeddings import ConditionEmbedding
from cm_multimodal.random import Draws
from cm_multimodal.tensors import expand_right
from collections.abc import Mapping
from torch import Tensor, nn
from typing import Any

from .base import ToyModality

LENGTH, SHORTEST, VOCABULARY, PADDING = 12, 6, 7, -1


class TokenNet(nn.Module):
    """Self-attention over the real positions of sequences, with shape (B, 12, 7); it names probabilities."""

    def __init__(self, width: int, two_times: bool, classes: int) -> None:
        super().__init__()
        self.embedding = ConditionEmbedding(width, two_times, classes)
        self.enter, self.out = nn.Linear(VOCABULARY, width), nn.Linear(width, VOCABULARY)
        self.place = nn.Parameter(torch.randn(LENGTH, width) * 0.3)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        embedding = self.embedding(n_s, n_t, cond)
        h = self.enter(x) + self.place + (embedding if embedding.ndim == 3 else embedding[:, None])
        padding = None if cond.mask is None else cond.mask == 0
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=padding)
        return self.out(h).softmax(dim=-1)


class Tokens(ToyModality):
    """Token sequences; raw ones are integers with -1 for padding, with shape (N, 12)."""

    name = "toy_tokens"

    @classmethod
    def dataset(cls, config: Mapping[str, Any]) -> Splits:
        return Splits(_alternations(0, config["size"]), _alternations(1, 400))

    @classmethod
    def describe(cls, train: Dataset, config: Mapping[str, Any]) -> TensorSpec:
        return TensorSpec(
            (LENGTH, VOCABULARY), (1 / VOCABULARY * (1 - 1 / VOCABULARY)) ** 0.5, train.classes, masked=True
        )

    def encode(self, raw: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(raw.clamp_min(0), VOCABULARY).float()

    def decode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = x.argmax(dim=-1)
        return tokens if mask is None else torch.where(mask > 0, tokens, PADDING)

    def net(self, config: Mapping[str, Any], two_times: bool) -> nn.Module:
        return TokenNet({"xs": 64, "s": 128}[config["size"]], two_times, len(self.spec.classes))

    def sample_mask(self, draws: Draws) -> Tensor:
        return _masks(draws)


def _masks(draws: Draws) -> Tensor:
    length = SHORTEST + (draws.uniform("length") * (LENGTH - SHORTEST + 1)).long()
    return (torch.arange(LENGTH, device=length.device) < expand_right(length, length[:, None])).float()


def _alternations(seed: int, size: int) -> Dataset:
    """Class c alternates between the tokens c and c + 3; either may come first."""
    draws = Draws(seed, torch.arange(size))
    label = torch.arange(size) % 3
    phase = (draws.uniform("phase") * 2).long()
    tokens = label[:, None] + 3 * ((phase[:, None] + torch.arange(LENGTH)) % 2)
    mask = _masks(draws)
    return Dataset(torch.where(mask > 0, tokens, PADDING), label, mask, ("one", "two", "three"))
