r"""The text modality: UTF-8 bytes of shape (W,), padded with zeros, which the model sees as tokens of shape (L, D).

They are one-hot, D being the size K of the vocabulary, or embedded.
"""

__all__ = ["TextModality"]

import math
import numpy as np
import torch

from cm_multimodal.editing import Measurement
from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.modality import Board, Dataset, Modality, Splits, TensorSpec
from cm_multimodal.paths import one_hot_sigma
from cm_multimodal.random import Draws
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from torch import Tensor
from torch.nn import functional as F
from typing import Any

from . import data, edit, embeddings, judges, metrics, preview
from .language import Language
from .net import build_net
from .ngrams import NGrams
from .texts import to_raw, to_texts
from .tokens import END, Tokens, build

MOST_NUMBERS = 1 << 21  # of all embeddings, which a bundle's card holds
OF_GRAMMAR = ("grammatical", "rules")


class TextModality(Modality):
    """Texts of at most L tokens."""

    name = "text"
    classifier = "support vectors (C = 10) on words and pairs of them"
    previewed = (1, 2, 4, 8, 64)
    kinds = ("txt",)
    edits = edit.EDITS
    by_train = tuple(sorted(metrics.BY_TRAIN))

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec)
        try:
            self.tokens = build(spec.settings["tokens"])
            self.length, channels = spec.shape
            self.table = embeddings.unpacked(spec.settings["embedding"]) if "embedding" in spec.settings else None
            shape = (self.tokens.count, channels)
            if (shape != tuple(self.table.shape)) if self.table is not None else (shape[0] != channels):
                raise ValueError(f"{shape[0]} tokens do not fit samples of shape {spec.shape}")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"This is no vocabulary of texts: {error}") from error
        self._read: tuple[Splits, metrics.Real] | None = None
        ruled, self.ends = bool(spec.settings.get("grammar")), bool(spec.settings.get("ends"))
        own = (name for name in metrics.MEASURES if ruled or name not in OF_GRAMMAR)
        self.measures = (*own, *judges.MEASURES)

    @classmethod
    def dataset(cls, config: Mapping[str, Any]) -> Splits:
        return data.load(config)

    @classmethod
    def describe(cls, train: Dataset, config: Mapping[str, Any]) -> TensorSpec:
        options = data.options_of(config)
        tokens = data.vocabulary(options)
        settings = {"tokens": tokens.settings(), "grammar": options.name == "grammar", "ends": options.lines}
        channels, sigma = tokens.count, one_hot_sigma(tokens.count)
        if options.embedding is not None:
            channels, sigma = options.embedding, 1.0
            settings["embedding"] = embeddings.packed(_embedded(options, tokens))
        return TensorSpec((options.length, channels), sigma, train.classes, settings=settings)

    def encode(self, raw: Tensor) -> Tensor:
        numbers = self.tokens.numbers(to_texts(raw), self.length).to(raw.device)
        return F.one_hot(numbers, self.tokens.count).float() if self.table is None else self._points(raw)[numbers]

    def decode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if not x.isfinite().all():
            raise DataError("A generated text holds numbers that are none: the model has diverged, or is damaged.")
        return to_raw(self.tokens.texts(self._numbers(x)), self.tokens.width(self.length))

    def _points(self, like: Tensor) -> Tensor:
        """Returns the vertices of clean states, with shape (K, D), where a tensor is."""
        return torch.eye(self.tokens.count, device=like.device) if self.table is None else self.table.to(like.device)

    def _numbers(self, x: Tensor) -> Tensor:
        """Returns the numbers of the nearest tokens, with shape (B, L)."""
        return (x if self.table is None else x.float() @ self._points(x).T).argmax(dim=-1)

    def net(self, config: Mapping[str, Any], two_times: bool) -> torch.nn.Module:
        return build_net(config, self.spec, two_times, self.table)

    def preview(self, rows: Mapping[str, Tensor], file: Path) -> Path:
        return preview.sheet(rows, file)

    def write(self, raw: Tensor, names: list[str], folder: Path, kind: str | None = None) -> list[Path]:
        return preview.write_files(raw, names, folder)

    def void(self, raw: Tensor) -> Tensor:
        return torch.tensor([not text.strip() for text in to_texts(raw)], dtype=torch.bool)

    def arrays(self, raw: Tensor) -> dict[str, Any]:
        return {"x": np.array(to_texts(raw), dtype=np.str_)}

    def features(self, raw: Tensor, config: Mapping[str, Any]) -> Tensor:
        return metrics.features(raw, config)

    def vectors(self, raw: Tensor) -> Any:
        return metrics.vectors(raw)

    def board(self, rows: Mapping[str, Tensor], writer: Board, samples: int) -> None:
        for name, raw in rows.items():
            writer.add_text(name, preview.page({name: raw}), samples)

    def measurement(self, how: str, options: Mapping[str, Any]) -> Measurement:
        if how not in self.edits:
            return super().measurement(how, options)
        points = self._points(torch.zeros(()))
        return edit.measurement(how, options, self._numbers, points[END], points[self.tokens.mark])

    def unlike(self, other: TensorSpec) -> str:
        mine, its = (spec.settings.get("tokens") for spec in (self.spec, other))
        return "" if mine == its else "their vocabulary is another one than the model's"

    def told(self, x: Tensor, draws: Draws) -> Tensor:
        return edit.told(x, edit.shown(draws, self.length))

    def baselines(self, train: Dataset, count: int, parameters: int) -> Mapping[str, Callable[[], Tensor]]:
        texts, width = to_texts(train.raw), self.tokens.width(self.length)
        longest = max(map(len, texts))
        models: dict[str, NGrams | Language] = {f"{n}-gram": NGrams(texts, n, ends=self.ends) for n in (3, 5)}
        models["autoregressive"] = Language(texts, ends=self.ends, parameters=parameters)
        return {name: partial(_drawn, model, count, longest, width) for name, model in models.items()}

    def judges(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        asked = [name for name in judges.MEASURES if name in (config.get("also") or ())]
        if not asked:
            return {}
        if not isinstance(config.get("language_model"), str):
            raise UsageError(
                f"also=[{','.join(asked)}] needs a language model: language_model=FOLDER, with config.json, *.safetensors "
                "and tokenizer.json, as published models have them."
            )
        judge = judges.judge_of(config["language_model"])
        return {judge.name: judge.digest}

    def measure(self, name: str, samples: Dataset, real: Splits, config: Mapping[str, Any]) -> float:
        if name not in self.measures:
            return math.nan
        texts, others = tuple(to_texts(samples.raw)), self._real(real)
        if name in judges.MEASURES:
            return judges.MEASURES[name](judges.judge_of(config["language_model"]), texts, others.test)
        return metrics.MEASURES[name](texts, others)

    def _real(self, real: Splits) -> metrics.Real:
        """Returns the texts of both splits, read once for all measures and rows."""
        if self._read is None or self._read[0] is not real:
            train, test = (tuple(to_texts(part.raw)) for part in (real.train, real.test))
            self._read = real, metrics.Real(train, test, self.ends)
        return self._read[1]


def _drawn(model: NGrams | Language, count: int, length: int, width: int) -> Tensor:
    return to_raw(model.sample(count, length, 0), width)


def _embedded(options: data.Options, tokens: Tokens) -> Tensor:
    dimensions = options.embedding or 0
    if dimensions >= tokens.count:
        raise UsageError(
            f"data.embedding={dimensions} is not possible: it is below the number of tokens, {tokens.count}."
        )
    if tokens.count * dimensions > MOST_NUMBERS:
        raise UsageError(
            f"{tokens.count:,} embeddings of {dimensions} numbers are too many; {MOST_NUMBERS:,} numbers are possible."
        )
    return embeddings.embed([tokens.encode(text) for text in data.documents(options).train], tokens.count, dimensions)
