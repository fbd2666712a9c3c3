r"""The image modality: pictures as uint8 tensors of shape (C, H, W), seen by the model as numbers in [-1, 1]."""

__all__ = ["ImageModality"]

import torch

from cm_multimodal.editing import Measurement
from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.modality import Board, Dataset, Modality, Splits, TensorSpec
from collections.abc import Mapping
from pathlib import Path
from torch import Tensor
from typing import Any, ClassVar

from . import data, edit, inception, metrics, preview
from .net import build_net


class ImageModality(Modality):
    """Pictures of one size; grey ones keep one channel."""

    name = "image"
    classifier = "support vectors (C = 10) on pixels"
    kinds = ("png",)
    edits = edit.EDITS
    published: ClassVar = {"inception": inception.PICTURES}

    @classmethod
    def dataset(cls, config: Mapping[str, Any]) -> Splits:
        return data.load(config)

    @classmethod
    def describe(cls, train: Dataset, config: Mapping[str, Any]) -> TensorSpec:
        part = train.raw[torch.linspace(0, len(train) - 1, min(len(train), 10_000)).long()]
        sigma = float((part.double() / 127.5).std())
        return TensorSpec(tuple(train.raw.shape[1:]), max(sigma, 1e-3), train.classes)

    def encode(self, raw: Tensor) -> Tensor:
        return raw.float() / 127.5 - 1

    def decode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def net(self, config: Mapping[str, Any], two_times: bool) -> torch.nn.Module:
        return build_net(config, self.spec, two_times)

    def preview(self, rows: Mapping[str, Tensor], file: Path) -> Path:
        return preview.grid(rows, file.with_suffix(".png"))

    def write(self, raw: Tensor, names: list[str], folder: Path, kind: str | None = None) -> list[Path]:
        return preview.write_files(raw, names, folder)

    def arrays(self, raw: Tensor) -> dict[str, Any]:
        return {"x": raw.permute(0, 2, 3, 1).contiguous().numpy()}

    def features(self, raw: Tensor, config: Mapping[str, Any]) -> Tensor:
        return metrics.features(raw, config)

    def extractor(self, config: Mapping[str, Any]) -> str:
        return metrics.extractor(config)

    def vectors(self, raw: Tensor) -> Any:
        return metrics.vectors(raw)

    def board(self, rows: Mapping[str, Tensor], writer: Board, samples: int) -> None:
        for name, raw in rows.items():
            writer.add_images(name, raw, samples)

    def measurement(self, how: str, options: Mapping[str, Any]) -> Measurement:
        if how not in self.edits:
            return super().measurement(how, options)
        return edit.measurement(how, options, self.spec.shape)

    def augment(self, x: Tensor, uniform: Tensor, config: Mapping[str, Any]) -> Tensor:
        for key in config:
            if key != "flip":
                raise UsageError(f"There is no setting 'train.augment.{key}'; {nearest(key, ['flip'])}")
        if not config.get("flip"):
            return x
        return torch.where((uniform < config["flip"])[:, None, None, None], x.flip(-1), x)
