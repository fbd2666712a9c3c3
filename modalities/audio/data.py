r"""Data sets of sounds, as 16-bit waveforms of one rate and one length, with shape (N, T).

    strings       plucked strings of twelve pitches, computed (`strings.py`): they need no file, and are synthetic
    membranes     struck drums of six sizes, computed likewise (`membranes.py`)
    folder        the recordings below a folder, or in a .zip of one (`recordings.py`)
    spoken_digits the Free Spoken Digit Dataset, packed: fsdd_int16_8k.npz; takes 0 to 4 of each speaker and digit test
    instruments   the samples of Sonic Pi, packed: sonicpi_cc0_int16_16k.npz; every fifth of each kind tests

How a recording becomes a clip is said in `clips.py`.
"""

__all__ = ["Options", "load", "options_of"]

import numpy as np
import torch
import zipfile

from cm_multimodal.errors import DataError, UsageError, nearest
from cm_multimodal.listing import BESIDE, class_of, data_root, find_files, hold_out, readable
from cm_multimodal.modality import Dataset, Skipped, Splits
from cm_multimodal.random import uniform
from cm_multimodal.values import check_values
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from torch import Tensor
from typing import Any, get_type_hints

from .clips import cut_clips, fit_clip, stored, to_int16
from .membranes import DRUMS, membranes
from .recordings import SOUND, classes_by_pattern, pour
from .representations import LEAST_RATE, MOST_RATE, MOST_SAMPLES, STFT, LogMel, Representation, build
from .strings import NOTES, strings

SPOKEN_DIGITS = "audio/fsdd_int16_8k.npz"
INSTRUMENTS = "audio/sonicpi_cc0_int16_16k.npz"
TEST_EVERY = 5
TEST_TAKES = 5
TEST_FRACTION = 0.1
PLACES = ("random", "middle")
LEVELS = ("even", "kept")
CLASSES = ("digit", "speaker", "both")
COMPUTED = {"train": 2400, "test": 480}


@dataclass(frozen=True)
class Options:
    """The `data` group of the configuration.

    Arguments:
        name: Which source: folder, instruments, membranes, spoken_digits or strings.
        root: Where data sets lie; `$CMM_DATA`, or else `./data`.
        folder: The folder of recordings (folder).
        pattern: Where the class stands in a recording's name, such as '{class}_*'; none: its sub-folder (folder).
        by: What the class is: the digit, the speaker, or both (spoken_digits).
        test_fraction: The share of a folder's recordings that is held back.
        test_speaker: The speaker who tests and is not learned from; none: some takes of each test (spoken_digits).
        rate: The samples a second.
        length: The samples of a clip.
        level: Whether all clips are brought to one level (even), or are as loud as they were recorded (kept).
        place: Where a short recording lies among silence: at random, or in the middle; computed ones lie at the begin.
        representation: The representation that the model sees, by name, and its settings.
        mel: A log-mel spectrogram that the network is told of every clip, as a vocoder is: its settings; none: no vocoder.
        limit: The largest number of training clips; of a folder, of recordings to learn from.
    """

    name: str = ""
    root: str | None = None
    folder: str | None = None
    pattern: str | None = None
    by: str = "digit"
    test_fraction: float = TEST_FRACTION
    test_speaker: str | None = None
    rate: int = 8000
    length: int = 8192
    level: str = "even"
    place: str = "random"
    representation: Mapping[str, Any] = field(default_factory=lambda: {"name": "stft"})
    mel: Mapping[str, Any] | None = None
    limit: int | None = None

    def blank(self) -> Representation:
        """Returns the representation that is asked for, not yet fitted.

        Raises:
            UsageError: It cannot be made.
        """
        return self._blank("representation", self.representation)

    def blank_mel(self) -> Representation | None:
        """Returns the log-mel spectrogram that the network is to be told of, not yet fitted.

        Raises:
            UsageError: It cannot be made.
        """
        return None if self.mel is None else self._blank("mel", {**self.mel, "name": LogMel.name})

    def _blank(self, key: str, settings: Mapping[str, Any]) -> Representation:
        asked = {"length": self.length, **settings}
        if asked.get("name") == LogMel.name:
            asked = {"rate": self.rate, **asked}
        try:
            return build(asked)
        except ValueError as error:
            raise UsageError(f"data.{key}: {error}") from error

    @property
    def even(self) -> bool:
        """Whether all clips are brought to one level."""
        return self.level == "even"

    def places(self, count: int) -> list[float]:
        """Returns where recordings lie among silence, from 0, at the begin, to 1, at the end."""
        return [0.5] * count if self.place == "middle" else uniform(0, "place", torch.arange(count)).tolist()

    def __post_init__(self) -> None:
        if not (LEAST_RATE <= self.rate <= MOST_RATE and 64 <= self.length <= MOST_SAMPLES):
            raise UsageError(
                "data.rate lies between 1,000 and 192,000 samples a second, data.length between 64 and 2**24."
            )
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"data.test_fraction={self.test_fraction:g} is no share; it is at least 0 and below 1.")
        if self.name != "folder" and (self.folder or self.pattern or self.test_fraction != TEST_FRACTION):
            raise UsageError(
                f"data.name={self.name} reads no folder; type data=sounds data.folder=PATH to learn from one."
            )
        if self.by not in CLASSES or (self.by != CLASSES[0] and self.name != "spoken_digits"):
            raise UsageError(f"data.by={self.by} is not possible; data=spoken_digits has: {', '.join(CLASSES)}.")
        if self.test_speaker and (self.name != "spoken_digits" or self.by != CLASSES[0]):
            raise UsageError("data.test_speaker= is of data=spoken_digits whose classes are digits, data.by=digit.")
        if self.level not in LEVELS:
            raise UsageError(f"There is no data.level={self.level}; {nearest(self.level, LEVELS)}")
        if self.place not in PLACES:
            raise UsageError(f"There is no data.place={self.place}; {nearest(self.place, PLACES)}")
        if self.place == "middle" and self.name in ("strings", "membranes"):
            raise UsageError(f"data.name={self.name} has no short recordings to place: its sounds fill their clips.")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"data.limit={self.limit} is not possible; it is at least 1.")
        if not isinstance(self.representation, Mapping):
            raise UsageError(
                f"data.representation={self.representation} is no group: data.representation.name=stft, say."
            )
        if self.mel is not None and self.blank().name != STFT.name:
            raise UsageError(
                "data.mel= makes a vocoder, which draws the complex transform: data.representation.name=stft."
            )
        if not isinstance(self.mel, Mapping | None) or {"name", "length", "rate"} & set(self.mel or ()):
            raise UsageError(
                f"data.mel={self.mel} is no group of settings of a log-mel spectrogram: data.mel.hop=160, say; its length "
                "and rate are those of the clips."
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
    options.blank(), options.blank_mel()
    splits = SOURCES[options.name](options)
    return splits if options.mel is None else Splits(*(_unnamed(part) for part in (splits.train, splits.test)))


def _unnamed(part: Dataset) -> Dataset:
    """Returns samples without their classes: a vocoder goes by what it is told."""
    return replace(part, label=None, classes=())


Computed = Callable[[int, Tensor, int, int], tuple[Tensor, Tensor]]


def _computed(options: Options, sound: Computed, classes: tuple[str, ...]) -> Splits:
    def part(seed: int, count: int) -> Dataset:
        wave, label = sound(seed, torch.arange(count), options.rate, options.length)
        clips = torch.stack(
            [fit_clip(one, options.rate, options.rate, options.length, 0.0, options.even) for one in wave]
        )
        return Dataset(to_int16(clips), label, classes=classes)

    return Splits(part(0, min(COMPUTED["train"], options.limit or COMPUTED["train"])), part(1, COMPUTED["test"]))


@dataclass(frozen=True)
class Pack:
    """The recordings of a packed file: waveforms of one rate, their classes, and more numbers by name."""

    file: Path
    waves: list[Tensor]
    label: np.ndarray
    rate: int
    more: Mapping[str, np.ndarray]


def _unpacked(options: Options, path: str, label: str, classes: int) -> Pack:
    file = data_root(options.root) / path
    if not file.is_file():
        raise UsageError(f"There is no file '{file}'; set data.root= or CMM_DATA to the folder that holds {path}.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            more = {name: archive[name] for name in archive.files}
        sound, offsets, labels, rate = more["audio"], more["offsets"], more[label].astype(np.int64), int(more["rate"])
        waves = [torch.from_numpy(sound[a:b].astype(np.float32) / 32768) for a, b in pairwise(offsets)]
        if len(waves) != len(labels) or not set(labels) <= set(range(classes)):
            raise ValueError("its labels do not fit its clips")
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"'{file}' is damaged: {error}. Copy or download it again.") from error
    return Pack(file, waves, labels, rate, more)


def _spoken_digits(options: Options) -> Splits:
    pack = _unpacked(options, SPOKEN_DIGITS, "digit", 10)
    takes = pack.more.get("index", np.zeros(0))
    if len(takes) != len(pack.waves):
        raise DataError(f"'{pack.file}' is damaged: it does not say which take is which. Copy or download it again.")
    tests, digits = takes < TEST_TAKES, tuple(str(name) for name in range(10))
    if options.by == "digit" and not options.test_speaker:
        return _splits(pack, tests, digits, options, lambda *how: [fit_clip(*how)])
    speakers = [str(name) for name in pack.more.get("speaker_names", ())]
    speaker = pack.more.get("speaker", np.zeros(0)).astype(np.int64)
    if len(speaker) != len(pack.waves) or not set(speaker.tolist()) <= set(range(len(speakers))):
        raise DataError(f"'{pack.file}' is damaged: it does not say who speaks. Copy or download it again.")
    if options.test_speaker:
        if options.test_speaker not in speakers:
            raise UsageError(
                f"There is no data.test_speaker={options.test_speaker}; {nearest(options.test_speaker, speakers)}"
            )
        tests = speaker == speakers.index(options.test_speaker)
    else:
        pack = replace(pack, label=speaker if options.by == "speaker" else 10 * speaker + pack.label)
        spoken = digits if options.by == "both" else ("",)
        digits = tuple(f"{name} {digit}".strip() for name in speakers for digit in spoken)
    return _splits(pack, tests, digits, options, lambda *how: [fit_clip(*how)])


def _instruments(options: Options) -> Splits:
    pack = _unpacked(options, INSTRUMENTS, "kind", 17)
    number = np.zeros(len(pack.label), int)
    for kind in range(17):
        number[pack.label == kind] = np.arange((pack.label == kind).sum())
    names = tuple(str(name) for name in pack.more.get("kind_names", range(17)))
    return _splits(pack, number % TEST_EVERY == TEST_EVERY - 1, names, options, cut_clips)


def _splits(
    pack: Pack, tests: np.ndarray, names: tuple[str, ...], options: Options,
    clips_of: Callable[[Tensor, int, int, int, float, bool], list[Tensor]],
) -> Splits:  # fmt: skip
    """Brings recordings to clips; those that cannot be used are left out, with the reason."""
    places = options.places(len(pack.waves))

    def part(rows: np.ndarray) -> Dataset:
        clips, label, skipped = [], [], []
        for row in rows.tolist():
            try:
                found = clips_of(pack.waves[row], pack.rate, options.rate, options.length, places[row], options.even)
                clips += [stored(clip) for clip in found]
                label += [int(pack.label[row])] * len(found)
            except ValueError as error:
                skipped.append(Skipped(f"{pack.file}#{row}", str(error)))
        if not clips:
            first = f" {skipped[0].path}: {skipped[0].reason}." if skipped else ""
            raise DataError(f"'{pack.file}': none of {len(rows)} clips can be used.{first}")
        return Dataset(torch.stack(clips), torch.tensor(label), None, names, tuple(skipped))

    return Splits(part(np.flatnonzero(~tests)[: options.limit]), part(np.flatnonzero(tests)))


def _folder(options: Options) -> Splits:
    listing = find_files(SOUND, options.folder)
    paths = list(listing.openers)
    classes = class_of(paths) if options.pattern is None else classes_by_pattern(paths, options.pattern)
    learned, held = hold_out(classes, options.test_fraction, options.limit)
    openers = [listing.openers[path] for path in [*learned, *held]]
    poured = pour(openers, options.rate, options.length, options.places(len(openers)), options.even)
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
    "instruments": _instruments,
    "membranes": partial(_computed, sound=membranes, classes=DRUMS),
    "spoken_digits": _spoken_digits,
    "strings": partial(_computed, sound=strings, classes=NOTES),
}
