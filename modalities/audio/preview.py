r"""Clips to listen to and to look at: WAV files, and a sheet of waveforms and mel spectrograms."""

__all__ = ["KINDS", "check_heard", "sheet", "write_files"]

import errno
import soundfile
import torch

from cm_multimodal.errors import DataError
from cm_multimodal.files import replaced
from collections.abc import Mapping
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pathlib import Path
from torch import Tensor
from torch.nn import functional as F

from .clips import to_wave
from .metrics import log_mel

KINDS = ("wav", "flac")
COLUMNS = 8
PAUSE = 0.15  # seconds between the clips of a row
INK, QUIET = "#2563a8", "#6b7280"
QUIETEST, LOUDEST = -11.5, 3.0  # of the logarithms of mel amplitudes


def write_files(raw: Tensor, names: list[str], rate: int, folder: Path, kind: str = "wav") -> list[Path]:
    """Writes one file, of 16 bits, for each clip, and returns the files.

    Arguments:
        raw: Clips with shape (N, T), in int16.
        names: Their names without the suffix; a slash in it makes a sub-folder.
        rate: The samples a second.
        folder: Where to write them.
        kind: One of `KINDS`; both hold the clip bit for bit.

    Raises:
        DataError: A clip is silent; none of them is written.
    """
    check_heard(raw, names)
    files = [folder / f"{name}.{kind}" for name in names]
    for clip, file in zip(raw, files, strict=True):
        _save(clip, rate, file, kind)
    return files


def check_heard(raw: Tensor, names: list[str]) -> None:
    """Refuses clips, with shape (N, T), of which one is silent.

    Raises:
        DataError: The message counts them, and names the first.
    """
    silent = [name for clip, name in zip(raw, names, strict=True) if not clip.any()]
    if silent:
        raise DataError(
            f"{len(silent)} of {len(raw)} generated clips are silent, '{silent[0]}' first; nothing was written."
        )


def sheet(rows: Mapping[str, Tensor], rate: int, file: Path) -> Path:
    """Writes a PNG with a row of waveforms and mel spectrograms for each entry, and the row's sound as a WAV beside it.

    Arguments:
        rows: Clips by the name of the row, with shape (N, T), in int16; a row without any is left out.
        rate: The samples a second.
        file: Where to write it, without the suffix.
    """
    shown = {name: raw[:COLUMNS] for name, raw in rows.items() if len(raw)}
    columns = max((len(raw) for raw in shown.values()), default=1)
    figure = Figure(figsize=(1.6 * columns + 1, 1.3 * len(shown) + 0.2))
    edges = {"left": 0.1, "right": 0.99, "top": 0.99, "bottom": 0.01, "hspace": 0.06}
    heights = {"height_ratios": [1, 2] * len(shown), **edges}
    parts = figure.subplots(2 * len(shown), 1, squeeze=False, gridspec_kw=heights)[:, 0]
    for index, (name, raw) in enumerate(shown.items()):
        _draw(parts[2 * index], parts[2 * index + 1], raw, rate, columns)
        parts[2 * index + 1].set_ylabel(name, color=QUIET, rotation=0, ha="right", va="center")
        pause = torch.zeros(len(raw), round(PAUSE * rate), dtype=raw.dtype)
        _save(torch.cat([raw, pause], dim=1).flatten(), rate, file.with_name(f"{file.name}-{_plain(name)}.wav"))
    with replaced(file.with_suffix(".png"), durable=False) as part:
        figure.savefig(part, format="png", dpi=110)
    return file.with_suffix(".png")


def _draw(line: Axes, picture: Axes, raw: Tensor, rate: int, columns: int) -> None:
    """Draws clips side by side: waveforms above, mel spectrograms below."""
    wave, mel = to_wave(raw), log_mel(raw, rate)
    gap = wave.shape[1] // 16
    line.plot(F.pad(wave, (0, gap), value=float("nan")).flatten().numpy(), color=INK, linewidth=0.3)
    line.set(xlim=(0, columns * (wave.shape[1] + gap) - gap), ylim=(-1, 1))
    edge = mel.shape[2] // 16
    sheet = rearrange(F.pad(mel, (0, edge), value=float("nan")), "n f t -> f (n t)")
    picture.imshow(sheet.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=QUIETEST, vmax=LOUDEST)
    picture.set_xlim(-0.5, columns * (mel.shape[2] + edge) - edge - 0.5)
    for axes in (line, picture):
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)


def _save(clip: Tensor, rate: int, file: Path, kind: str = "wav") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replaced(file, durable=False) as part:
            soundfile.write(part, clip.numpy(), rate, format=kind.upper(), subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise OSError(errno.EIO, str(error), str(file)) from error


def _plain(name: str) -> str:
    """Returns the name of a row as a part of a file's name."""
    return "".join(letter if letter.isalnum() else "-" for letter in name) or "row"
