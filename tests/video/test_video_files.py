"""A folder of videos becomes clips; what cannot be used is skipped, counted and named, or refused with a sentence."""

import av
import numpy as np
import os
import pytest
import signal
import struct
import sys
import torch
import zipfile

from cm_multimodal.errors import DataError, Interrupted, UsageError
from cm_multimodal.modality import Dataset
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from modalities.video import files, frames
from modalities.video.data import load
from pathlib import Path
from PIL import Image
from typing import Any

FORM = {"name": "folder", "frames": 8, "size": 16, "test_fraction": 0.0}
QUICK = {"libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}, "libx264": {"preset": "ultrafast", "g": "8"}}
KINDS = {
    "mp4": "libx264", "m4v": "mpeg4", "mov": "libx264", "webm": "libvpx-vp9", "mkv": "libx264", "avi": "mpeg4", "gif": "",
}  # fmt: skip


def greys(count: int, first: int = 0, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Returns frames of one grey each: eight times the number of the frame, from `first` on."""
    return np.broadcast_to((8 * np.arange(first, first + count) % 256).astype(np.uint8)[:, None, None, None],
                           (count, *size, 3))  # fmt: skip


def labelled(number: int) -> np.ndarray:
    """Returns 24 frames whose brightest value is a number, no two of them alike."""
    return number * np.eye(24, 64, dtype=np.uint8).reshape(24, 8, 8, 1).repeat(3, axis=3)


def save(
    file: Path,
    pixels: Sequence[np.ndarray],
    codec: str | None = None,
    times: Sequence[int] | None = None,
    turn: int = 0,
) -> Path:
    """Writes a video of ten frames a second, or at times in milliseconds, noted as turned against the clock."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".gif":
        first, *rest = (Image.fromarray(one) for one in pixels)
        first.save(file, save_all=True, append_images=rest, duration=100)
        return file
    codec = codec or KINDS[file.suffix[1:]]
    quick = {"movflags": "faststart"} if file.suffix in (".mp4", ".m4v", ".mov") else {}
    with av.open(str(file), "w", options=quick) as container:
        stream = container.add_stream(codec, rate=10, options=QUICK.get(codec, {}))
        stream.height, stream.width = pixels[0].shape[:2]
        stream.pix_fmt = {"mjpeg": "yuvj420p"}.get(codec, "yuv444p" if codec == "libx264" else "yuv420p")
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        stream.set_display_rotation(turn)
        for number, one in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(one, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else 100 * number, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def read(folder: Path, **options: Any) -> Dataset:
    return load({**FORM, "folder": str(folder), **options}).train


def reasons(data: Dataset) -> dict[str, str]:
    return {one.path: one.reason for one in data.skipped}


def numbers(raw: torch.Tensor) -> list[list[int]]:
    """Returns which frames of `greys` clips show."""
    return (raw.double().mean((2, 3, 4)) / 8).round().int().tolist()


@contextmanager
def little_memory(kilobytes: int) -> Iterator[None]:
    """Fails where the process grows by more, even for a moment."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = peak()
    yield
    assert peak() - before < kilobytes


def peak() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_clips(tmp_path: Path, kind: str) -> None:
    """In the order in which frames are shown; the class is the sub-folder; what is left over at the end is dropped."""
    save(tmp_path / "rising" / f"a.{kind}", greys(20))
    save(tmp_path / "later" / f"b.{kind}", greys(9, first=10))
    data = read(tmp_path)
    assert (data.raw.dtype, data.raw.shape) == (torch.uint8, (3, 8, 3, 16, 16))
    assert numbers(data.raw) == [list(range(10, 18)), list(range(8)), list(range(8, 16))]
    assert data.classes == ("later", "rising")
    assert data.label is not None
    assert data.label.tolist() == [0, 1, 1]
    assert (data.skipped, data.note[:28]) == ((), "3 clips of 2 videos read in ")


def test_a_variable_rate_becomes_constant_if_that_is_asked_for(tmp_path: Path) -> None:
    """For each time the nearest frame, twice where the video is slow; without a rate, frames as they come."""
    times = [0, 100, 200, 240, 270, 300, 700, 800, 900, 1000]
    save(tmp_path / "a.mp4", greys(10), times=times)
    assert numbers(read(tmp_path).raw) == [list(range(8))]
    assert numbers(read(tmp_path, fps=10.0, frames=11).raw) == [[0, 1, 2, 5, 5, 5, 6, 6, 7, 8, 9]]
    assert numbers(read(tmp_path, fps=5.0, frames=3).raw) == [[0, 2, 5], [6, 7, 9]]
    with pytest.raises(DataError, match=r"it has 3 frames at data\.fps=2, a clip needs 8"):
        read(tmp_path, fps=2.0)


def test_a_short_video_says_how_short(tmp_path: Path) -> None:
    """One frame, or fewer than a clip needs; every third frame needs more."""
    for count in (1, 3, 20):
        save(tmp_path / f"{count}.mp4", greys(count))
    assert reasons(read(tmp_path)) == {
        "1.mp4": "it has 1 frame, a clip needs 8", "3.mp4": "it has 3 frames, a clip needs 8",
    }  # fmt: skip
    with pytest.raises(DataError, match=r"'20\.mp4': it has 20 frames, a clip needs 22"):
        read(tmp_path, step=3)


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_odd_sizes_are_cropped_not_squeezed(tmp_path: Path, kind: str) -> None:
    """The middle of a wide video fills a square frame."""
    wide = np.full((31, 93, 3), 1, np.uint8)
    wide[:, 28:65] = 200
    save(tmp_path / f"a.{kind}", [wide - number % 2 for number in range(8)])  # of equal ones, a GIF keeps one
    assert (read(tmp_path).raw.int() - 200).abs().max() < 12
    assert read(tmp_path, size=[10, 30]).raw[..., :8].max() < 12


@pytest.mark.parametrize(("turn", "bright"), [(0, "right"), (90, "top"), (180, "left"), (-90, "bottom")])
def test_a_turned_camera_is_set_upright(tmp_path: Path, turn: int, bright: str) -> None:
    """The right half of the frames is bright as they are kept; turned, another one is; proportions are those seen."""
    kept = np.zeros((24, 48, 3), np.uint8)
    kept[:, 24:] = 255
    save(tmp_path / "a.mp4", [kept] * 8, turn=turn)
    size = [32, 16] if abs(turn) == 90 else [16, 32]
    raw = read(tmp_path, size=size, channels=1).raw[0, 0, 0].double()
    high, wide = size[0] // 4, size[1] // 4
    sides = {"top": raw[:high], "bottom": raw[-high:], "left": raw[:, :wide], "right": raw[:, -wide:]}
    assert {name for name, part in sides.items() if part.mean() > 240} == {bright}


def test_numbered_pictures_are_a_video(tmp_path: Path) -> None:
    """In the order of their numbers, not of their letters; other pictures are named, and an archive is a folder."""
    for number, one in enumerate(greys(12)):
        (tmp_path / "in" / "up" / "film").mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(tmp_path / "in" / "up" / "film" / f"frame{number}.{('png', 'bmp')[number % 2]}")
    save(tmp_path / "in" / "down" / "b.gif", greys(8)[::-1])
    for name in ("in/down/7.png", "in/other/cover.jpg", "in/other/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(greys(1)[0]).save(tmp_path / name)
    data = read(tmp_path / "in")
    assert numbers(data.raw) == [list(range(8))[::-1], list(range(8))]
    assert data.classes == ("down", "up")
    assert reasons(data).keys() == {"down/7.png", "other/1.jpg", "other/cover.jpg"}
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for file in (tmp_path / "in").rglob("*.*"):
            archive.write(file, file.relative_to(tmp_path))
    packed = read(tmp_path / "in.zip")
    assert torch.equal(packed.raw, data.raw)
    assert packed.classes == data.classes


def test_pictures_alone_may_be_one_video(tmp_path: Path) -> None:
    """Directly in the folder; where their names have no numbers, a sentence says how they should lie."""
    for number, one in enumerate(greys(70)):
        Image.fromarray(one).save(tmp_path / f"{number}.png")
    data = read(tmp_path)
    assert len(data) == 8
    assert data.label is None
    (tmp_path / "66.png").write_bytes((tmp_path / "66.png").read_bytes()[:60])
    assert numbers(read(tmp_path).raw) == numbers(data.raw)
    (tmp_path / "20.png").write_bytes(b"")
    assert reasons(read(tmp_path)) == {
        "(the folder itself)": "only its first 2 clips are used: frame 21: the file is empty (0 bytes)"
    }
    (tmp_path / "20.png").rename(tmp_path / "x.png")
    with pytest.raises(DataError, match="with a number in each name"):
        read(tmp_path)


def test_a_video_is_on_one_side_of_the_split(tmp_path: Path) -> None:
    """All its clips are learned from or held back, and it stays there when others come; a largest number is kept."""
    for number in range(1, 13):
        save(tmp_path / f"{number}.gif", labelled(number))
    splits = load({**FORM, "folder": str(tmp_path), "test_fraction": 0.3, "size": 8})
    train, test = ({int(clip.max()) for clip in part.raw} for part in (splits.train, splits.test))
    assert not train & test
    assert train | test == set(range(1, 13))
    assert (len(splits.train), len(splits.test)) == (3 * len(train), 3 * len(test))
    for number in range(13, 17):
        save(tmp_path / f"{number}.gif", labelled(number))
    more = load({**FORM, "folder": str(tmp_path), "test_fraction": 0.3, "size": 8, "clips_per_file": 1})
    assert test <= {int(clip.max()) for clip in more.test.raw}
    assert len(more.train) + len(more.test) == 16
    assert len(load({**FORM, "folder": str(tmp_path), "limit": 2}).train) == 6


def test_order_does_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long video before short ones, decoded one by one or all together, with a broken one between."""
    save(tmp_path / "a.mp4", greys(200))
    (tmp_path / "b.mp4").write_bytes(b"")
    for number in range(20):
        save(tmp_path / f"c{number}.gif", greys(8, first=number))
    seen = []
    for threads in (1, 8):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        seen.append(read(tmp_path))
    assert torch.equal(seen[0].raw, seen[1].raw)
    assert reasons(seen[0]) == reasons(seen[1]) == {"b.mp4": "the file is empty (0 bytes)"}


# Damage, bombs, and what is no video


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.75])
def test_of_a_truncated_video_counts_what_comes_before(tmp_path: Path, kind: str, share: float) -> None:
    """Its clips are those that the whole one begins with; if there are any, it says how many, and else why."""
    moving = np.random.RandomState(0).randint(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    whole = save(tmp_path / "whole" / f"a.{kind}", moving).read_bytes()
    save(tmp_path / "half" / "b.gif", greys(8))
    (tmp_path / "half" / f"a.{kind}").write_bytes(whole[: int(share * len(whole))])
    data, good = read(tmp_path / "half"), read(tmp_path / "whole").raw
    used = len(data) - 1
    assert used < len(good) == 5
    assert (used > 0) == (share > 0.5)
    assert torch.equal(data.raw[:used], good[:used])
    says = reasons(data).get(f"a.{kind}", "it ends between two frames" if kind == "gif" and used else "")
    assert ("only its first" in says) == (used > 0) or kind == "gif"
    assert says


def test_damage_in_the_middle_ends_a_video(tmp_path: Path) -> None:
    """The clips before it are used."""
    moving = np.random.RandomState(0).randint(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    file = save(tmp_path / "a.mp4", moving)
    good, content = read(tmp_path).raw, bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = np.random.RandomState(1).bytes(500)
    file.write_bytes(content)
    data = read(tmp_path)
    assert 0 < len(data) < len(good)
    assert torch.equal(data.raw, good[: len(data)])
    assert f"only its first {len(data)} clips are used: it is damaged" in reasons(data)["a.mp4"]


def animation(count: int) -> bytes:
    """Returns a GIF of as many frames, each of one black pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * count + b"\x3b"


def test_frames_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GIF of 100,000 frames is read to a bound and no further, and so is a video that stands still for hours."""
    (tmp_path / "long.gif").write_bytes(animation(100_000))
    save(tmp_path / "hours.mp4", greys(9), times=[*range(0, 800, 100), 10**7])
    for module in (frames, files):
        monkeypatch.setattr(module, "MAX_FRAMES", 100)
    with little_memory(50_000):
        data = read(tmp_path, fps=10.0)
    assert len(data) == 24
    found = reasons(data)
    assert "only its first 12 clips are used: it has more than 100 frames" in found["long.gif"]
    assert "only its first 12 clips are used: it has more than 100 frames at data.fps=10" in found["hours.mp4"]
    assert not read(tmp_path, clips_per_file=1).skipped
    monkeypatch.setattr(frames, "MAX_PIXELS", 1023)
    assert reasons(read(tmp_path))["hours.mp4"] == "32x32 pixels are more than 1,023"


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Ten minutes of video, 221 MB of pixels, are cut into clips without ever lying in memory."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        picture = av.VideoFrame.from_ndarray(greys(1, size=(96, 128))[0].copy(), format="rgb24").reformat(
            format="yuv420p"
        )
        for number in range(6000):
            picture.pts, picture.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    save(tmp_path / "b.gif", greys(8))
    read(tmp_path, clips_per_file=1)
    with little_memory(60_000):
        assert len(read(tmp_path)) == 751


def bomb(folder: Path) -> bytes:
    """Returns a video whose pictures claim to have 16,000x16,000 pixels."""
    content = save(folder / "bomb.avi", greys(10), codec="mjpeg").read_bytes()
    size = content.index(b"\xff\xc0") + 5
    return content.replace(content[size - 5 : size + 4], content[size - 5 : size] + struct.pack(">HH", 16_000, 16_000))


def spoil(folder: Path) -> dict[str, str]:
    """Writes files that hold no video; returns the reasons that are expected."""
    folder.mkdir(exist_ok=True)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    (folder / "bomb.avi").write_bytes(bomb(folder))
    (folder / "zero.mkv").write_bytes(b"")
    (folder / "text.mp4").write_text("This is no video at all. " * 40)
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{folder / 'sound.mp4'}\n#EXT-X-ENDLIST\n")
    Image.fromarray(greys(1)[0]).save(folder / "picture.webm", format="PNG")
    (folder / "head.mp4").write_bytes((folder / "sound.mp4").read_bytes()[:40])
    (folder / "noise.webm").write_bytes(b"\x1aE\xdf\xa3" + np.random.RandomState(0).bytes(4000))
    (folder / "large.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + animation(9)[19:])
    os.mkfifo(folder / "pipe.mov")
    return {
        "sound.mp4": "it holds no pictures, only sound", "bomb.avi": "damaged", "zero.mkv": "the file is empty (0 bytes)",
        "text.mp4": "not a video, whatever its name says", "list.mp4": "not a video, whatever its name says",
        "picture.webm": "not a video, whatever its name says", "head.mp4": "damaged", "noise.webm": "damaged",
        "large.gif": "pixels", "pipe.mov": "not a regular file",
    }  # fmt: skip


def test_what_is_no_video_is_skipped_and_named(tmp_path: Path) -> None:
    """Beside a good one, each is listed with its reason, without memory for what it claims to be."""
    expected = spoil(tmp_path)
    save(tmp_path / "good.gif", greys(8))
    with little_memory(100_000):
        data = read(tmp_path)
    assert len(data) == 1
    assert reasons(data).keys() == expected.keys()
    for name, says in expected.items():
        assert says in reasons(data)[name], name


def test_what_a_file_is_called_counts_for_nothing(tmp_path: Path) -> None:
    """A GIF named as an MP4 and an MP4 named as a GIF are read as what they are."""
    save(tmp_path / "a.gif", greys(8)).rename(tmp_path / "a.mp4")
    save(tmp_path / "b.mp4", greys(8)).rename(tmp_path / "b.gif")
    assert numbers(read(tmp_path).raw) == [list(range(8))] * 2


def test_nothing_usable_is_refused(tmp_path: Path) -> None:
    """If all are bad, a sentence says so and names the first; and one where there are none."""
    spoil(tmp_path / "bad")
    with pytest.raises(DataError, match=r"none of 10 videos can be learned from. '.*': .*; and so on\.") as error:
        read(tmp_path / "bad")
    assert error.value.exit_code == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no video: looked for \.mp4"):
        read(tmp_path / "empty")


def test_without_a_decoder_a_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video needs PyAV; GIF files do not."""
    save(tmp_path / "a.gif", greys(8))
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(read(tmp_path)) == 1
    monkeypatch.undo()
    save(tmp_path / "b.mp4", greys(8))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"pip install 'cm-multimodal\[video\]'"):
        read(tmp_path)


def test_all_clips_are_bounded(tmp_path: Path) -> None:
    """What would take more than max_bytes is refused, in one video or in all of them together."""
    for number in range(4):
        save(tmp_path / f"{number}.gif", greys(16, first=number))
    size = 8 * 8 * 3 * 16 * 16
    assert len(read(tmp_path, max_bytes=size)) == 8
    for most in (size - 1, size // 8):
        with pytest.raises(DataError, match=r"more than data\.max_bytes=.*data\.clips_per_file="):
            read(tmp_path, max_bytes=most)


def test_a_wish_to_stop_is_no_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the reading, whatever decoder it falls into."""
    save(tmp_path / "a.gif", greys(80))
    usual = files.clips_of

    def stopped(*how: Any) -> Iterator[np.ndarray]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from usual(*how)

    monkeypatch.setattr(files, "clips_of", stopped)
    with pytest.raises(Interrupted):
        read(tmp_path)
