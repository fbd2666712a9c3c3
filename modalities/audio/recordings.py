r"""A folder of recordings as clips in one file of memory that the system may put away: never all of it has to fit.

Recordings are read a few minutes at a time. What is at most two clips long becomes one clip (`clips.fit_clip`); what is
longer is cut into clips, one behind the other, and the silent ones are left out. The class of a recording is its
sub-folder, or what stands for `{class}` in a pattern of its name.
"""

__all__ = ["SOUND", "classes_by_pattern", "pour"]

import numpy as np
import re
import soundfile
import tempfile
import torch

from cm_multimodal import signals
from cm_multimodal.errors import DataError, UsageError, UserError
from cm_multimodal.listing import Kind, Opener, reason_of
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from torch import Tensor
from typing import BinaryIO

from .clips import Silent, cut_clips, long_clips, loudest_frame, one_channel, stored

SOUND = Kind(
    "sound",
    (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".m4a", ".aac", ".wma"),
    (
        b"RIFF",
        b"RF64",
        b"fLaC",
        b"OggS",
        b"ID3",
        b"FORM",
        b"\xff\xfa",
        b"\xff\xfb",
        b"\xff\xf2",
        b"\xff\xf3",
        b"\xff\xe2",
        b"\xff\xe3",
    ),
    2**29,
)
BLOCK = 120  # seconds read at a time, or four clips
LEAST_READ = 0.9  # of the samples that a header promises
UNKNOWN = 1 << 60  # samples: what libsndfile says of a stream whose header does not tell
CLASS = "{class}"


@dataclass(frozen=True)
class Poured:
    """The clips of recordings.

    Arguments:
        raw: All of them, with shape (N, T), in int16, on the disk until they are looked at.
        counts: How many clips each recording has.
        reasons: Why a recording has none; empty for the others.
    """

    raw: Tensor
    counts: tuple[int, ...]
    reasons: tuple[str, ...]


def classes_by_pattern(paths: Sequence[PurePosixPath], pattern: str) -> dict[PurePosixPath, str | None]:
    """Returns the class of every recording whose name, without suffix, fits a pattern such as '{class}_*'.

    Raises:
        UsageError: The pattern has no class, or no name fits it.
    """
    if pattern.count(CLASS) != 1:
        raise UsageError(f"data.pattern={pattern} has to say once where the class stands: data.pattern='{CLASS}_*'.")
    expression = "".join(
        {CLASS: "(.+?)", "*": ".*", "?": "."}.get(part, re.escape(part))
        for part in re.split(r"(\{class\}|\*|\?)", pattern)
    )
    found = {path: match[1] for path in paths if (match := re.fullmatch(expression, path.stem))}
    if not found:
        raise UsageError(f"data.pattern={pattern} fits none of the {len(paths)} names, such as '{paths[0].stem}'.")
    return dict(found)


def pour(openers: Sequence[Opener], rate: int, length: int, places: Sequence[float], level: bool = True) -> Poured:
    """Cuts recordings into clips, in order.

    Arguments:
        openers: What opens each of them.
        rate: The clips' samples a second.
        length: The clips' samples.
        places: Where the clip of a short recording lies among silence, from 0 to 1.
        level: Whether all clips are brought to one level.

    Raises:
        DataError: The disk is full.
    """
    counts, reasons = [], []
    with signals.deferred(), tempfile.TemporaryFile() as file:
        for opener, place in zip(openers, places, strict=True):
            signals.check()
            begin, reason = file.tell(), ""
            try:
                for clip in _clips(opener, rate, length, place, level):
                    _write(file, stored(clip))
            except UserError:
                raise
            except Exception as error:  # a decoder fed with foreign bytes may raise anything
                file.seek(begin)
                file.truncate()
                reason = _reason_of(error)
            counts.append((file.tell() - begin) // (2 * length))
            reasons.append(reason)
        file.flush()
        shape = (sum(counts), length)
        raw = np.memmap(file, np.int16, "r+", shape=shape) if shape[0] else np.zeros(shape, np.int16)
    return Poured(torch.from_numpy(raw), tuple(counts), tuple(reasons))


def _write(file: BinaryIO, clip: Tensor) -> None:
    try:
        file.write(clip.numpy().tobytes())
    except OSError as error:
        raise DataError(
            f"The clips cannot be kept in '{tempfile.gettempdir()}': {reason_of(error)}; set TMPDIR to a larger disk."
        ) from error


def _clips(opener: Opener, rate: int, length: int, place: float, level: bool) -> Iterator[Tensor]:
    """Yields the clips of a recording; one that is no longer than a block is read once, others twice.

    Raises:
        ValueError: There are none; the message says why.
    """
    with opener() as stream, soundfile.SoundFile(stream) as sound:
        size = max(BLOCK * sound.samplerate, 4 * length * sound.samplerate // rate)
        first = _read(sound, size)
        if len(first.T) < size:
            _check_end(len(first.T), sound)
            yield from cut_clips(first, sound.samplerate, rate, length, place, level)
            return
        loudest, read = 0.0, 0
        for part in _parts(sound, size):
            loudest, read = max(loudest, loudest_frame(part, sound.samplerate)), read + len(part)
        _check_end(read, sound)
        if not loudest > 0:
            raise Silent("it is silent")
        yield from long_clips(_parts(sound, size), loudest, sound.samplerate, rate, length, level)


def _read(sound: soundfile.SoundFile, size: int) -> Tensor:
    return torch.from_numpy(sound.read(size, dtype="float32", always_2d=True).T.copy())


def _parts(sound: soundfile.SoundFile, size: int) -> Iterator[Tensor]:
    """Yields a recording from its begin, in one channel."""
    sound.seek(0)
    while (part := _read(sound, size)).numel():
        signals.check()
        yield one_channel(part)


def _check_end(read: int, sound: soundfile.SoundFile) -> None:
    if sound.frames < UNKNOWN and read < LEAST_READ * sound.frames:
        seconds, rate = sound.frames / sound.samplerate, sound.samplerate
        raise ValueError(f"it ends after {read / rate:.1f} of the {seconds:,.1f} seconds that its header promises")


def _reason_of(error: Exception) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        if "not recognised" in error.error_string:
            return "not a sound, or of a format that cannot be read here; convert it to WAV or FLAC"
        return error.error_string.removeprefix("Error : ").rstrip(".")
    return reason_of(error)
