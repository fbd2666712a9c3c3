r"""What both toy modalities share: plain files, plain previews."""

__all__ = ["ToyModality"]


from cm_multimodal.modality import Modality
from collections.abc import Mapping
from pathlib import Path
from torch import Tensor
from typing import Any


class ToyModality(Modality):
    """Writes samples as text."""

    classifier = "logistic regression"
    kinds = ("txt",)

    def preview(self, rows: Mapping[str, Tensor], file: Path) -> Path:
        file = file.with_suffix(".txt")
        file.write_text("".join(f"{name}: {row.tolist()}\n" for name, row in rows.items()))
        return file

    def write(self, raw: Tensor, names: list[str], folder: Path, kind: str | None = None) -> list[Path]:
        files = [folder / f"{name}.txt" for name in names]
        for file, each in zip(files, raw, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{each.tolist()}\n")
        return files

    def arrays(self, raw: Tensor) -> dict[str, Any]:
        return {"x": raw.numpy()}

    def features(self, raw: Tensor, config: Mapping[str, Any]) -> Tensor:
        return raw.flatten(1).double()

    def vectors(self, raw: Tensor) -> Any:
        return raw.flatten(1).double().numpy()
