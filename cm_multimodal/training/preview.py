r"""The preview of a run: the same noise through 1, 2, 4 steps and so on, above real samples."""

__all__ = ["draw", "preview_rows"]

import dataclasses
import shutil
import torch

from collections.abc import Mapping
from pathlib import Path
from torch import Tensor

from ..bundle import Bundle, Card, assemble, empty_map
from ..generation.editing import edit
from ..generation.sampling import collect, make_plan
from ..modality import Board, Dataset, find_modality


def preview_rows(bundle: Bundle, test: Dataset, device: torch.device, columns: int = 10) -> dict[str, Tensor]:
    """Returns named rows of raw samples, each with shape (columns, *)."""
    small = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, chunk=columns))
    pick = _one_of_each(test, columns) if len(test) else torch.arange(0)
    real = Dataset(test.raw[pick], None if test.label is None else test.label[pick], classes=test.classes)
    counts = bundle.modality.previewed
    rows = {f"{steps} step{'s' * (steps > 1)}": _drawn(small, real, steps, columns, device) for steps in counts}
    return rows | {"real": real.raw} if len(test) else rows


def _drawn(bundle: Bundle, real: Dataset, steps: int, columns: int, device: torch.device) -> Tensor:
    if bundle.modality.alone:
        return collect(bundle, make_plan(bundle, n=columns, steps=steps), device).raw
    measurement = bundle.modality.measurement(bundle.modality.edits[0], {})
    return edit(bundle, make_plan(bundle, n=len(real), steps=steps), real, measurement, device).raw


def draw(
    card: Card, weights: Mapping[str, Tensor], test: Dataset, folder: Path, device: torch.device,
    board: Board | None = None,
) -> Path:  # fmt: skip
    """Draws the preview of averaged weights into a folder, and on a board; `preview` is always the newest."""
    modality = find_modality(card.modality)(card.spec)
    rows = preview_rows(assemble(card, modality, empty_map(card, modality), weights), test, device)
    file = modality.preview(rows, folder / f"preview-{card.samples_seen:012d}")
    if board is not None:
        modality.board(rows, board, card.samples_seen)
    shutil.copyfile(file, file.with_stem("preview"))
    return file


def _one_of_each(test: Dataset, columns: int) -> Tensor:
    """Returns the indices of samples whose classes count through the columns."""
    if test.label is None or not test.classes:
        return torch.arange(columns) % len(test)
    places = [torch.nonzero(test.label == c % len(test.classes))[:, 0] for c in range(columns)]
    return torch.stack(
        [p[c // len(test.classes) % len(p)] if len(p) else torch.tensor(0) for c, p in enumerate(places)]
    )
