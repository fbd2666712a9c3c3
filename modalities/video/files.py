r"""A folder of videos as clips in one file of memory that the system may put away: never all of it has to fit.

A video is a file (`frames.FILES`), or a sub-folder that holds nothing but pictures with a number in each name, in the order
of these numbers. Its frames are taken as they come, or at the times of a constant rate, for each time the frame that is
nearest: where the video is slower, frames come twice. Then every so manieth of them counts. A clip begins every so many
frames and is a row of them; what is left at the end is too short for one. Of a damaged video, the clips before that count.

Videos are decoded side by side, by threads and not by processes: for about four fifths of a frame's time FFmpeg and Pillow
let go of Python's lock, and a process would take seconds to begin. Each thread fills a temporary file with the clips of a
video; these are joined in the order of the videos, whatever order they are done in. In memory are, of every video that is
being decoded, the frames that its decoder holds, and the last few, resized.
"""

__all__ = ["Form", "Poured", "Video", "Videos", "clips_of", "find_videos", "pour"]

import contextlib
import math
import numpy as np
import os
import re
import shutil
import tempfile
import time
import torch

from cm_multimodal import signals
from cm_multimodal.errors import DataError, UserError
from cm_multimodal.listing import Kind, find_files, readable, reason_of
from cm_multimodal.modality import Skipped
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from threading import Event
from torch import Tensor
from typing import BinaryIO

from .frames import FILES, MAX_FRAMES, STILL, Frame, Shape, frames_of_file, frames_of_pictures

VIDEO = Kind("video", (*FILES, *STILL), (b"",), 2**28)
AMID_OTHERS = "a picture that lies beside videos, or beside pictures without a number in their names"
HERE = PurePosixPath("(the folder itself)")
MOST_THREADS = 8
AHEAD = 2  # videos handed to each thread
PIECE = 2**20  # bytes copied at a time
LEAST_TIME = 1e-6  # seconds

Video = Callable[[Shape], Iterator[Frame]]


@dataclass(frozen=True)
class Form:
    """What clips look like, and how videos are cut into them.

    Arguments:
        shape: The channels (1 or 3), the height and the width of a frame.
        frames: The frames of a clip.
        step: Every how manieth frame counts.
        stride: From one clip's first frame to that of the next, in frames that count.
        fps: The constant rate that frames are taken at, in frames a second; none: as they come.
        motion: By how much the values of a clip, 0 to 255, change at least from frame to frame, in the mean.
        most: The largest number of clips of one video.
    """

    shape: Shape
    frames: int
    step: int
    stride: int
    fps: float | None = None
    motion: float = 0.0
    most: int | None = None

    @property
    def bytes(self) -> int:
        """The size of a clip in memory."""
        return self.frames * math.prod(self.shape)

    @property
    def needed(self) -> int:
        """The frames of the shortest video that has a clip."""
        return (self.frames - 1) * self.step + 1


@dataclass(frozen=True)
class Videos:
    """What gives the frames of each video that was found, by its path, in order; and what could not be used."""

    by_path: dict[PurePosixPath, Video]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Poured:
    """The clips of videos.

    Arguments:
        raw: All of them, with shape (N, T, C, H, W), in uint8, on the disk until they are looked at.
        counts: How many clips each video has.
        reasons: Why a video has none, or none from some place on; empty for the others.
        seconds: How long it took to read them.
    """

    raw: Tensor
    counts: tuple[int, ...]
    reasons: tuple[str, ...]
    seconds: float

    @property
    def note(self) -> str:
        """How fast they were read."""
        pace = len(self.raw) / max(self.seconds, 1e-9)
        return (
            f"{len(self.raw):,} clips of {len(self.counts):,} videos read in {self.seconds:.1f} s, {pace:,.0f} a second"
        )


def find_videos(folder: str | Path | None) -> Videos:
    """Finds the videos of a folder or of a .zip of one.

    Raises:
        UsageError: It is not given, or there is no such folder.
        DataError: There is none in it.
    """
    listing = find_files(VIDEO, folder)
    found: dict[PurePosixPath, Video] = {}
    amid: list[Skipped] = []
    neighbours: dict[PurePosixPath, list[PurePosixPath]] = {}
    for path in listing.openers:
        neighbours.setdefault(path.parent, []).append(path)
    for place, paths in neighbours.items():
        stills = {path for path in paths if path.suffix.lower() in STILL}
        if len(stills) == len(paths) and all(re.search(r"\d", path.stem) for path in paths):
            openers = [listing.openers[path] for path in sorted(paths, key=_by_number)]
            found[place if place.parts else HERE] = partial(frames_of_pictures, openers)
            continue
        found |= {path: partial(frames_of_file, listing.openers[path]) for path in paths if path not in stills}
        amid += [Skipped(readable(path), AMID_OTHERS) for path in paths if path in stills]
    if not found:
        raise DataError(
            f"'{folder}' holds no video, only pictures; those of a video lie in a folder of their own, with a number in "
            "each name."
        )
    return Videos({path: found[path] for path in sorted(found)}, (*listing.skipped, *amid))


def _by_number(path: PurePosixPath) -> list[str | tuple[int, str]]:
    """Orders names by the numbers in them, so that 2 comes before 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if place % 2 else part for place, part in enumerate(parts)]


def clips_of(frames: Iterator[Frame], form: Form) -> Iterator[np.ndarray]:
    """Yields the clips of a video, each with shape (T, C, H, W), in uint8; an error in `frames` comes after those before it.

    Raises:
        ValueError: It has none; the message says why.
    """
    window: deque[np.ndarray] = deque(maxlen=form.frames)
    total = cut = kept = 0
    for total, frame in enumerate(frames if form.fps is None else _paced(frames, form.fps), 1):
        number, between = divmod(total - 1, form.step)
        if between:
            continue
        if number % form.stride < form.frames:
            window.append(frame.pixels())
        begin = number + 1 - form.frames
        if begin >= 0 and begin % form.stride == 0:
            clip, cut = np.stack(window), cut + 1
            if _motion(clip) >= form.motion:
                kept += 1
                yield clip
    if total < form.needed:
        at = "" if form.fps is None else f" at data.fps={form.fps:g}"
        raise ValueError(f"it has {total} frame{'s' * (total != 1)}{at}, a clip needs {form.needed}")
    if not kept:
        raise ValueError(f"none of its {cut} clips moves by as much as data.motion={form.motion:g}")


def _motion(clip: np.ndarray) -> float:
    return float(np.abs(np.diff(clip.astype(np.int16), axis=0)).mean())


def _paced(frames: Iterator[Frame], fps: float) -> Iterator[Frame]:
    """Yields the frame nearest to each of evenly spaced times; frames that know no time come as they are."""
    before, first, now, number = None, 0.0, 0.0, 0
    for frame in frames:
        if frame.time is None:
            yield frame
            continue
        if before is None:
            first = frame.time
        else:
            while first + number / fps <= (now + frame.time) / 2:
                yield before
                number += 1
                if number == MAX_FRAMES:
                    raise ValueError(f"it has more than {MAX_FRAMES:,} frames at data.fps={fps:g}, which are not taken")
        before, now = frame, frame.time
    while before is not None and first + number / fps <= now + LEAST_TIME:
        yield before
        number += 1


@dataclass(frozen=True)
class _Part:
    """The clips of one video, written to a file that is now at its end."""

    file: BinaryIO
    count: int
    reason: str


def pour(videos: Sequence[Video], form: Form, max_bytes: int) -> Poured:
    """Cuts videos into clips, in order.

    Arguments:
        videos: What gives the frames of each.
        form: What clips look like.
        max_bytes: The largest size of all clips together.

    Raises:
        UsageError: A decoder is not installed.
        DataError: The clips are too large, or the disk is full.
    """
    parts: list[_Part] = []
    begin = time.perf_counter()
    threads, stop = min(MOST_THREADS, os.cpu_count() or 1), Event()
    with signals.deferred(), tempfile.TemporaryFile() as file, ThreadPoolExecutor(threads) as pool:
        rest, waiting = iter(videos), deque[Future[_Part]]()
        try:
            while len(parts) < len(videos):
                room = max_bytes - file.tell()
                ahead = islice(rest, AHEAD * threads - len(waiting))
                waiting.extend(pool.submit(_fill, video, form, room, stop) for video in ahead)
                parts.append(waiting.popleft().result())
                _join(file, parts[-1].file, max_bytes)
        finally:
            stop.set()
        file.flush()
        shape = (sum(part.count for part in parts), form.frames, *form.shape)
        raw = np.memmap(file, np.uint8, "r+", shape=shape) if shape[0] else np.zeros(shape, np.uint8)
    counts, reasons = tuple(part.count for part in parts), tuple(part.reason for part in parts)
    return Poured(torch.from_numpy(raw), counts, reasons, time.perf_counter() - begin)


def _fill(video: Video, form: Form, room: int, stop: Event) -> _Part:
    """Writes the clips of a video to a file, and says why there are no more of them."""
    file, count, reason = tempfile.TemporaryFile(), 0, ""  # noqa: SIM115 (it is closed by whoever joins it)
    try:
        for clip in islice(clips_of(_until(stop, video(form.shape)), form), form.most):
            with _disk():
                file.write(clip.tobytes())
            count += 1
            _check_size(count * form.bytes, room)
    except UserError:
        file.close()
        raise
    except Exception as error:  # a decoder fed with foreign bytes may raise anything
        reason = reason_of(error)
    return _Part(file, count, f"only its first {count:,} clips are used: {reason}" if count and reason else reason)


def _until(stop: Event, frames: Iterator[Frame]) -> Iterator[Frame]:
    for frame in frames:
        signals.check()
        if stop.is_set():
            return
        yield frame


def _join(file: BinaryIO, part: BinaryIO, max_bytes: int) -> None:
    with part, _disk():
        part.seek(0)
        shutil.copyfileobj(part, file, PIECE)
    _check_size(file.tell(), max_bytes)


def _check_size(size: int, room: int) -> None:
    if size > room:
        raise DataError(
            "The clips take more than data.max_bytes=; type a larger one, a smaller data.size, a larger data.stride, or a "
            "largest number of clips of each video, data.clips_per_file=."
        )


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The clips cannot be kept in '{tempfile.gettempdir()}': {reason_of(error)}; set TMPDIR to a larger disk."
        ) from error
