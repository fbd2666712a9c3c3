"""Data sets of pictures by name: the options, the digits, idx files, the packed CIFAR-10, and the real ones."""

import gzip
import io
import numpy as np
import os
import pytest
import re
import struct
import time
import torch
import tracemalloc
import zipfile

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.listing import data_root
from collections.abc import Iterator
from contextlib import contextmanager
from modalities.image.data import load
from pathlib import Path
from PIL import Image


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails where more than 40 MB are allocated at a time."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40e6


# The options


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "digits", "flder": "x"}, "did you mean 'folder'?"),
        ({"name": "digit"}, "did you mean 'digits'?"),
        ({}, "known: cifar10, digits, folder, idx"),
        ({"name": 3}, "data.name=3"),
        ({"name": "digits", "size": 0}, "data.size=0"),
        ({"name": "digits", "size": [8, 99999]}, "data.size="),
        ({"name": "digits", "channels": 2}, "data.channels=2"),
        ({"name": "digits", "channels": True}, "data.channels=True"),
        ({"name": "digits", "test_fraction": 1.0}, "data.test_fraction=1.0"),
        ({"name": "digits", "limit": 0}, "data.limit=0"),
        ({"name": "digits", "max_bytes": -1}, "data.max_bytes=-1"),
        ({"name": "digits", "folder": "pictures"}, "type data.name=folder"),
        ({"name": "folder"}, "data.folder=PATH"),
        ({"name": "idx"}, "data.path="),
    ],
)
def test_wrong_option_is_a_sentence(config: dict[str, object], said: str) -> None:
    """An option that is unknown or out of range is a usage error that says what to type."""
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        load(config)
    assert error.value.exit_code == 2


def test_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data root is the option, or else CMM_DATA, or else ./data."""
    monkeypatch.setenv("CMM_DATA", "/from/environment")
    assert data_root("/from/option") == Path("/from/option")
    assert data_root(None) == Path("/from/environment")
    monkeypatch.delenv("CMM_DATA")
    assert data_root(None) == Path("data")


# The digits


def test_digits_follow_the_protocol() -> None:
    """The first 1,400 of RandomState(0).permutation(1797) train, the other 397 test; 0 to 16 becomes 0 to 255."""
    from sklearn.datasets import load_digits

    splits = load({"name": "digits", "size": None, "root": None})
    order = np.random.RandomState(0).permutation(1797)
    assert splits.train.raw.shape == (1400, 1, 8, 8)
    assert splits.test.raw.shape == (397, 1, 8, 8)
    assert splits.train.raw.dtype == torch.uint8
    assert splits.train.classes == tuple("0123456789")
    both = torch.cat([splits.train.raw, splits.test.raw])[:, 0]
    assert torch.equal((both.double() * 16 / 255).round(), torch.from_numpy(load_digits().images[order]))
    assert torch.cat([splits.train.label, splits.test.label]).tolist() == load_digits().target[order].tolist()


def test_digits_take_size_channels_and_limit() -> None:
    """Size, channels and limit overrule what the data say; the test split stays whole."""
    splits = load({"name": "digits", "size": [16, 12], "channels": 3, "limit": 20})
    assert splits.train.raw.shape == (20, 3, 16, 12)
    assert splits.test.raw.shape == (397, 3, 16, 12)


def test_too_many_bytes_is_a_sentence() -> None:
    """More than max_bytes is refused before it is allocated."""
    with pytest.raises(DataError, match=r"data\.max_bytes=1000"):
        load({"name": "digits", "max_bytes": 1000})


# idx files

GREY = np.random.RandomState(1).randint(0, 256, (7, 5, 4)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 2], np.uint8)


def idx(values: np.ndarray, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    shape = shape or values.shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + values.tobytes()


def write_idx(folder: Path, packed: bool = True, **changed: bytes) -> Path:
    """Writes the four files of an idx data set; `changed` replaces the content of some (images, labels)."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        for kind, values in (("images-idx3", GREY), ("labels-idx1", LABELS)):
            content = changed.get(kind[:6], idx(values)) if part == "train" else idx(values)
            file = folder / f"{part}-{kind}-ubyte"
            if packed:
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content))
            else:
                file.write_bytes(content)
    return folder


def read_idx(root: Path, path: str = "set", **options: object) -> torch.Tensor:
    return load({"name": "idx", "root": str(root), "path": path, **options}).train.raw


@pytest.mark.parametrize("packed", [True, False])
def test_idx_is_read(tmp_path: Path, packed: bool) -> None:
    """Pictures and labels of idx files come back as they are, with or without compression."""
    write_idx(tmp_path / "set", packed)
    splits = load({"name": "idx", "root": str(tmp_path), "path": "set"})
    assert torch.equal(splits.train.raw, torch.from_numpy(GREY)[:, None])
    assert splits.test.label.tolist() == LABELS.tolist()
    assert splits.train.classes == ("0", "1", "2")
    assert read_idx(tmp_path, limit=3).shape == (3, 1, 5, 4)
    assert read_idx(tmp_path, size=8, channels=3).shape == (7, 3, 8, 8)


def test_fashion_classes_have_names(tmp_path: Path) -> None:
    """A path that says fashion gets the names of its ten classes."""
    write_idx(tmp_path / "fashion_mnist")
    classes = load({"name": "idx", "root": str(tmp_path), "path": "fashion_mnist"}).train.classes
    assert len(classes) == 10
    assert classes[0] == "T-shirt/top"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("images", "said"),
    [
        (b"", "does not begin like an idx file"),
        (idx(GREY)[:9], "does not begin like an idx file"),
        (idx(GREY, kind=13), "does not begin like an idx file"),
        (idx(GREY[0]), "does not begin like an idx file"),
        (b"\x89PNG" + bytes(99), "does not begin like an idx file"),
        (idx(GREY)[:-1], "promises 140 bytes, and it holds 139"),
        (idx(GREY) + b"x", "promises 140 bytes, and it holds more"),
        (idx(GREY[:0], (0, 5, 4)), "promises 0 x 5 x 4 bytes"),
        (idx(GREY, (2**32 - 1,) * 3), "promises 4294967295 x 4294967295 x 4294967295 bytes"),
        (idx(GREY, (1_000_000, 60, 50)), "promises 3,000,000,000 bytes, and it holds 140"),
        (idx(GREY[:6]), "6 pictures, but"),
    ],
)
def test_hostile_idx_is_a_sentence(tmp_path: Path, packed: bool, images: bytes, said: str) -> None:
    """A header is believed only as far as the file goes; what it claims costs neither time nor memory."""
    write_idx(tmp_path / "set", packed, images=images)
    start = time.perf_counter()
    with pytest.raises(DataError, match=said) as error, little_memory():
        read_idx(tmp_path)
    assert error.value.exit_code == 3
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_truncated_gzip_is_a_sentence(tmp_path: Path, cut: int) -> None:
    """A compressed file whose end is missing, or that is not compressed at all, is damaged."""
    file = write_idx(tmp_path / "set") / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz' is damaged"):
        read_idx(tmp_path)
    file.write_text("not compressed")
    with pytest.raises(DataError, match="Not a gzipped file"):
        read_idx(tmp_path)


def test_gzip_bomb_is_bounded(tmp_path: Path) -> None:
    """A compressed file that goes on and on is read no further than its header says."""
    write_idx(tmp_path / "set", images=idx(GREY) + bytes(2**26))
    with pytest.raises(DataError, match="holds more"), little_memory():
        read_idx(tmp_path)


@pytest.mark.parametrize("config", [{"name": "idx", "path": "image/mnist"}, {"name": "cifar10"}])
def test_missing_data_says_where_and_what(tmp_path: Path, config: dict[str, str]) -> None:
    """Where a data set is missing, the error names the path looked for and both ways to set the root."""
    with pytest.raises(UsageError, match=r"data\.root=FOLDER, or set CMM_DATA=FOLDER") as error:
        load({"root": str(tmp_path), **config})
    assert str(tmp_path / "image") in str(error.value)


# The packed CIFAR-10


def write_cifar(root: Path, **changed: np.ndarray) -> Path:
    """Writes a small CIFAR-10 of the packed kind; `changed` replaces arrays of the first training file."""
    folder = root / "image" / "cifar10"
    folder.mkdir(parents=True)
    for part, first in (("train_0", 0), ("train_1", 4), ("test", 8)):
        files = [jpeg(index) for index in range(first, first + 4)]
        arrays = {
            "blob": np.frombuffer(b"".join(files), np.uint8),
            "offsets": np.cumsum([0, *map(len, files)]),
            "labels": np.arange(first, first + 4) % 10,
        }
        np.savez(folder / f"cifar10_jpegq75_{part}.npz", **(arrays | changed if part == "train_0" else arrays))
    return root


def jpeg(index: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (20 * index, 100, 200)).save(stream, format="JPEG")
    return stream.getvalue()


def test_cifar_is_decoded_in_order(tmp_path: Path) -> None:
    """Both training files are decoded in their order; a limit cuts the training split alone."""
    config = {"name": "cifar10", "root": str(write_cifar(tmp_path))}
    splits = load(config)
    assert splits.train.raw.shape == (8, 3, 32, 32)
    assert splits.train.label.tolist() == list(range(8))
    assert (splits.train.raw[:, 0].double().mean((1, 2)) - torch.arange(8) * 20).abs().max() < 3
    assert splits.train.classes[0] == "airplane"
    limited = load({**config, "limit": 5})
    assert (len(limited.train), len(limited.test)) == (5, 4)


@pytest.mark.parametrize(
    "changed",
    [
        {"blob": np.zeros(9, np.uint8)},
        {"offsets": np.arange(4)},
        {"offsets": np.array([0, -9, 2**60, 1, 2])},
        {"labels": np.array([0, 1, 2, 10])},
        {"labels": np.array([0, 1, 2, -1])},
        {"labels": np.array([0.0, 1.0, 2.0, 3.0])},
    ],
)
def test_hostile_cifar_is_a_sentence(tmp_path: Path, changed: dict[str, np.ndarray]) -> None:
    """Arrays that do not belong together and unknown labels are damage."""
    with pytest.raises(DataError, match="is damaged"):
        load({"name": "cifar10", "root": str(write_cifar(tmp_path, **changed))})


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """An .npz with objects in it is damage, and they are never made."""
    write_cifar(tmp_path, labels=np.array([Trap(tmp_path / "sprung")] * 4, object))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        load({"name": "cifar10", "root": str(tmp_path)})
    assert not (tmp_path / "sprung").exists()


def test_npz_bomb_is_bounded(tmp_path: Path) -> None:
    """An .npz that unpacks to more than max_bytes, or that is no archive, is refused before it is unpacked."""
    file = write_cifar(tmp_path) / "image" / "cifar10" / "cifar10_jpegq75_train_0.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("blob.npy", bytes(2**26))
    with pytest.raises(DataError, match=r"unpacks to more than data\.max_bytes=1000000"), little_memory():
        load({"name": "cifar10", "root": str(tmp_path), "max_bytes": 1_000_000})
    file.write_text("no archive")
    with pytest.raises(DataError, match="is damaged"):
        load({"name": "cifar10", "root": str(tmp_path)})


# The real data sets

needs_data = pytest.mark.skipif(
    not (Path(os.environ.get("CMM_DATA") or "data") / "image").is_dir(), reason="CMM_DATA names no folder of real data"
)


@needs_data
@pytest.mark.parametrize(
    ("path", "first"), [("image/mnist", [5, 0, 4, 1, 9, 2, 1, 3]), ("image/fashion_mnist", [9, 0, 0, 3, 0, 2, 7, 2])]
)
def test_real_idx(path: str, first: list[int]) -> None:
    """MNIST and Fashion-MNIST are 60,000 and 10,000 grey pictures of 28 x 28 with the published labels."""
    splits = load({"name": "idx", "path": path})
    assert splits.train.raw.shape == (60_000, 1, 28, 28)
    assert splits.test.raw.shape == (10_000, 1, 28, 28)
    assert splits.train.label[:8].tolist() == first
    assert len(splits.train.classes) == 10


@needs_data
def test_real_cifar() -> None:
    """CIFAR-10 is 10,000 colour test pictures of 32 x 32, a thousand of each class, in the published order."""
    splits = load({"name": "cifar10", "limit": 500})
    assert splits.train.raw.shape == (500, 3, 32, 32)
    assert splits.train.label[:5].tolist() == [6, 9, 9, 4, 1]
    assert splits.test.raw.shape == (10_000, 3, 32, 32)
    assert torch.bincount(splits.test.label).tolist() == [1000] * 10
