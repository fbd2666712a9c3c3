r"""The audio modality: 16-bit waveforms of shape (T,), seen by the model through a representation."""

__all__ = ["AudioModality"]

import math
import torch

from cm_multimodal.editing import Measurement
from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.modality import Board, Dataset, Modality, Splits, TensorSpec
from cm_multimodal.random import Draws
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from torch import Tensor
from typing import Any

from . import data, edit, metrics, preview
from .clips import to_int16, to_wave
from .net import build_net
from .representations import LEAST_RATE, MOST_RATE, MOST_SAMPLES, build
from .strings import NOTES

FITTED_TO = 1000  # clips
BLOCK = 16  # frames that a clip of another length is made of: patches and levels divide it


class AudioModality(Modality):
    """Clips of one rate and one length, in one channel."""

    name = "audio"
    classifier = "support vectors (C = 10) on log-mel spectrograms"
    measures: tuple[str, ...] = ("level", "active")
    edits = edit.EDITS

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec)
        if spec.classes == NOTES:
            self.measures = (*self.measures, "cents")
        try:
            self.rate = spec.settings["rate"]
            if not (type(self.rate) is int and LEAST_RATE <= self.rate <= MOST_RATE):
                raise ValueError(f"its rate is {self.rate}")
            self.representation = build(spec.settings["representation"])
            if self.representation.shape != spec.shape:
                raise ValueError(f"its shape is {self.representation.shape}, not {spec.shape}")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"This is no representation of sounds: {error}") from error

    @classmethod
    def dataset(cls, config: Mapping[str, Any]) -> Splits:
        return data.load(config)

    @classmethod
    def describe(cls, train: Dataset, config: Mapping[str, Any]) -> TensorSpec:
        options = data.options_of(config)
        blank = options.blank()
        part = to_wave(train.raw[torch.linspace(0, len(train) - 1, min(len(train), FITTED_TO)).long()])
        fitted = blank.fitted(part)
        sigma = float(fitted.encode(part).std())
        settings = {"rate": options.rate, "representation": fitted.settings()}
        return TensorSpec(fitted.shape, max(sigma, 1e-3), train.classes, settings=settings)

    def encode(self, raw: Tensor) -> Tensor:
        return self.representation.encode(to_wave(raw))

    def decode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        wave = self.representation.decode(x.float())
        if not wave.isfinite().all():
            raise DataError(
                "A generated clip holds samples that are no numbers: the model has diverged, or is damaged."
            )
        return to_int16(wave)

    def net(self, config: Mapping[str, Any], two_times: bool) -> torch.nn.Module:
        return build_net(config, self.spec, two_times)

    def preview(self, rows: Mapping[str, Tensor], file: Path) -> Path:
        return preview.sheet(rows, self.rate, file)

    def write(self, raw: Tensor, names: list[str], folder: Path) -> list[Path]:
        return preview.write_files(raw, names, self.rate, folder)

    def arrays(self, raw: Tensor) -> dict[str, Any]:
        preview.check_heard(raw, [str(number) for number in range(len(raw))])
        return {"x": to_wave(raw).numpy(), "rate": self.rate, "length": raw.shape[1]}

    def features(self, raw: Tensor, config: Mapping[str, Any]) -> Tensor:
        return metrics.features(raw, self.rate, config)

    def duration(self) -> float | None:
        return self.representation.length / self.rate

    def lasting(self, seconds: float) -> TensorSpec:
        frame = self.representation.length // self.representation.shape[-1]
        least = BLOCK * frame / self.rate
        if not least / 2 < seconds <= MOST_SAMPLES / self.rate - least:
            most = MOST_SAMPLES / self.rate - least
            raise UsageError(
                f"seconds={seconds:g} is not possible; these clips last from {least:g} to {most:,.0f} seconds."
            )
        length = round(seconds / least) * BLOCK * frame
        other = build({**self.representation.settings(), "length": length})
        return replace(self.spec, shape=other.shape, settings={"rate": self.rate, "representation": other.settings()})

    def board(self, rows: Mapping[str, Tensor], writer: Board, samples: int) -> None:
        for name, raw in rows.items():
            writer.add_audio(name, to_wave(raw[: preview.COLUMNS]).flatten()[None], samples, self.rate)

    def measurement(self, how: str, options: Mapping[str, Any]) -> Measurement:
        return (
            edit.measurement(how, options, self.spec.shape) if how in self.edits else super().measurement(how, options)
        )

    def shown(self, draws: Draws) -> Tensor:
        return edit.shown(draws, self.spec.shape)

    def vectors(self, raw: Tensor) -> Any:
        return metrics.vectors(raw, self.rate)

    def measure(self, name: str, samples: Dataset, real: Dataset) -> float:
        if name == "cents":
            return math.nan if samples.label is None else metrics.cents(samples.raw, samples.label, self.rate)
        return (
            metrics.level(samples.raw, real.raw)
            if name == "level"
            else metrics.active(samples.raw, real.raw, self.rate)
        )
