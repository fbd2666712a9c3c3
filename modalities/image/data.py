r"""Data sets of pictures, as uint8 tensors of shape (N, C, H, W).

    digits    scikit-learn's 1,797 real 8x8 digits; the first 1,400 of `RandomState(0).permutation(1797)` train
    folder    the pictures below a folder, or in a .zip of one; its sub-folders are the classes
    idx       the MNIST layout: train-images-idx3-ubyte and its three companions, with or without .gz
    cifar10   the packed JPEG copy: cifar10_jpegq75_train_0.npz, …_train_1.npz and …_test.npz

Size and channels are read from the data: the most common size of the pictures, and one channel where the three of every
picture are equal. The options `size` and `channels` overrule that in every data set.
"""

__all__ = ["Options", "load"]

import math
import numpy as np
import torch

from cm_multimodal.errors import DataError, UsageError, nearest
from cm_multimodal.listing import BESIDE, Opener, class_of, data_root, find_files, hold_out, readable
from cm_multimodal.modality import Dataset, Skipped, Splits
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from PIL import Image
from torch import Tensor
from typing import Any

from .packed import read_idx, read_packed
from .pictures import PICTURE, Decoded, common_size, decode, fit

MAX_SIZE = 4096
DIGITS_TRAIN = 1400
CIFAR10_PATH = "image/cifar10"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Options:
    """The `data` group of the configuration; what is null is read from the data or left at its default.

    Arguments:
        name: Which source: digits, folder, idx or cifar10.
        root: Where data sets lie; `$CMM_DATA`, or else `./data`.
        folder: The folder of pictures (folder).
        path: The sub-path below the root (idx, cifar10).
        size: The pixels of a side, or the height and the width.
        channels: One (grey) or three (colour).
        test_fraction: The share of a folder that is held back.
        limit: The largest number of training pictures.
        max_bytes: The largest size in memory of the pictures of a file or a folder.
    """

    name: str
    root: str | Path | None = None
    folder: str | Path | None = None
    path: str | Path | None = None
    size: int | Sequence[int] | None = None
    channels: int | None = None
    test_fraction: float = 0.1
    limit: int | None = None
    max_bytes: int = 2**32

    def size_or(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the height and the width that are asked for, or else those of the data."""
        if self.size is None:
            return size
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])


def _is_text(value: Any) -> bool:
    return isinstance(value, str | Path)


def _is_whole(value: Any, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, Sequence) and len(value) == 2 else [value]
    return all(_is_whole(side, MAX_SIZE) for side in sides)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_text, "the name of a data set"),
    "root": (_is_text, "a path"),
    "folder": (_is_text, "a path"),
    "path": (_is_text, "a path"),
    "size": (_is_size, f"a number of pixels from 1 to {MAX_SIZE}, or [height, width]"),
    "channels": (lambda value: _is_whole(value) and value in (1, 3), "1 (grey) or 3 (colour)"),
    "test_fraction": (_is_share, "a share, at least 0 and below 1"),
    "limit": (_is_whole, "a whole number of pictures, at least 1"),
    "max_bytes": (_is_whole, "a whole number of bytes, at least 1"),
}


def _options(config: Mapping[str, Any]) -> Options:
    for key, value in config.items():
        if key not in CHECKS:
            raise UsageError(f"There is no option data.{key}; {nearest(str(key), CHECKS)}")
        valid, wanted = CHECKS[key]
        if value is not None and not valid(value):
            raise UsageError(f"data.{key}={value} does not fit: it has to be {wanted}.")
    options = Options(**{"name": "", **{key: value for key, value in config.items() if value is not None}})
    if options.name not in SOURCES:
        raise UsageError(f"There is no data set data.name='{options.name}'; {nearest(options.name, SOURCES)}")
    if options.folder and options.name != "folder":
        raise UsageError(f"data.name={options.name} reads no data.folder; type data.name=folder to learn from it.")
    return options


def load(config: Mapping[str, Any]) -> Splits:
    """Reads a data set of pictures.

    Arguments:
        config: The `data` group of the configuration, see `Options`.

    Returns:
        Raw pictures, with shape (N, C, H, W), in uint8. Whatever was skipped is listed with the training split.

    Raises:
        UsageError: An option is wrong, or a path does not exist.
        DataError: What lies there is empty, damaged or too large.
    """
    options = _options(config)
    return SOURCES[options.name](options)


def _check_bytes(where: str, count: int, shape: tuple[int, int, int], options: Options) -> None:
    size = count * math.prod(shape)
    if size > options.max_bytes:
        raise DataError(
            f"{where}: {count:,} pictures of {'x'.join(map(str, shape))} take {size:,} bytes, more than data.max_bytes="
            f"{options.max_bytes}; type a smaller data.size or data.limit, or a larger data.max_bytes."
        )


def _labels(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values).astype(np.int64))


def _fit_grey(where: str, pixels: np.ndarray, options: Options) -> Tensor:
    """Brings grey pictures, with shape (N, H, W), to the size and the channels asked for, with shape (N, C, H, W)."""
    channels, size = options.channels or 1, options.size_or((pixels.shape[1], pixels.shape[2]))
    _check_bytes(where, len(pixels), (channels, *size), options)
    if size != pixels.shape[1:]:
        pixels = np.stack([np.asarray(fit(Image.fromarray(one), size)) for one in pixels])
    return torch.from_numpy(pixels.copy())[:, None].repeat(1, channels, 1, 1)


def _decode(where: str, openers: Sequence[Opener], size: tuple[int, int], options: Options) -> Decoded:
    """Decodes pictures; one channel is kept where the three of every picture are equal and none were asked for."""
    shape = options.channels or 3, *options.size_or(size)
    _check_bytes(where, len(openers), shape, options)
    decoded = decode(openers, shape)
    pixels = decoded.pixels
    if options.channels is None and bool((pixels == pixels[:, :1]).all()):
        pixels = pixels[:, :1].contiguous()
    return Decoded(pixels, decoded.reasons)


def _digits(options: Options) -> Splits:
    from sklearn.datasets import load_digits  # its import takes a second

    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    names = tuple(str(name) for name in digits.target_names)

    def part(rows: np.ndarray) -> Dataset:
        return Dataset(_fit_grey("The digits", pixels[rows], options), _labels(digits.target[rows]), classes=names)

    return Splits(part(order[:DIGITS_TRAIN][: options.limit]), part(order[DIGITS_TRAIN:]))


def _existing(file: Path, options: Options) -> Path:
    """Returns a data set's file, or the compressed one beside it."""
    for path in (file, file.with_name(f"{file.name}.gz")):
        if path.is_file():
            return path
    root = data_root(options.root)
    raise UsageError(
        f"There is no file '{file}'. Data sets are looked for in '{root}'; type data.root=FOLDER, or set "
        f"CMM_DATA=FOLDER, for the folder in which '{file.parent.relative_to(root)}' lies."
    )


def _idx_part(folder: Path, part: str, options: Options) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (_existing(folder / f"{part}-{kind}-ubyte", options) for kind in ("images-idx3", "labels-idx1"))
    pixels, classes = read_idx(images, 3, options.max_bytes), read_idx(labels, 1, options.max_bytes)
    if len(pixels) != len(classes):
        raise DataError(f"'{images}' holds {len(pixels):,} pictures, but '{labels}' {len(classes):,} labels.")
    return pixels, classes


def _idx(options: Options) -> Splits:
    if options.path is None:
        raise UsageError("Which idx files? Type data.path=SUB-PATH of the data root, such as image/fashion_mnist.")
    folder = data_root(options.root) / options.path
    (train, train_labels), (test, test_labels) = (_idx_part(folder, part, options) for part in ("train", "t10k"))
    if train.shape[1:] != test.shape[1:]:
        raise DataError(f"'{folder}' has training pictures of {train.shape[1:]} pixels and others of {test.shape[1:]}.")
    count = 1 + int(max(train_labels.max(), test_labels.max()))
    fashion = "fashion" in str(options.path) and count <= len(FASHION)
    names = FASHION if fashion else tuple(str(label) for label in range(count))

    def part(pixels: np.ndarray, labels: np.ndarray) -> Dataset:
        return Dataset(_fit_grey(f"'{folder}'", pixels, options), _labels(labels), classes=names)

    return Splits(part(train[: options.limit], train_labels[: options.limit]), part(test, test_labels))


def _cifar10_part(files: Sequence[Path], limit: int | None, options: Options) -> Dataset:
    packed = [read_packed(_existing(file, options), options.max_bytes) for file in files]
    openers = [opener for file in packed for opener in file.openers][:limit]
    labels = _labels(np.concatenate([file.labels for file in packed])[:limit])
    decoded = _decode(f"'{files[0].parent}'", openers, (32, 32), options)
    reason = next(filter(None, decoded.reasons), None)
    if reason or not len(labels) or not 0 <= labels.min() <= labels.max() < len(CIFAR10):
        names = " or ".join(f"'{file}'" for file in files)
        raise DataError(f"{names} is damaged: {reason or 'a label is missing or unknown'}. Copy or download it again.")
    return Dataset(decoded.pixels, labels, classes=CIFAR10)


def _cifar10(options: Options) -> Splits:
    folder = data_root(options.root) / (options.path or CIFAR10_PATH)
    first, second, test = (folder / f"cifar10_jpegq75_{part}.npz" for part in ("train_0", "train_1", "test"))
    return Splits(_cifar10_part([first, second], options.limit, options), _cifar10_part([test], None, options))


def _nothing_left(options: Options, broken: Sequence[Skipped], count: int) -> DataError:
    first = "; ".join(f"'{one.path}': {one.reason}" for one in broken[:3])
    return DataError(
        f"'{options.folder}': {len(broken)} of {count} pictures cannot be used, and none is left to learn from. "
        f"{first}{'; and so on' if len(broken) > 3 else ''}."
    )


def _folder(options: Options) -> Splits:
    listing = find_files(PICTURE, options.folder)
    classes = class_of(list(listing.openers))
    learned, held = hold_out(classes, options.test_fraction, options.limit)
    paths = [*learned, *held]
    openers = [listing.openers[path] for path in paths]
    decoded = _decode(f"'{options.folder}'", openers, options.size_or(common_size(openers)), options)
    reasons = dict(zip(paths, decoded.reasons, strict=True))
    broken = [Skipped(readable(path), reason) for path, reason in reasons.items() if reason]
    good = [path for path in paths if not reasons[path]]
    count = sum(not reasons[path] for path in learned)
    if not count:
        raise _nothing_left(options, broken, len(paths))
    names = tuple(sorted({name for path in good if (name := classes[path]) is not None}))
    labels = _labels([names.index(str(classes[path])) for path in good]) if names else None
    beside = [Skipped(readable(path), BESIDE) for path in listing.openers if path not in classes]

    def part(rows: slice, skipped: Sequence[Skipped] = ()) -> Dataset:
        return Dataset(decoded.pixels[rows], None if labels is None else labels[rows], None, names, tuple(skipped))

    return Splits(part(slice(count), [*listing.skipped, *beside, *broken]), part(slice(count, None)))


SOURCES: dict[str, Callable[[Options], Splits]] = {
    "cifar10": _cifar10,
    "digits": _digits,
    "folder": _folder,
    "idx": _idx,
}
