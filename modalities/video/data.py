r"""Data sets of videos, as clips of one form: uint8 tensors of shape (N, T, C, H, W).

    moving_digits  scikit-learn's real 8x8 digits, which drift and bounce (`moving.py`): it needs no file; the training clips
                   show the 1,400 pictures that train in `modalities.image`, the test clips the other 397
    moving_mnist   the same with the digits of MNIST, from its idx files
    clips          real videos of 64x64 pixels, packed: video/clips64.npz; every fifth file tests
    folder         the videos of a folder, or of a .zip of one (`files.py`); its sub-folders are the classes

How videos become clips is said in `files.py`. Frames have 64 pixels a side where nobody asks for another size: the size that
videos are filmed in is far too large to learn from. A video is learned from or held back as a whole, never a part of it.
"""

__all__ = ["Options", "load", "options_of"]

import numpy as np
import torch
import zipfile

from cm_multimodal.errors import DataError, UsageError, nearest
from cm_multimodal.listing import BESIDE, class_of, data_root, hold_out, readable, reason_of
from cm_multimodal.modality import Dataset, Skipped, Splits
from cm_multimodal.random import Draws
from cm_multimodal.values import check_values, fits
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from PIL import Image
from typing import Any, get_type_hints

from ..image.data import load as load_pictures
from .files import Form, clips_of, find_videos, pour
from .frames import Frame, pixels_of
from .moving import Motion, moving

TEST_EVERY = 5
TEST_SHARE = 10  # of as many computed clips as train, one tenth
SHOWN_FPS = 10.0
BATCH = 1000  # clips computed at a time
MOST_SIDE = 4096
STILLS = {"moving_digits": "digits", "moving_mnist": "idx"}  # data sets of pictures that move
DAMAGE = (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile)
COMMON = {"name", "root", "frames", "size", "channels", "fps", "shared", "limit", "max_bytes"}
MOVING = COMMON | {"together", "slowest", "fastest", "picture", "count"}
CUT = COMMON | {"step", "stride", "motion"}
READ = {
    "moving_digits": MOVING,
    "moving_mnist": MOVING | {"path"},
    "clips": CUT | {"path"},
    "folder": CUT | {"folder", "clips_per_file", "test_fraction"},
}
USUAL: dict[str, dict[str, Any]] = {
    "moving_digits": {},
    "moving_mnist": {
        "path": "image/mnist", "frames": 16, "size": 32, "picture": 16, "slowest": 0.8, "fastest": 2.4,
    },
    "clips": {"path": "video/clips64.npz", "frames": 16, "size": 64, "channels": 3},
    "folder": {"frames": 16, "size": 64, "channels": 3},
}  # fmt: skip
RANGES: dict[str, tuple[float, float]] = {
    "frames": (2, 1024), "step": (1, 1000), "stride": (1, 20_000), "together": (1, 16), "slowest": (0, 1000),
    "fastest": (0, 1000), "picture": (1, 4096), "count": (1, 10**9), "fps": (0.1, 1000), "motion": (0, 255),
    "shared": (0, 0.999), "clips_per_file": (1, 10**9), "limit": (1, 10**9), "max_bytes": (1, 2**60),
    "test_fraction": (0, 0.999),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The `data` group of the configuration; what is left out is as usual for the source (`USUAL`).

    Arguments:
        name: Which source: moving_digits, moving_mnist, clips or folder.
        root: Where data sets lie; `$CMM_DATA`, or else `./data`.
        folder: The folder of videos (folder).
        path: The sub-path below the root (moving_mnist, clips).
        frames: The frames of a clip.
        size: The pixels of a frame's side, or its height and width.
        channels: One (grey) or three (colour).
        step: Every how manieth frame of a video is taken (clips, folder).
        stride: From one clip's first frame to that of the next, in frames taken; none: as many as it has (clips, folder).
        motion: By how much the values of a clip, 0 to 255, change at least from frame to frame, in the mean (clips, folder).
        fps: The constant rate that videos are taken at, and clips are shown at, in frames a second; none: as they come.
        clips_per_file: The largest number of clips of one video, from its begin on (folder).
        test_fraction: The share of videos that is held back (folder).
        together: The pictures in a clip; with more than one, clips have no class (moving sets).
        slowest: The lowest speed, in pixels a frame (moving sets).
        fastest: The highest (moving sets).
        picture: The pixels of a moving picture's side (moving sets).
        count: The training clips; a tenth as many test (moving sets).
        limit: The largest number of training clips; of a folder, of videos to learn from.
        max_bytes: The largest size of all clips.
        shared: The share of the noise's variance that all frames of a clip have in common (`noise.py`).
    """

    name: str = ""
    root: str | None = None
    folder: str | None = None
    path: str | None = None
    frames: int = 8
    size: int | Sequence[int] = 16
    channels: int = 1
    step: int = 1
    stride: int | None = None
    motion: float = 0.0
    fps: float | None = None
    clips_per_file: int | None = None
    test_fraction: float = 0.1
    together: int = 1
    slowest: float = 0.5
    fastest: float = 1.5
    picture: int = 8
    count: int = 20_000
    limit: int | None = None
    max_bytes: int = 2**32
    shared: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """The channels, the height and the width of a frame."""
        high, wide = (self.size, self.size) if isinstance(self.size, int) else self.size
        return self.channels, high, wide

    @property
    def form(self) -> Form:
        """What clips look like, and how videos are cut into them."""
        stride = self.stride or self.frames
        return Form(self.shape, self.frames, self.step, stride, self.fps, self.motion, self.clips_per_file)

    @property
    def shown_fps(self) -> float:
        """How many frames a second clips are shown at."""
        return SHOWN_FPS if self.fps is None else self.fps / self.step

    def __post_init__(self) -> None:
        for key, (least, most) in RANGES.items():
            value = getattr(self, key)
            if value is not None and not least <= value <= most:
                raise UsageError(f"data.{key}={value} is not possible; it lies between {least:,} and {most:,}.")
        sides: Sequence[Any] = [self.size]
        if isinstance(self.size, Sequence) and len(self.size) == 2:
            sides = self.size
        if not all(fits(side, int) and 1 <= side <= MOST_SIDE for side in sides):
            raise UsageError(
                f"data.size={self.size} is not possible; it is a number of pixels up to {MOST_SIDE:,}, or [height, width]."
            )
        if self.channels not in (1, 3):
            raise UsageError(f"data.channels={self.channels} is not possible; it is 1 (grey) or 3 (colour).")
        if self.name in STILLS:
            self._check_moving()

    def _check_moving(self) -> None:
        if len({*self.shape[1:]}) > 1 or self.picture > self.shape[1]:
            raise UsageError(
                f"data.name={self.name}: frames are square, and no smaller than what moves in them; data.size={self.size} "
                f"does not go with data.picture={self.picture}."
            )
        if self.slowest > self.fastest:
            raise UsageError(f"data.slowest={self.slowest:g} is more than data.fastest={self.fastest:g}.")


def options_of(config: Mapping[str, Any]) -> Options:
    """Reads the `data` group.

    Raises:
        UsageError: An option is unknown or does not fit.
    """
    kinds = get_type_hints(Options)
    given = {key: value for key, value in config.items() if value is not None}
    for key in config:
        if key not in kinds:
            raise UsageError(f"There is no option data.{key}; {nearest(str(key), kinds)}")
    check_values("data", given, kinds)
    name = given.get("name", "")
    if name not in SOURCES:
        raise UsageError(f"There is no data set data.name='{name}'; {nearest(name, SOURCES)}")
    for key in given:
        if key not in READ[name]:
            mine = " To learn from a folder: data=videos data.folder=PATH." if key == "folder" else ""
            raise UsageError(f"data.name={name} reads no data.{key}; it reads: {', '.join(sorted(READ[name]))}.{mine}")
    return Options(**{**USUAL[name], **given})


def load(config: Mapping[str, Any]) -> Splits:
    """Reads a data set of videos.

    Arguments:
        config: The `data` group of the configuration, see `Options`.

    Returns:
        Clips, with shape (N, T, C, H, W), in uint8. What was skipped, or used in part, is listed with the training split.

    Raises:
        UsageError: An option is wrong, a path does not exist, or a decoder is not installed.
        DataError: What lies there is damaged or too large, or nothing of it can be used.
    """
    options = options_of(config)
    return SOURCES[options.name](options)


def _moving(options: Options) -> Splits:
    count = min(options.count, options.limit or options.count)
    if count * options.form.bytes > options.max_bytes:
        raise UsageError(
            f"{count:,} clips of {options.frames} frames of {options.shape[1]}x{options.shape[2]} pixels take more than "
            f"data.max_bytes={options.max_bytes}; type a smaller data.count, or a larger data.max_bytes."
        )
    where = {"path": options.path, "root": options.root, "max_bytes": options.max_bytes}
    stills = load_pictures({"name": STILLS[options.name], "size": options.picture, "channels": 1, **where})
    tests = -(-options.count // TEST_SHARE)
    return Splits(_moved(stills.train, count, 0, options), _moved(stills.test, tests, 1, options))


def _moved(stills: Dataset, count: int, seed: int, options: Options) -> Dataset:
    """Returns clips of pictures that move, computed a few at a time: a clip is a function of the seed and its number."""
    motion = Motion(options.frames, options.shape[1], options.together, options.slowest, options.fastest)
    raw = torch.empty(count, options.frames, *options.shape, dtype=torch.uint8)
    which = torch.empty(count, options.together, dtype=torch.int64)
    for ids in torch.arange(count).split(BATCH):
        rows = slice(int(ids[0]), int(ids[-1]) + 1)
        raw[rows], which[rows] = moving(stills.raw[:, 0], Draws(seed, ids), motion)
    if options.together > 1 or stills.label is None:
        return Dataset(raw)
    return Dataset(raw, stills.label[which[:, 0]], classes=stills.classes)


@dataclass(frozen=True)
class Pack:
    """Videos in one file.

    Arguments:
        file: The file.
        frames: All frames, with shape (F, h, w, 3), in uint8.
        owner: The track that each belongs to, with shape (F,).
        names: The names of the tracks: a file, and which part of its frames, such as 'cars.mp4#left'.
    """

    file: Path
    frames: np.ndarray
    owner: np.ndarray
    names: tuple[str, ...]

    def track(self, number: int, shape: tuple[int, int, int]) -> Iterator[Frame]:
        """Yields the frames of a track, brought to a shape."""
        for pixels in self.frames[self.owner == number]:
            yield Frame(None, partial(pixels_of, Image.fromarray(pixels), shape))


def _unpacked(options: Options) -> Pack:
    file = data_root(options.root) / str(options.path)
    if not file.is_file():
        raise UsageError(
            f"There is no file '{file}'; set data.root= or CMM_DATA to the folder that holds {options.path}."
        )
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(info.file_size for info in archive.infolist()) > options.max_bytes:
                raise ValueError(f"it unpacks to more than data.max_bytes={options.max_bytes}")
        with np.load(file, allow_pickle=False) as arrays:
            frames, owner, names = arrays["frames"], arrays["video_of_frame"], arrays["video_names"]
        whole = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3 and frames.size > 0
        if not (whole and owner.shape == frames.shape[:1] and names.ndim == 1):
            raise ValueError("its frames and their videos do not belong together")
    except DAMAGE as error:
        raise DataError(f"'{file}' is damaged: {reason_of(error)}. Copy or download it again.") from error
    return Pack(file, frames, owner, tuple(str(name) for name in names))


def _clips(options: Options) -> Splits:
    pack, skipped = _unpacked(options), []
    files = list(dict.fromkeys(name.split("#")[0] for name in pack.names))
    learned: list[np.ndarray] = []
    held: list[np.ndarray] = []
    for number, name in enumerate(pack.names):
        side = learned if files.index(name.split("#")[0]) % TEST_EVERY else held
        try:
            side += clips_of(pack.track(number, options.shape), options.form)
        except ValueError as error:
            skipped.append(Skipped(f"{pack.file}#{name}", str(error)))
    if not learned:
        raise DataError(f"'{pack.file}': none of its videos can be learned from. {_first(skipped)}")
    some = np.linspace(0, len(learned) - 1, min(len(learned), options.limit or len(learned))).astype(int)
    none = np.zeros((0, options.frames, *options.shape), np.uint8)
    return Splits(
        Dataset(torch.from_numpy(np.stack([learned[row] for row in some])), skipped=tuple(skipped)),
        Dataset(torch.from_numpy(np.stack(held) if held else none)),
    )


def _first(skipped: Sequence[Skipped], most: int = 3) -> str:
    first = "; ".join(f"'{one.path}': {one.reason}" for one in skipped[:most])
    return f"{first}{'; and so on' * (len(skipped) > most)}."


def _folder(options: Options) -> Splits:
    videos = find_videos(options.folder)
    classes = class_of(list(videos.by_path))
    learned, held = hold_out(classes, options.test_fraction, options.limit)
    paths = [*learned, *held]
    poured = pour([videos.by_path[path] for path in paths], options.form, options.max_bytes)
    counts = dict(zip(paths, poured.counts, strict=True))
    bad = [Skipped(readable(path), reason) for path, reason in zip(paths, poured.reasons, strict=True) if reason]
    train = sum(counts[path] for path in learned)
    if not train:
        raise DataError(f"'{options.folder}': none of {len(learned)} videos can be learned from. {_first(bad)}")
    names = tuple(sorted({str(classes[path]) for path, count in counts.items() if count and classes[path] is not None}))
    rows = [names.index(str(classes[path])) for path, count in counts.items() for _ in range(count)] if names else None
    label = None if rows is None else torch.tensor(rows)
    beside = [Skipped(readable(path), BESIDE) for path in videos.by_path if path not in classes]

    def part(place: slice, skipped: Sequence[Skipped] = ()) -> Dataset:
        own = None if label is None else label[place]
        return Dataset(poured.raw[place], own, None, names, tuple(skipped), poured.note)

    return Splits(part(slice(train), [*videos.skipped, *beside, *bad]), part(slice(train, None)))


SOURCES: dict[str, Callable[[Options], Splits]] = {
    "clips": _clips,
    "folder": _folder,
    "moving_digits": _moving,
    "moving_mnist": _moving,
}
