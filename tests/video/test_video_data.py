"""Data sets of videos by name: the options, pictures that move, and the packed real clips."""

import gzip
import numpy as np
import os
import pytest
import struct
import torch
import zipfile

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.modality import Dataset, Splits
from collections.abc import Mapping
from modalities.image.data import load as load_pictures
from modalities.video.data import USUAL, load, options_of
from modalities.video.files import Form, clips_of
from modalities.video.frames import Frame
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("CMM_DATA") or "data") / "video"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="CMM_DATA names no folder of real data")

# The options


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "moving_digit"}, "did you mean 'moving_digits'"),
        ({}, "known: clips, folder, moving_digits, moving_mnist"),
        ({"name": "folder", "flder": "x"}, "did you mean 'folder'"), ({"name": "folder"}, "Which folder"),
        ({"name": "moving_digits", "folder": "mine"}, "data=videos data.folder=PATH"),
        ({"name": "folder", "together": 2}, "reads no data.together"),
        ({"name": "clips", "count": 9}, "reads no data.count"),
        ({"name": "moving_digits", "frames": 1}, "data.frames=1 is not possible"),
        ({"name": "moving_digits", "frames": "many"}, "a whole number"),
        ({"name": "folder", "size": [64, 0]}, r"data.size=\[64, 0\]"), ({"name": "folder", "size": "big"}, "data.size=big"),
        ({"name": "folder", "channels": 2}, "data.channels=2"), ({"name": "folder", "fps": 0}, "data.fps=0"),
        ({"name": "folder", "test_fraction": 1.0}, "data.test_fraction=1.0"),
        ({"name": "moving_digits", "size": [16, 12]}, "frames are square"),
        ({"name": "moving_digits", "size": 6}, "data.picture=8"),
        ({"name": "moving_digits", "slowest": 2.0}, "data.slowest=2 is more than data.fastest=1.5"),
        ({"name": "moving_digits", "max_bytes": 1000}, "smaller data.count"),
        ({"name": "moving_mnist", "root": "nowhere"}, "CMM_DATA"), ({"name": "clips", "root": "nowhere"}, "CMM_DATA"),
        ({"name": "folder", "folder": "nowhere"}, "There is no folder 'nowhere'"),
    ],
)  # fmt: skip
def test_wrong_options_get_sentences(config: dict[str, Any], said: str) -> None:
    """An option that is unknown, out of range or of another source is a usage error."""
    with pytest.raises(UsageError, match=said) as error:
        load(config)
    assert error.value.exit_code == 2


def test_the_rate_shown_follows_what_is_taken() -> None:
    """Every second frame of a constant rate is shown at half of it; where no rate is known, at a usual one."""
    assert options_of({"name": "folder", "fps": 12.0, "step": 2}).shown_fps == 6
    assert options_of({"name": "moving_digits"}).shown_fps == 10


# Pictures that move


def digits(**options: Any) -> Splits:
    return load({"name": "moving_digits", "count": 60, **options})


def test_digits_move_by_default() -> None:
    """Eight grey frames of 16x16; a tenth as many clips test; the class is the digit; nothing is drawn anew."""
    splits = digits()
    assert (splits.train.raw.dtype, splits.train.raw.shape) == (torch.uint8, (60, 8, 1, 16, 16))
    assert len(splits.test) == 6
    assert splits.train.classes == tuple("0123456789")
    more = digits(count=1200, limit=1100)  # computed in more than one piece
    assert torch.equal(more.train.raw[:60], splits.train.raw)
    assert not torch.equal(more.train.raw[1000:1060], splits.train.raw)
    assert (len(more.train), len(more.test)) == (1100, 120)
    colour = digits(channels=3, size=12, frames=4)
    assert colour.train.raw.shape == (60, 4, 3, 12, 12)
    assert torch.equal(colour.train.raw[:, :, 0], colour.train.raw[:, :, 2])


def shown(clips: Dataset, stills: Dataset) -> list[set[int]]:
    """Returns which stills each clip shows, whole and at a whole place, in all of its frames."""
    known: dict[bytes, set[int]] = {}
    for number, still in enumerate(stills.raw[:, 0].numpy()):
        known.setdefault(still.tobytes(), set()).add(number)
    found = []
    for clip in clips.raw[:, :, 0]:
        windows = clip.unfold(1, 8, 1).unfold(2, 8, 1).flatten(1, 2).numpy()
        found.append(set.intersection(*(set().union(*(known.get(w.tobytes(), set()) for w in one)) for one in windows)))
    return found


def test_training_and_test_clips_show_different_pictures() -> None:
    """Each shows one picture of its own split, whole in every frame, whose digit is the label; none of the other's."""
    splits, stills = digits(), load_pictures({"name": "digits"})
    for clips, mine, other in ((splits.train, stills.train, stills.test), (splits.test, stills.test, stills.train)):
        assert clips.label is not None
        assert mine.label is not None
        for which, label in zip(shown(clips, mine), clips.label, strict=True):
            assert [mine.label[number] for number in which] == [label]
        assert not set().union(*shown(clips, other))


def centres(raw: torch.Tensor) -> torch.Tensor:
    """Returns the centres of mass of grey clips, with shape (N, T, 2)."""
    mass = raw[:, :, 0].double()
    side = torch.arange(mass.shape[-1], dtype=torch.float64)
    return torch.stack([(mass.sum(3) * side).sum(2), (mass.sum(2) * side).sum(2)], -1) / mass.sum((2, 3))[..., None]


def test_speeds_are_those_asked_for() -> None:
    """Clips that touch no wall travel at the lowest to the highest speed, evenly spread; slower options, slower clips."""
    for slowest, fastest in ((0.5, 1.5), (1.0, 1.0), (0.0, 0.0)):
        train = digits(count=400, size=64, slowest=slowest, fastest=fastest).train
        place = centres(train.raw)
        free = ((place[:, 0] > 20) & (place[:, 0] < 44)).all(dim=1)
        speed = (place[free, -1] - place[free, 0]).norm(dim=-1) / 7
        rounded = 2**0.5 / 7  # places are whole pixels
        assert speed.min() >= slowest - rounded
        assert speed.max() <= fastest + rounded
        assert float(speed.mean()) == pytest.approx((slowest + fastest) / 2, abs=0.06)
        assert float(speed.std()) == pytest.approx((fastest - slowest) / 12**0.5, abs=0.06)


def test_digits_bounce() -> None:
    """In a small frame, over many of them, they turn back in both directions, and never leave it."""
    train = digits(size=12, frames=32).train
    mass = train.raw.double().sum((2, 3, 4))
    assert torch.equal(mass, mass[:, :1].expand_as(mass))
    step = centres(train.raw).diff(dim=1)
    turned = (step.amax(dim=1) > 0.5) & (step.amin(dim=1) < -0.5)
    assert turned.double().mean() > 0.9


def test_two_digits_have_no_class() -> None:
    """Where they meet the brighter pixel is seen, so that a frame holds at most what both hold."""
    splits = digits(together=2)
    assert splits.train.label is None
    assert splits.train.classes == ()
    most = 2 * load_pictures({"name": "digits"}).train.raw.sum((1, 2, 3)).max()
    total = splits.train.raw.sum((2, 3, 4))
    assert total.max() <= most
    assert total.double().mean() > 1.5 * digits().train.raw.sum((2, 3, 4)).double().mean()


def idx(values: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes())


def test_idx_files_move(tmp_path: Path) -> None:
    """Pictures of idx files are resized to half of the frame; 16 frames of 32x32 by default."""
    for part, value in (("train", 100), ("t10k", 200)):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(np.full((3, 28, 28), value, np.uint8)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(3, dtype=np.uint8)))
    splits = load({"name": "moving_mnist", "root": str(tmp_path), "path": ".", "count": 20})
    assert splits.train.raw.shape == (20, 16, 1, 32, 32)
    assert splits.train.classes == ("0", "1", "2")
    for clips, value in ((splits.train, 100), (splits.test, 200)):
        assert ((clips.raw == value).sum((2, 3, 4)) == 16 * 16).all()


# Clips of videos


@pytest.mark.parametrize(("count", "step", "stride"), [(4, 1, 4), (4, 1, 1), (4, 3, 2), (2, 2, 5), (5, 1, 7)])
def test_clips_begin_every_stride_and_take_every_step(count: int, step: int, stride: int) -> None:
    """As slices of the whole video would; frames of no clip are never asked for."""
    asked: list[int] = []

    def pixels(number: int) -> np.ndarray:
        asked.append(number)
        return np.full((1, 1, 1), number, np.uint8)

    video = (Frame(None, lambda number=number: pixels(number)) for number in range(40))
    found = [clip[:, 0, 0, 0].tolist() for clip in clips_of(video, Form((1, 1, 1), count, step, stride))]
    taken = list(range(40))[::step]
    expected = [taken[begin : begin + count] for begin in range(0, len(taken) - count + 1, stride)]
    assert found == expected
    assert {number for clip in expected for number in clip} <= set(asked)
    assert stride <= count or len(set(asked)) < len(taken)


def pack(root: Path, **changed: Any) -> Path:
    """Writes videos whose frames are of one grey, ten times their number, and one brighter from frame to frame."""
    names, lengths = ["a.mp4#left", "a.mp4#right", "b.gif#centre", "c.mp4#centre", "d.mp4#centre"], [20, 20, 30, 5, 24]
    levels = [10 * number + np.arange(length) for number, length in enumerate(lengths)]
    arrays: dict[str, Any] = {
        "frames": np.concatenate(levels).astype(np.uint8)[:, None, None, None].repeat(6, 1).repeat(6, 2).repeat(3, 3),
        "video_of_frame": np.repeat(np.arange(5), lengths), "video_names": np.array(names),
    }  # fmt: skip
    (root / "video").mkdir(exist_ok=True)
    np.savez(root / "video" / "clips64.npz", **arrays | changed)
    return root


def clips(root: Path, **options: Any) -> Splits:
    return load({"name": "clips", "root": str(root), "frames": 8, "size": 6, **options})


def test_packed_videos_are_on_one_side(tmp_path: Path) -> None:
    """Both parts of a file's frames test; the other files are learned from; one that is too short is named."""
    splits = clips(pack(tmp_path))
    assert splits.test.raw[:, 0, 0, 0, 0].tolist() == [0, 8, 10, 18]
    assert splits.train.raw[:, 0, 0, 0, 0].tolist() == [20, 28, 36, 40, 48, 56]
    assert (splits.train.raw.diff(dim=1) == 1).all()
    assert splits.train.label is None
    assert [(Path(one.path).name, one.reason) for one in splits.train.skipped] == [
        ("clips64.npz#c.mp4#centre", "it has 5 frames, a clip needs 8")
    ]
    assert clips(tmp_path, stride=1).train.raw.shape == (23 + 17, 8, 3, 6, 6)
    assert clips(tmp_path, limit=3).train.raw[:, 0, 0, 0, 0].tolist() == [20, 36, 56]


def test_packed_frames_take_size_and_channels(tmp_path: Path) -> None:
    """Another size, shape and colour than those they are kept in."""
    assert clips(pack(tmp_path), size=[8, 4], channels=1).train.raw.shape == (6, 8, 1, 8, 4)


def test_still_clips_are_left_out(tmp_path: Path) -> None:
    """Those that change by less than asked for, from frame to frame; nothing left is a sentence."""
    frames = np.zeros((99, 6, 6, 3), np.uint8)
    frames[40:70] = (4 * np.arange(30)[:, None, None, None]).astype(np.uint8)
    root = pack(tmp_path, frames=frames)
    assert len(clips(root, motion=4.0).train) == 3
    assert len(clips(root, motion=0.0).train) == 6
    with pytest.raises(DataError, match=r"none of its videos can be learned from.*data\.motion=5"):
        clips(root, motion=5.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"frames": np.zeros((99, 6, 6), np.uint8)}, {"frames": np.zeros((98, 6, 6, 3), np.uint8)},
        {"frames": np.zeros((99, 6, 6, 3))}, {"video_names": np.array(["a"], object)}, {"video_names": np.array("a")},
        {"frames": np.zeros((99, 0, 6, 3), np.uint8)},
    ],
)  # fmt: skip
def test_damaged_pack_is_a_sentence(tmp_path: Path, changed: Mapping[str, np.ndarray]) -> None:
    """Arrays that do not belong together, or that would have to be unpickled."""
    with pytest.raises(DataError, match="is damaged"):
        clips(pack(tmp_path, **changed))


def test_pack_is_bounded(tmp_path: Path) -> None:
    """What unpacks to more than is allowed, or is no archive, is refused before it is unpacked."""
    file = pack(tmp_path) / "video" / "clips64.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", bytes(2**20))
    with pytest.raises(DataError, match=r"unpacks to more than data\.max_bytes=100000"):
        clips(tmp_path, max_bytes=100_000)
    file.write_text("no archive")
    with pytest.raises(DataError, match="is damaged"):
        clips(tmp_path)


@needs_data
def test_real_pack() -> None:
    """As published: 585 clips of 16 frames every 8, of which 221 move; their files test or train as a whole."""
    splits = load({"name": "clips", "stride": 8, "motion": 0.0})
    every = torch.cat([splits.train.raw, splits.test.raw])
    assert every.shape == (585, 16, 3, 64, 64)
    assert sum(float(clip.short().diff(dim=0).abs().float().mean()) > 1 for clip in every) == 221
    assert len(splits.test) > 50


def test_usual_options_are_possible() -> None:
    """Each source's own."""
    for name in USUAL:
        assert options_of({"name": name}).form.bytes < 2**20


@needs_data
def test_real_videos() -> None:
    """Eight originals of six sizes: all of them are read, and look as the packed clips do that were made of them."""
    data = load(
        {"name": "folder", "folder": str(DATA / "original"), "frames": 8, "clips_per_file": 2, "test_fraction": 0.2}
    )
    assert not data.train.skipped
    assert len(data.train) + len(data.test) == 16
    assert len(data.test) >= 2
    assert data.train.raw.double().std() > 30
