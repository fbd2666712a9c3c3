r"""Clips to look at: a sheet of their frames, the same sheet in motion, and one file for each clip.

A GIF holds every frame, also one that is like the frame before it, so that reading it gives back as many; grey pixels come
back bit for bit, of a colour frame the 256 colours that suit it best. Its durations are hundredths of a second: the rate is
the nearest to the one asked for whose frames last a whole number of them, two at least, as browsers slow down what is
faster. An MP4 keeps the rate, is never bit for bit, and repeats the last row or column of pixels where a side is odd; it
needs PyAV.
"""

__all__ = ["KINDS", "arrays", "check_kind", "strip", "write_files"]

import importlib.util
import numpy as np
import torch

from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.files import replaced
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from PIL import GifImagePlugin, Image
from torch import Tensor
from typing import Any

from ..image.preview import COLUMNS, block, enlarged, factor, save, sheet

KINDS = ("gif", "mp4")
CLIPS, FRAMES = 4, COLUMNS  # of a row, of a clip on the sheet: a longer one is shown by that many, taken evenly
GAP, LINE, PAPER = 12, 4, "#ffffff"  # between clips side by side and below each other
LEAST = 2  # hundredths of a second
GREYS = bytes(grey for grey in range(256) for _ in range(3))
FINEST = 60_000  # denominator of a rate: 30000/1001 and its like are exact


def strip(rows: Mapping[str, Tensor], file: Path, fps: float) -> Path:
    """Writes a sheet of clips, frame beside frame, as a PNG; and in motion beside it, as a GIF, and as an MP4 with PyAV.

    Arguments:
        rows: Clips by the name of the row, with shape (N, T, C, H, W), in uint8, of which the first four are shown; a row
            without any is left out.
        file: Where to write it; the suffixes are put in place.
        fps: The frames a second.

    Returns:
        The PNG.
    """
    shown = {name: raw[:CLIPS] for name, raw in rows.items() if len(raw)}
    scale = factor(next(iter(rows.values())))
    length = max((raw.shape[1] for raw in shown.values()), default=0)
    moments = [sheet({name: _moment(raw, time, scale) for name, raw in shown.items()}) for time in range(length)]
    if all(raw.shape[2] == 1 for raw in shown.values()):
        moments = [moment.convert("L") for moment in moments]
    page = save(sheet({name: _frames(raw, scale) for name, raw in shown.items()}), file.with_suffix(".png"))
    if moments:
        _save_gif(moments, file.with_suffix(".gif"), fps)
        if importlib.util.find_spec("av"):
            _save_mp4(moments, file.with_suffix(".mp4"), fps)
    return page


def _frames(raw: Tensor, scale: int) -> Image.Image:
    """Lays the frames of clips, with shape (N, T, C, H, W), side by side; as many clips a line as there is room for."""
    pick = torch.linspace(0, raw.shape[1] - 1, min(raw.shape[1], FRAMES)).long()
    return _spread([block(clip[pick], scale) for clip in raw], max(1, FRAMES // len(pick)))


def _moment(raw: Tensor, time: int, scale: int) -> Image.Image:
    """Lays one frame of each clip, with shape (N, T, C, H, W), side by side; a clip that has ended stays as it was."""
    return _spread(enlarged(raw[:, min(time, raw.shape[1] - 1)], scale), CLIPS)


def _spread(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lays images of one size side by side, in lines of so many, with gaps that tell them from frames."""
    width, height = images[0].width + GAP, images[0].height + LINE
    size = min(len(images), columns) * width - GAP, -(-len(images) // columns) * height - LINE
    page = Image.new("RGB", size, PAPER)
    for index, image in enumerate(images):
        page.paste(image, (index % columns * width, index // columns * height))
    return page


def write_files(raw: Tensor, names: list[str], folder: Path, fps: float, kind: str = "gif") -> list[Path]:
    """Writes one file for each clip, and returns the files.

    Arguments:
        raw: Clips with shape (N, T, C, H, W), in uint8.
        names: Their names without the suffix; a slash in it makes a sub-folder.
        folder: Where to write them.
        fps: The frames a second.
        kind: 'gif', or 'mp4', which needs PyAV.

    Raises:
        UsageError: There is no such kind, or PyAV is not installed.
    """
    check_kind(kind)
    write = _save_gif if kind == "gif" else _save_mp4
    files = [folder / f"{name}.{kind}" for name in names]
    for clip, file in zip(raw, files, strict=True):
        write(enlarged(clip, scale=1), file, fps)
    return files


def check_kind(kind: str) -> None:
    """Raises a UsageError where there is no such kind of files, or PyAV is not installed."""
    if kind not in KINDS:
        raise UsageError(f"Clips are not written as '{kind}'; {nearest(kind, KINDS)}")
    if kind == "mp4" and not importlib.util.find_spec("av"):
        raise UsageError("MP4 files are written by PyAV, which is not installed: type 'pip install av', or write GIFs.")


def _save_gif(images: Sequence[Image.Image], file: Path, fps: float) -> None:
    """Writes images, in grey or RGB, as a GIF that goes on for ever.

    Pillow's own writer leaves out a frame that is like the one before it.
    """
    duration = 10 * max(LEAST, round(100 / fps))
    indexed = [_indexed(image) for image in images]
    header, _ = GifImagePlugin.getheader(indexed[0], info={"loop": 0})
    own = images[0].mode != "L"
    frames = [GifImagePlugin.getdata(image, duration=duration, include_color_table=own) for image in indexed]
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file, durable=False) as part:
        part.write_bytes(b"".join([*header, *(piece for frame in frames for piece in frame), b";"]))


def _indexed(image: Image.Image) -> Image.Image:
    """Returns an image with a palette: all greys of a grey one, the best 256 colours of another."""
    if image.mode != "L":
        return image.quantize(256)
    grey = image.copy()
    grey.putpalette(GREYS)
    return grey


def _save_mp4(images: Sequence[Image.Image], file: Path, fps: float) -> None:
    """Writes images as H.264, or MPEG-4 part 2 where there is no encoder for it, in a form that every player knows."""
    import av

    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file, durable=False) as part, av.open(str(part), "w", format="mp4") as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(FINEST))
        pixels = [_even(image) for image in images]
        stream.height, stream.width, stream.pix_fmt = *pixels[0].shape[:2], "yuv420p"
        stream.codec_context.thread_count = 1  # on which the bytes depend
        for one in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
        container.mux(stream.encode())


def _even(image: Image.Image) -> np.ndarray:
    """Returns the pixels of an image, with shape (H, W, 3), its last row and column repeated to make them even."""
    return np.pad(np.asarray(image.convert("RGB")), ((0, image.height % 2), (0, image.width % 2), (0, 0)), mode="edge")


def arrays(raw: Tensor, fps: float) -> dict[str, Any]:
    """Returns what `samples.npz` holds of clips with shape (N, T, C, H, W): `x`, with shape (N, T, H, W, C), and `fps`."""
    return {"x": raw.permute(0, 1, 3, 4, 2).contiguous().numpy(), "fps": float(fps)}
