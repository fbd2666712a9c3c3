r"""Decoding videos that others made to frames: uint8 pixels of shape (C, H, W), one after the other, never all at once.

    MP4, MOV, WebM, MKV, AVI     through PyAV (FFmpeg), which the extra `video` installs
    GIF                          through Pillow; transparency is laid on white
    numbered pictures            through Pillow, in the order of their numbers

Frames come in the order in which they are shown, with the time of each where the video knows one, and upright where it notes
that the camera was turned by quarters. A frame is cropped around its centre to the wanted proportions and resampled, as
pictures are, when somebody asks for its pixels: one that nobody asks for costs its decoding alone.

The bytes are hostile. What a file is called counts for nothing, only the containers above are tried (a playlist, which could
name other files, is none of them), pixels are counted before they are decoded, and so are frames. What decodes before the
first damage is good. One thread decodes a video: what damage does must not depend on the machine.
"""

__all__ = ["FILES", "MAX_FRAMES", "STILL", "Frame", "Shape", "frames_of_file", "frames_of_pictures", "pixels_of"]

import numpy as np
import threading

from cm_multimodal.errors import UsageError
from cm_multimodal.listing import Opener
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from PIL import Image
from typing import Any, BinaryIO

from ..image.pictures import PICTURE, decode, fit

FILES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")
STILL = tuple(extension for extension in PICTURE.extensions if extension not in FILES)
CONTAINERS = "mov,mp4,matroska,webm,avi"  # by FFmpeg's names
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # one of them is the first in an MP4 or MOV
MAX_PIXELS = 2**25  # of one frame of a file: as many as 8K has
MAX_FRAMES = 20_000  # read of one video: eleven minutes at 30 a second
LEAST_READ = 0.9  # of the seconds that a header promises
USUAL_RATE = 25  # frames a second, where a video knows no times
USUAL_DELAY = 0.1  # seconds of a GIF's frame that says 0, as browsers have it
SPARE = 2  # times as large as it is wanted, a frame is left to Pillow
BLOCK = 64  # pictures decoded at a time
QUARTERS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
ONE_AT_A_TIME = threading.Lock()

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Arguments:
        time: When it is shown, in seconds; none where the video does not say.
        pixels: What gives its pixels, with shape (C, H, W), in uint8.
    """

    time: float | None
    pixels: Callable[[], np.ndarray]


def pixels_of(image: Image.Image, shape: Shape, turn: int = 0) -> np.ndarray:
    """Returns the pixels of an opaque picture, with shape (C, H, W), in uint8.

    Arguments:
        image: The picture.
        shape: The channels (1 or 3), the height and the width to bring it to.
        turn: By how many degrees to turn it against the clock; what is no multiple of 90 counts as 0.
    """
    channels, height, width = shape
    quarters = turn % 360
    size = (width, height) if quarters in (90, 270) else (height, width)
    plain = fit(image.convert("L" if channels == 1 else "RGB"), size)
    upright = plain.transpose(QUARTERS[quarters]) if quarters in QUARTERS else plain
    return np.ascontiguousarray(np.asarray(upright).reshape(height, width, channels).transpose(2, 0, 1))


def frames_of_file(opener: Opener, shape: Shape) -> Iterator[Frame]:
    """Yields the frames of a video file, up to `MAX_FRAMES`.

    Arguments:
        opener: What opens it.
        shape: The channels, the height and the width to bring them to.

    Raises:
        UsageError: PyAV is needed, and is not installed.
        ValueError: It is no video, it is damaged from here on, or too long; the message says so.
    """
    with opener() as stream:
        head = stream.read(12)
        stream.seek(0)
        if head.startswith(b"GIF8"):
            yield from _bounded(_animation(stream, shape))
        elif head[4:8] in BOXES or head.startswith(b"\x1aE\xdf\xa3") or (head[:4], head[8:]) == (b"RIFF", b"AVI "):
            yield from _bounded(_container(stream, shape))
        else:
            raise ValueError("not a video, whatever its name says")


def frames_of_pictures(openers: Sequence[Opener], shape: Shape) -> Iterator[Frame]:
    """Yields pictures as the frames of a video that knows no times, up to `MAX_FRAMES`.

    Arguments:
        openers: What opens each of them, in order.
        shape: The channels, the height and the width to bring them to.

    Raises:
        ValueError: The next one cannot be read, or they are too many; the message says so.
    """
    yield from _bounded(_pictures(openers, shape))


def _bounded(frames: Iterator[Frame]) -> Iterator[Frame]:
    for number, frame in enumerate(frames):
        if number == MAX_FRAMES:
            raise ValueError(f"it has more than {MAX_FRAMES:,} frames, which are not read")
        yield frame


def _pictures(openers: Sequence[Opener], shape: Shape) -> Iterator[Frame]:
    for start in range(0, len(openers), BLOCK):
        with ONE_AT_A_TIME:  # it changes what becomes of warnings, for all threads
            decoded = decode(openers[start : start + BLOCK], shape)
        bad = next((number for number, reason in enumerate(decoded.reasons) if reason), None)
        for pixels in decoded.pixels.numpy()[:bad]:
            yield Frame(None, partial(np.asarray, pixels))
        if bad is not None:
            raise ValueError(f"frame {start + bad + 1}: {decoded.reasons[bad]}")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")


def _animation(stream: BinaryIO, shape: Shape) -> Iterator[Frame]:
    """Yields the frames of a GIF, each as it is seen: laid over those before it, and all of them on white."""
    time = 0.0
    with Image.open(stream, formats=["GIF"]) as image:
        for number in count():
            _check_pixels(*image.size)
            try:
                image.seek(number)
            except EOFError:
                return
            paper = Image.new("RGBA", image.size, "white")
            yield Frame(time, partial(pixels_of, Image.alpha_composite(paper, image.convert("RGBA")), shape))
            time += image.info.get("duration", 0) / 1000 or USUAL_DELAY


def _decoder() -> Any:
    try:
        import av
    except ImportError as error:
        raise UsageError(
            "Videos are decoded by PyAV, which is not installed here: pip install 'cm-multimodal[video]'. GIF files and "
            "folders of numbered pictures do without."
        ) from error
    return av


def _container(stream: BinaryIO, shape: Shape) -> Iterator[Frame]:
    """Yields the frames of a video by PyAV, and says where it ends before its time."""
    av = _decoder()
    guard = {"max_pixels": str(MAX_PIXELS)}
    options = {"format_whitelist": CONTAINERS, **guard}
    try:
        with av.open(stream, "r", options=options, metadata_errors="replace") as container:
            video = _track(av, container)
            video.codec_context.options, video.codec_context.thread_count = guard, 1
            scaler = av.video.reformatter.VideoReformatter()  # for all frames: its first use costs the most
            rate, first, end = float(video.average_rate or USUAL_RATE), None, 0.0
            for number, frame in enumerate(container.decode(video)):
                if frame.is_corrupt:
                    raise ValueError("it is damaged: a picture is incomplete")
                time = number / rate if frame.time is None else frame.time
                first = time if first is None else first
                end = time + (frame.duration * float(frame.time_base) if frame.duration else 1 / rate)
                yield Frame(time, partial(_pixels_by_av, scaler, frame, shape))
            promised = float(video.duration * video.time_base if video.duration else (container.duration or 0) / 1e6)
            if end - (first or 0.0) < LEAST_READ * promised:
                seconds = end - (first or 0.0)
                raise ValueError(f"it ends after {seconds:.1f} of the {promised:,.1f} seconds that its header promises")
    except av.FFmpegError as error:
        raise ValueError(f"it is damaged: {(error.strerror or str(error)).lower()}") from error


def _track(av: Any, container: Any) -> Any:
    """Returns the video of a container; the cover of a piece of music is none."""
    cover = av.stream.Disposition.attached_pic
    video = next((stream for stream in container.streams.video if not stream.disposition & cover), None)
    if video is None:
        raise ValueError(f"it holds no pictures{', only sound' if container.streams.audio else ''}")
    if video.codec_context is None:
        raise ValueError("nobody here can decode its kind of pictures")
    _check_pixels(video.width, video.height)
    return video


def _pixels_by_av(scaler: Any, frame: Any, shape: Shape) -> np.ndarray:
    """Returns the pixels of a frame, which FFmpeg brings to a fraction of its size first: it is faster than Pillow."""
    part = max(1, min(frame.width, frame.height) // (SPARE * max(shape[1:])))
    small = scaler.reformat(frame, -(-frame.width // part), -(-frame.height // part), "rgb24", interpolation="AREA")
    return pixels_of(small.to_image(), shape, frame.rotation)
