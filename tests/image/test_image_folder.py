"""A folder of pictures: what becomes of every kind of file, and what is said of those that cannot be read."""

import io
import numpy as np
import os
import pytest
import struct
import time
import torch
import zipfile
import zlib

from cm_multimodal import listing
from cm_multimodal.errors import DataError, UsageError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from modalities.image.data import load
from pathlib import Path
from PIL import Image, ImageFile

COLOURS = np.random.RandomState(0).randint(0, 256, (40, 6, 8, 3)).astype(np.uint8)


def picture(index: int = 0, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(COLOURS[index]).convert(mode)


def encoded(kind: str = "PNG", index: int = 0) -> bytes:
    stream = io.BytesIO()
    picture(index).save(stream, format=kind)
    return stream.getvalue()


def fill(folder: Path, count: int = 4, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        picture(index).save(folder / f"{index:02}.png")
    return folder


def read(folder: Path, **options: object) -> tuple[torch.Tensor, dict[str, str]]:
    """Returns all pictures of a folder and the reasons of those that were skipped."""
    splits = load({"name": "folder", "folder": str(folder), "test_fraction": 0, **options})
    return splits.train.raw, {skipped.path: skipped.reason for skipped in splits.train.skipped}


def pixels(image: Image.Image) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails where the process grows by more than 100 MB, even for a moment."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = peak_kb()
    yield
    assert peak_kb() - before < 100_000


def peak_kb() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def huge_png(side: int) -> bytes:
    small = encoded()
    header = b"IHDR" + struct.pack(">II", side, side) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    """Classes are the sub-folders sorted by name, read at any depth, whatever the case of the extension."""
    fill(tmp_path / "dog" / "deep" / "er", 2, first=2)
    fill(tmp_path / "cat", 2)
    (tmp_path / "cat" / "00.png").rename(tmp_path / "cat" / "00.PNG")
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    fill(tmp_path / "cat" / ".ipynb_checkpoints", 1)
    train = load({"name": "folder", "folder": str(tmp_path), "test_fraction": 0}).train
    assert train.classes == ("cat", "dog")
    assert train.label.tolist() == [0, 0, 1, 1]
    assert not train.skipped
    assert torch.equal(train.raw, torch.from_numpy(COLOURS[:4]).permute(0, 3, 1, 2))


def test_loose_pictures_have_no_classes(tmp_path: Path) -> None:
    """Pictures directly in the folder have no classes; a stray one beside class folders is skipped and named."""
    train = load({"name": "folder", "folder": fill(tmp_path)}).train
    assert train.label is None
    assert train.classes == ()
    fill(tmp_path / "cat", 4)
    fill(tmp_path / "dog", 4)
    (tmp_path / "03.png").unlink()
    assert list(read(tmp_path)[1]) == ["00.png", "01.png", "02.png"]


def test_a_share_is_held_back(tmp_path: Path) -> None:
    """A picture stays on its side of the split when others are added; every class keeps one to learn from."""
    fill(tmp_path / "a", 20)
    fill(tmp_path / "b", 1, first=20)
    config = {"name": "folder", "folder": tmp_path, "test_fraction": 0.3}
    before = load(config)
    assert 0 < len(before.test) < 12
    assert len(before.train) + len(before.test) == 21
    assert len(load({**config, "test_fraction": 1e-9}).test) == 1
    assert load({**config, "test_fraction": 0.99}).train.label.unique().tolist() == [0, 1]
    fill(tmp_path / "c", 19, first=21)
    after = load(config)
    assert {one.numpy().tobytes() for one in before.test.raw} <= {one.numpy().tobytes() for one in after.test.raw}


def test_limit_is_spread_over_classes(tmp_path: Path) -> None:
    """A limit takes pictures from everywhere in the folder, not the first class alone."""
    fill(tmp_path / "a", 20)
    fill(tmp_path / "b", 20, first=20)
    train = load({"name": "folder", "folder": tmp_path, "limit": 10}).train
    assert len(train) == 10
    assert len(train.label.unique()) == 2


def test_order_does_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder gives the same tensors with one thread and with eight."""
    fill(tmp_path / "a", 20)
    fill(tmp_path / "b", 20, first=20)
    seen = []
    monkeypatch.setattr("cm_multimodal.listing.BLOCK", 3)
    for threads in (1, 8):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        seen.append(load({"name": "folder", "folder": tmp_path}))
    assert torch.equal(seen[0].train.raw, seen[1].train.raw)
    assert torch.equal(seen[0].test.raw, seen[1].test.raw)
    assert torch.equal(seen[0].train.label, seen[1].train.label)


def test_most_common_size_wins(tmp_path: Path) -> None:
    """The most common size is kept bit for bit; others are cropped to its proportions, not squeezed."""
    fill(tmp_path, 3)
    wide = Image.new("RGB", (80, 12), "red")
    wide.paste("lime", (26, 0, 54, 12))
    wide.save(tmp_path / "wide.png")
    raw, _ = read(tmp_path)
    assert raw.shape == (4, 3, 6, 8)
    assert torch.equal(raw[0], pixels(picture(0)))
    assert torch.equal(raw[3], pixels(Image.new("RGB", (8, 6), "lime")))


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    """A fine chequerboard shrinks to even grey, which a picture without antialiasing would not."""
    board = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    raw, _ = read(tmp_path, size=8)
    assert raw.shape == (1, 1, 8, 8)
    assert (raw.int() - 127).abs().max() <= 2


RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
SCALED = torch.from_numpy((RAMP / 257).round().astype(np.uint8))[None]
MODES: dict[str, tuple[Callable[[], Image.Image], torch.Tensor]] = {
    "grey.png": (lambda: picture(0, "L"), pixels(picture(0, "L"))),
    "bits.png": (lambda: picture(0, "1"), pixels(picture(0, "1").convert("L"))),
    "deep.png": (lambda: Image.fromarray(RAMP), SCALED),
    "deep.tif": (lambda: Image.fromarray(RAMP), SCALED),
    "deep.pgm": (lambda: Image.fromarray(RAMP), SCALED),
    "palette.gif": (lambda: picture(0, "P"), pixels(picture(0, "P").convert("RGB"))),
    "palette.png": (lambda: picture(0, "P"), pixels(picture(0, "P").convert("RGB"))),
    "clear.png": (lambda: Image.new("RGBA", (8, 6), (255, 0, 0, 0)), torch.full((1, 6, 8), 255, dtype=torch.uint8)),
    "half.png": (lambda: Image.new("LA", (8, 6), (0, 128)), torch.full((1, 6, 8), 127, dtype=torch.uint8)),
    "ink.tif": (lambda: Image.new("CMYK", (8, 6), (0, 255, 255, 0)), pixels(Image.new("RGB", (8, 6), "red"))),
    "plain.bmp": (picture, pixels(picture())),
    "plain.ppm": (picture, pixels(picture())),
}


@pytest.mark.parametrize("name", MODES)
def test_mode_becomes_eight_bits(tmp_path: Path, name: str) -> None:
    """Every mode becomes 8 bits of grey or RGB as documented: white behind transparency, 16 bits scaled down."""
    make, expected = MODES[name]
    make().save(tmp_path / name)
    raw, _ = read(tmp_path)
    assert torch.equal(raw[0], expected)


def test_mixed_modes_share_one_tensor(tmp_path: Path) -> None:
    """Pictures of all modes together are colour, and have one channel when that is asked for."""
    for name, (make, _) in MODES.items():
        make().save(tmp_path / name)
    assert [read(tmp_path, channels=count)[0].shape[:2] for count in (None, 1)] == [(12, 3), (12, 1)]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_orientation_is_applied(tmp_path: Path, kind: str) -> None:
    """A picture that a camera noted as turned is upright, and its size is read upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.new("RGB", (64, 32), "black")
    lying.paste("white", (0, 0, 64, 16))
    lying.save(tmp_path / f"lying.{kind}", exif=exif)
    raw, _ = read(tmp_path)
    assert raw.shape == (1, 1, 64, 32)
    assert raw[0, 0, :, 20:].min() > 230
    assert raw[0, 0, :, :12].max() < 25


def test_large_jpeg_is_reduced_faithfully(tmp_path: Path) -> None:
    """A JPEG that is decoded at a fraction of its size looks like one that was decoded whole."""
    fine = Image.fromarray(COLOURS.reshape(48, 40, 3))
    fine.resize((480, 576), Image.Resampling.NEAREST).save(tmp_path / "large.jpg", quality=95, subsampling=0)
    raw, _ = read(tmp_path, size=[48, 40])
    whole = pixels(Image.open(tmp_path / "large.jpg").resize((40, 48), Image.Resampling.LANCZOS))
    assert (raw[0].int() - whole.int()).abs().max() <= 12


def test_broken_files_are_skipped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, renamed, unreadable, missing and special files are skipped with a reason; the good ones are read."""
    fill(tmp_path, 3)
    Image.fromarray(np.ones((6, 8), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((6, 8), -1, np.int32)).save(tmp_path / "signed.tif")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("a text that was renamed")
    (tmp_path / "drawing.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "locked.png").write_bytes(encoded())
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / os.fsdecode(b"bad\xff\nname.png")).touch()

    def refuse(path: str, mode: str) -> io.BufferedReader:
        if path.endswith("locked.png"):
            raise PermissionError(13, "Permission denied", path)
        return io.open(path, mode)  # noqa: UP020

    monkeypatch.setattr(listing, "open", refuse, raising=False)
    raw, skipped = read(tmp_path)
    assert raw.shape == (3, 3, 6, 8)
    assert skipped == {
        "bad\\udcff\nname.png": "the file is empty (0 bytes)",
        "drawing.png": "not a picture, whatever its name says",
        "empty.png": "the file is empty (0 bytes)",
        "float.tif": "the pixels are floating-point numbers without a known range",
        "gone.png": "no such file or directory",
        "itself.png": "too many levels of symbolic links",
        "locked.png": "permission denied",
        "pipe.png": "not a regular file",
        "signed.tif": "the pixels have more than 16 bits",
        "text.png": "not a picture, whatever its name says",
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF"])
def test_truncated_picture_is_skipped(tmp_path: Path, kind: str) -> None:
    """A picture whose end is missing is not padded, but skipped with a reason."""
    fill(tmp_path, 2)
    whole = encoded(kind)
    (tmp_path / f"half.{kind.lower()}").write_bytes(whole[: len(whole) * 2 // 3])
    raw, skipped = read(tmp_path)
    assert len(raw) == 2
    assert list(skipped) == [f"half.{kind.lower()}"]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("side", [60_000, 9_000])
def test_bomb_is_not_decoded(tmp_path: Path, side: int) -> None:
    """A small file that claims billions of pixels is refused at once and without memory."""
    fill(tmp_path, 2)
    (tmp_path / "bomb.png").write_bytes(huge_png(side))
    start = time.perf_counter()
    with little_memory():
        raw, skipped = read(tmp_path)
    assert len(raw) == 2
    assert "pixels" in skipped["bomb.png"]
    assert time.perf_counter() - start < 1


def test_link_loop_ends(tmp_path: Path) -> None:
    """A link back to a folder above is followed once and named; a link to another folder is read."""
    fill(tmp_path / "set" / "a", 2)
    fill(tmp_path / "elsewhere", 2, first=2)
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    raw, skipped = read(tmp_path / "set")
    assert len(raw) == 4
    assert skipped == {"a/up": "a link to a folder that was read already"}


def test_all_broken_stops(tmp_path: Path) -> None:
    """Where nothing can be read, the error counts the pictures and gives the first reasons."""
    for index in range(9):
        (tmp_path / f"{index}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"9 of 9 pictures cannot be used.*'0.jpg': the file is empty") as error:
        read(tmp_path)
    assert error.value.exit_code == 3


def test_empty_folder_names_extensions(tmp_path: Path) -> None:
    """An empty folder is a data error that names the extensions looked for."""
    (tmp_path / "sound.wav").touch()
    with pytest.raises(DataError, match=r"\.png, \.jpg, \.jpeg, \.bmp, \.gif, \.webp, \.tif, \.tiff, \.ppm, \.pgm"):
        read(tmp_path)


def test_missing_folder_says_what_to_type(tmp_path: Path) -> None:
    """A folder that does not exist, or is a file, is a usage error that says what to type."""
    with pytest.raises(UsageError, match=r"nowhere'; type data\.folder=PATH"):
        read(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"is a file; type data\.folder=PATH"):
        read(tmp_path / "file")


def test_folder_is_bounded(tmp_path: Path) -> None:
    """A folder that would take more than max_bytes is refused before it is decoded."""
    with pytest.raises(DataError, match=r"4 pictures of 3x64x64 take 49,152 bytes.*data\.max_bytes=49151"):
        read(fill(tmp_path), size=64, max_bytes=49151)


def archive(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return file


def test_archive_reads_like_a_folder(tmp_path: Path) -> None:
    """A .zip gives what the folder in it gives, also with one folder around the classes; nothing is unpacked."""
    inside = {f"set/{name}/{index}.png": encoded(index=index) for index in range(4) for name in "ab"}
    file = archive(tmp_path / "set.zip", inside | {"__MACOSX/set/._0.png": b"x", "../../out.png": encoded()})
    train = load({"name": "folder", "folder": file, "test_fraction": 0}).train
    assert train.classes == ("a", "b")
    assert train.raw.shape == (8, 3, 6, 8)
    assert [one.path for one in train.skipped] == ["../../out.png"]
    assert list(tmp_path.iterdir()) == [file]


def test_hostile_members_are_skipped(tmp_path: Path) -> None:
    """A member that unpacks to more than is reasonable is skipped without being unpacked."""
    file = archive(tmp_path / "set.zip", {"a.png": encoded(), "b.png": b"", "c.png": bytes(2**26 + 1)})
    with little_memory():
        raw, skipped = read(file)
    assert len(raw) == 1
    assert "67,108,865 bytes" in skipped["c.png"]
    assert "0 bytes" in skipped["b.png"]


def test_damaged_archive_is_a_sentence(tmp_path: Path) -> None:
    """A .zip that is none is a data error."""
    (tmp_path / "set.zip").write_text("no archive")
    with pytest.raises(DataError, match=r"set\.zip' cannot be read as a \.zip archive"):
        read(tmp_path / "set.zip")
