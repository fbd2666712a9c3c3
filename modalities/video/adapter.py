r"""The video modality: clips as uint8 tensors of shape (T, C, H, W), seen by the model as numbers around 0, (C, T, H, W).

The mean of every channel is taken away: what moves on a dark ground lies far from 0 on the average, and one jump from noise
would begin with that error. Frames may have a part of the noise in common (`noise.py`).
"""

__all__ = ["VideoModality"]

import torch

from cm_multimodal.batch import told
from cm_multimodal.editing import Measurement
from cm_multimodal.errors import DataError
from cm_multimodal.modality import Board, Dataset, Modality, Splits, TensorSpec
from cm_multimodal.random import Draws
from collections.abc import Mapping
from einops import rearrange
from pathlib import Path
from torch import Tensor
from typing import Any

from . import data, edit, metrics, preview
from .net import build_net
from .noise import SharedNoise

FITTED_TO = 2000  # clips


class VideoModality(Modality):
    """Clips of one length and one size; grey ones keep one channel."""

    name = "video"
    classifier = "support vectors (C = 10) on centred frames"
    measures = tuple(metrics.MEASURES)
    by_train = tuple(sorted(metrics.BY_TRAIN))
    kinds = preview.KINDS
    edits = edit.EDITS

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec)
        try:
            self.fps = float(spec.settings["fps"])
            self.mean = torch.tensor(spec.settings["mean"], dtype=torch.float32)[:, None, None]
            self.noise = SharedNoise(float(spec.settings["shared"]), spec.shape[1])
            if not (len(spec.shape) == 4 and self.mean.numel() == spec.shape[0] and self.fps > 0):
                raise ValueError(
                    f"its shape is {spec.shape}, with {self.mean.numel()} means and {self.fps:g} frames a second"
                )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"This is no specification of clips: {error}") from error

    @classmethod
    def dataset(cls, config: Mapping[str, Any]) -> Splits:
        return data.load(config)

    @classmethod
    def describe(cls, train: Dataset, config: Mapping[str, Any]) -> TensorSpec:
        options = data.options_of(config)
        part = _scaled(train.raw[torch.linspace(0, len(train) - 1, min(len(train), FITTED_TO)).long()]).double()
        mean = part.mean(dim=(0, 1, 3, 4))
        frames, channels, *sides = train.raw.shape[1:]
        seen = SharedNoise(options.shared, frames).whitened((part - mean[:, None, None]).transpose(1, 2))
        settings = {
            "fps": options.shown_fps,
            "mean": [round(value, 6) for value in mean.tolist()],
            "shared": options.shared,
        }
        return TensorSpec((channels, frames, *sides), max(float(seen.std()), 1e-3), train.classes, settings=settings)

    def encode(self, raw: Tensor) -> Tensor:
        return self.noise.whitened((_scaled(raw) - self.mean.to(raw.device)).transpose(1, 2)).contiguous()

    def decode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if not x.isfinite().all():
            raise DataError("A generated clip holds values that are no numbers: the model has diverged, or is damaged.")
        x = self.noise.coloured(x.float()).transpose(1, 2) + self.mean.to(x.device)
        return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).contiguous()

    def net(self, config: Mapping[str, Any], two_times: bool) -> torch.nn.Module:
        return build_net(config, self.spec, two_times)

    def preview(self, rows: Mapping[str, Tensor], file: Path) -> Path:
        return preview.strip(rows, file, self.fps)

    def write(self, raw: Tensor, names: list[str], folder: Path, kind: str | None = None) -> list[Path]:
        return preview.write_files(raw, names, folder, self.fps, kind or self.kinds[0])

    def check_kind(self, kind: str) -> None:
        preview.check_kind(kind)

    def arrays(self, raw: Tensor) -> dict[str, Any]:
        return preview.arrays(raw, self.fps)

    def features(self, raw: Tensor, config: Mapping[str, Any]) -> Tensor:
        return metrics.features(raw, config)

    def extractor(self, config: Mapping[str, Any]) -> str:
        return metrics.extractor(config)

    def vectors(self, raw: Tensor) -> Any:
        return metrics.vectors(raw)

    def measure(self, name: str, samples: Dataset, real: Splits, config: Mapping[str, Any]) -> float:
        return metrics.measure(name, samples, real)

    def duration(self) -> float | None:
        return self.spec.shape[1] / self.fps

    def board(self, rows: Mapping[str, Tensor], writer: Board, samples: int) -> None:
        for name, raw in rows.items():
            writer.add_images(name, rearrange(raw, "n t c h w -> n c h (t w)"), samples)

    def measurement(self, how: str, options: Mapping[str, Any]) -> Measurement:
        if how not in self.edits:
            return super().measurement(how, options)
        return edit.measurement(how, self.spec.shape, self.noise)

    def closeness(self, how: str, edited: Tensor, real: Tensor) -> Mapping[str, float]:
        known = edit.given(how, real.shape[1])
        copied = edit.copied(real, known)
        return {
            "peak signal-to-noise ratio of the frames drawn, in decibels": metrics.psnr(edited, real, known),
            "that of the nearest given frame in their place": metrics.psnr(copied, real, known),
            "structural similarity of the frames drawn": metrics.ssim(edited, real, known),
            "that of the nearest given frame in their place, likewise": metrics.ssim(copied, real, known),
        }

    def told(self, x: Tensor, draws: Draws) -> Tensor:
        return told(self.noise.coloured(x), edit.shown(draws, self.spec.shape))


def _scaled(raw: Tensor) -> Tensor:
    return raw.float() / 127.5 - 1
