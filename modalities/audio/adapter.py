r"""The audio modality: 16-bit waveforms of shape (T,), seen by the model through a representation."""

__all__ = ["AudioModality"]

import math
import torch

from cm_multimodal.batch import told
from cm_multimodal.editing import Measurement
from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.maps import FlowMap
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
from .representations import LEAST_RATE, MOST_RATE, MOST_SAMPLES, STFT, LogMel, Representation, build
from .strings import NOTES
from .vocoder import Hearsay, Voice

FITTED_TO = 1000  # clips
BLOCK = 16  # frames that a clip of another length is made of: patches and levels divide it


class AudioModality(Modality):
    """Clips of one rate and one length, in one channel."""

    name = "audio"
    classifier = "support vectors (C = 10) on log-mel spectrograms"
    measures: tuple[str, ...] = ("level", "active")
    kinds = preview.KINDS
    edits: tuple[str, ...] = edit.EDITS

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec)
        if spec.classes == NOTES:
            self.measures = (*self.measures, "cents")
        self.hearsay: Hearsay | None = None
        self.voice: Voice | None = None
        try:
            self.rate = spec.settings["rate"]
            if not (type(self.rate) is int and LEAST_RATE <= self.rate <= MOST_RATE):
                raise ValueError(f"its rate is {self.rate}")
            self.representation = build(spec.settings["representation"])
            if self.representation.shape != spec.shape:
                raise ValueError(f"its shape is {self.representation.shape}, not {spec.shape}")
            if "mel" in spec.settings:
                self.hearsay = _hearsay(spec.settings["mel"], self.representation)
                self.edits, self.alone = (edit.VOCODE,), False
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
        if mel := options.blank_mel():
            settings["mel"] = mel.fitted(part).settings()
        return TensorSpec(fitted.shape, max(sigma, 1e-3), train.classes, settings=settings)

    def encode(self, raw: Tensor) -> Tensor:
        return self.representation.encode(to_wave(raw))

    def decode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        wave = self._wave(x.float())
        if not wave.isfinite().all():
            raise DataError(
                "A generated clip holds samples that are no numbers: the model has diverged, or is damaged."
            )
        return to_int16(wave)

    def _wave(self, x: Tensor) -> Tensor:
        if self.voice is not None and isinstance(self.representation, LogMel):
            return self.voice.decode(self.representation.logarithm(x))
        return self.representation.decode(x)

    def decoded_by(self, other: Modality, flow_map: FlowMap) -> "AudioModality":
        if not (isinstance(other, AudioModality) and other.hearsay and isinstance(self.representation, LogMel)):
            raise UsageError(
                "decoder= makes sounds of log-mel spectrograms: it is a vocoder (cmm train experiment=audio/vocoder), and "
                "the run draws such spectrograms (data.representation.name=log_mel)."
            )
        if "edge" not in flow_map.learned:
            raise UsageError(
                f"A decoder jumps to clean data, and this one learned the {' and the '.join(flow_map.learned)}."
            )
        voice = Voice(other.hearsay, flow_map)
        if differs := voice.differs_from(self.representation):
            raise UsageError(f"This decoder hears other spectrograms than the run draws: {', '.join(differs)}.")
        made = AudioModality(self.spec)
        made.voice = voice
        return made

    def net(self, config: Mapping[str, Any], two_times: bool) -> torch.nn.Module:
        if self.hearsay is not None and not config.get("known"):
            raise UsageError("data.mel= is told to the network: it needs net.known=true.")
        told = 1 if self.hearsay is not None else self.spec.shape[0] + 1
        return build_net(config, self.spec, two_times, told)

    def preview(self, rows: Mapping[str, Tensor], file: Path) -> Path:
        return preview.sheet(rows, self.rate, file)

    def write(self, raw: Tensor, names: list[str], folder: Path, kind: str | None = None) -> list[Path]:
        return preview.write_files(raw, names, self.rate, folder, kind or self.kinds[0])

    def void(self, raw: Tensor) -> Tensor:
        return ~raw.any(dim=1)

    def arrays(self, raw: Tensor) -> dict[str, Any]:
        preview.check_heard(raw, [str(number) for number in range(len(raw))])
        return {"x": to_wave(raw).numpy(), "rate": self.rate, "length": raw.shape[1]}

    def features(self, raw: Tensor, config: Mapping[str, Any]) -> Tensor:
        return metrics.features(raw, self.rate, config)

    def extractor(self, config: Mapping[str, Any]) -> str:
        return metrics.extractor(config)

    def duration(self) -> float | None:
        return self.representation.length / self.rate

    def lasting(self, seconds: float) -> TensorSpec:
        if self.voice is not None or self.hearsay is not None:
            raise UsageError(
                f"seconds={seconds:g} is not possible: a vocoder's clips are as long as those it learned from."
            )
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
        if how not in self.edits:
            return super().measurement(how, options)
        return edit.measurement(how, options, self.spec.shape) if self.hearsay is None else edit.vocoding(self.hearsay)

    def told(self, x: Tensor, draws: Draws) -> Tensor:
        if self.hearsay is not None:
            return self.hearsay.of(self.representation.decode(x))
        return told(x, edit.shown(draws, self.spec.shape))

    def vectors(self, raw: Tensor) -> Any:
        return metrics.vectors(raw, self.rate)

    def measure(self, name: str, samples: Dataset, real: Splits, config: Mapping[str, Any]) -> float:
        if name == "cents":
            return math.nan if samples.label is None else metrics.cents(samples.raw, samples.label, self.rate)
        return (
            metrics.level(samples.raw, real.test.raw)
            if name == "level"
            else metrics.active(samples.raw, real.test.raw, self.rate)
        )


def _hearsay(settings: Mapping[str, Any], transform: Representation) -> Hearsay:
    mel = build(settings)
    if not (isinstance(mel, LogMel) and isinstance(transform, STFT) and mel.length == transform.length):
        raise ValueError("what its network is told is no log-mel spectrogram of its clips")
    return Hearsay(mel, transform)
