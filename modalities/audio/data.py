r"""Data sets of sounds, as 16-bit waveforms of one rate and one length, with shape (N, T).

    strings       plucked strings of twelve pitches, computed (`strings.py`): they need no file, and are synthetic
    folder        the recordings below a folder, or in a .zip of one (`recordings.py`)
    spoken_digits the Free Spoken Digit Dataset, packed: fsdd_int16_8k.npz; takes 0 to 4 of each speaker and digit test

How a recording becomes a clip is said in `clips.py`.
"""

__all__ = ["Options", "load", "options_of"]

import numpy as np
import os
import torch
import zipfile

from cm_multimodal.errors import DataError, UsageError, nearest
from cm_multimodal.listing import BESIDE, class_of, find_files, hold_out, readable
from cm_multimodal.modality import Dataset, Skipped, Splits
from cm_multimodal.random import uniform
from cm_multimodal.values import check_values
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from .clips import fit_clip, to_int16
from .recordings import SOUND, classes_by_pattern, pour
from .representations import LEAST_RATE, MOST_RATE, MOST_SAMPLES
from .strings import NOTES, strings

SPOKEN_DIGITS = "audio/fsdd_int16_8k.npz"
TEST_TAKES = 5
STRINGS = {"train": 2400, "test": 480}


@dataclass(frozen=True)
class Options:
    """The `data` group of the configuration.

    Arguments:
        name: Which source: folder, strings or spoken_digits.
        root: Where data sets lie; `$CMM_DATA`, or else `./data`.
        folder: The folder of recordings (folder).
        pattern: Where the class stands in a recording's name, such as '{class}_*'; none: its sub-folder (folder).
        test_fraction: The share of a folder's recordings that is held back.
        rate: The samples a second.
        length: The samples of a clip.
        representation: The representation that the model sees, by name, and its settings.
        limit: The largest number of training clips; of a folder, of recordings to learn from.
    """

    name: str = ""
    root: str | None = None
    folder: str | None = None
    pattern: str | None = None
    test_fraction: float = 0.1
    rate: int = 8000
    length: int = 8192
    representation: Mapping[str, Any] = field(default_factory=lambda: {"name": "stft"})
    limit: int | None = None

    def __post_init__(self) -> None:
        if not (LEAST_RATE <= self.rate <= MOST_RATE and 64 <= self.length <= MOST_SAMPLES):
            raise UsageError(
                "data.rate lies between 1,000 and 192,000 samples a second, data.length between 64 and 2**24."
            )
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"data.test_fraction={self.test_fraction:g} is no share; it is at least 0 and below 1.")
        if self.name != "folder" and (self.folder or self.pattern):
            raise UsageError(
                f"data.name={self.name} reads no folder; type data=sounds data.folder=PATH to learn from one."
            )
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"data.limit={self.limit} is not possible; it is at least 1.")
        if not isinstance(self.representation, Mapping):
            raise UsageError(
                f"data.representation={self.representation} is no group: data.representation.name=stft, say."
            )


def options_of(config: Mapping[str, Any]) -> Options:
    """Reads the `data` group.

    Raises:
        UsageError: An option is unknown or does not fit.
    """
    kinds = get_type_hints(Options)
    for key in config:
        if key not in kinds:
            raise UsageError(f"There is no option data.{key}; {nearest(str(key), kinds)}")
    given = {key: value for key, value in config.items() if value is not None}
    check_values("data", given, kinds)
    options = Options(**given)
    if options.name not in SOURCES:
        raise UsageError(f"There is no data set data.name='{options.name}'; {nearest(options.name, SOURCES)}")
    return options


def load(config: Mapping[str, Any]) -> Splits:
    """Reads a data set of sounds.

    Raises:
        UsageError: An option is wrong, or a path does not exist.
        DataError: What lies there is damaged, or nothing of it can be used.
    """
    options = options_of(config)
    return SOURCES[options.name](options)


def _strings(options: Options) -> Splits:
    def part(seed: int, count: int) -> Dataset:
        wave, note = strings(seed, torch.arange(count), options.rate, options.length)
        clips = torch.stack([fit_clip(one, options.rate, options.rate, options.length, 0.0) for one in wave])
        return Dataset(to_int16(clips), note, classes=NOTES)

    return Splits(part(0, min(STRINGS["train"], options.limit or STRINGS["train"])), part(1, STRINGS["test"]))


def _spoken_digits(options: Options) -> Splits:
    file = Path(options.root or os.environ.get("CMM_DATA") or "data").expanduser() / SPOKEN_DIGITS
    if not file.is_file():
        raise UsageError(
            f"There is no file '{file}'; set data.root= or CMM_DATA to the folder that holds {SPOKEN_DIGITS}."
        )
    try:
        with np.load(file, allow_pickle=False) as archive:
            sound, offsets, digit = archive["audio"], archive["offsets"], archive["digit"].astype(np.int64)
            takes, rate = archive["index"], int(archive["rate"])
        waves = [torch.from_numpy(sound[a:b].astype(np.float32) / 32768) for a, b in pairwise(offsets)]
        if not len(waves) == len(digit) == len(takes) or not set(digit) <= set(range(10)):
            raise ValueError("its labels do not fit its clips")
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"'{file}' is damaged: {error}. Copy or download it again.") from error
    test = np.flatnonzero(takes < TEST_TAKES)
    train = np.flatnonzero(takes >= TEST_TAKES)[: options.limit]
    names = tuple(str(name) for name in range(10))
    parts = [_clips(waves, digit, rows, rate, names, options, str(file)) for rows in (train, test)]
    return Splits(*parts)


def _clips(
    waves: Sequence[torch.Tensor], labels: np.ndarray, rows: np.ndarray, rate: int, names: tuple[str, ...],
    options: Options, where: str,
) -> Dataset:  # fmt: skip
    """Brings recordings to clips; those that cannot be used are left out, with the reason."""
    places, clips, kept, skipped = uniform(0, "place", torch.arange(len(waves))), [], [], []
    for row in rows.tolist():
        try:
            clips.append(to_int16(fit_clip(waves[row], rate, options.rate, options.length, float(places[row]))))
            kept.append(row)
        except ValueError as error:
            skipped.append(Skipped(f"{where}#{row}", str(error)))
    if not clips:
        first = f" {skipped[0].path}: {skipped[0].reason}." if skipped else ""
        raise DataError(f"'{where}': none of {len(rows)} clips can be used.{first}")
    return Dataset(torch.stack(clips), torch.from_numpy(labels[kept]), None, names, tuple(skipped))


def _folder(options: Options) -> Splits:
    listing = find_files(SOUND, options.folder)
    paths = list(listing.openers)
    classes = class_of(paths) if options.pattern is None else classes_by_pattern(paths, options.pattern)
    learned, held = hold_out(classes, options.test_fraction, options.limit)
    places = uniform(0, "place", torch.arange(len(learned) + len(held))).tolist()
    openers = [listing.openers[path] for path in [*learned, *held]]
    poured = pour(openers, options.rate, options.length, places)
    counts = dict(zip([*learned, *held], poured.counts, strict=True))
    reasons = zip([*learned, *held], poured.reasons, strict=True)
    broken = [Skipped(readable(path), reason) for path, reason in reasons if reason]
    train = sum(counts[path] for path in learned)
    if not train:
        first = "; ".join(f"'{one.path}': {one.reason}" for one in broken[:3])
        raise DataError(f"'{options.folder}': none of {len(learned)} recordings can be learned from. {first}.")
    names = tuple(sorted({str(classes[path]) for path, count in counts.items() if count and classes[path] is not None}))
    rows = [names.index(str(classes[path])) for path, count in counts.items() for _ in range(count)] if names else None
    label = None if rows is None else torch.tensor(rows)
    why = BESIDE if options.pattern is None else f"its name does not fit {options.pattern}"
    beside = [Skipped(readable(path), why) for path in paths if path not in classes]

    def part(place: slice, skipped: Sequence[Skipped] = ()) -> Dataset:
        return Dataset(poured.raw[place], None if label is None else label[place], None, names, tuple(skipped))

    return Splits(part(slice(train), [*listing.skipped, *beside, *broken]), part(slice(train, None)))


SOURCES: dict[str, Callable[[Options], Splits]] = {
    "folder": _folder,
    "spoken_digits": _spoken_digits,
    "strings": _strings,
}
