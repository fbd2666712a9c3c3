"""Clips to look at: the sheet, the same in motion, and the files one by one."""

import io
import numpy as np
import pytest
import torch

from cm_multimodal.errors import UsageError
from modalities.image.preview import GAP as THIN
from modalities.image.preview import MARGIN
from modalities.video import preview
from modalities.video.preview import GAP, LINE, arrays, strip, write_files
from pathlib import Path
from PIL import Image

CLIPS = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (6, 5, 3, 8, 8)).astype(np.uint8))
GREY = CLIPS[:, :, :1]
SIDE = 64


def frames_of(file: Path) -> list[Image.Image]:
    """Returns the frames of a GIF."""
    with Image.open(file) as animation:
        frames = []
        for index in range(animation.n_frames):
            animation.seek(index)
            frames.append(animation.convert("RGB"))
    return frames


def pixels(image: Image.Image, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).movedim(-1, 0)[:channels]


def shown(page: torch.Tensor, top: int, left: int) -> torch.Tensor:
    """Returns the picture at a place on a page, as small as it was."""
    return page[:, top : top + SIDE : SIDE // 8, left : left + SIDE : SIDE // 8]


def test_a_sheet_shows_frame_beside_frame(tmp_path: Path) -> None:
    """Three clips of five frames a line, the fourth below them; thin gaps between frames, wide ones between clips."""
    file = strip({"": GREY}, tmp_path / "deep" / "sheet", fps=8)
    assert file == tmp_path / "deep" / "sheet.png"
    page, line = pixels(Image.open(file)), 5 * (SIDE + THIN) - THIN
    assert page.shape[1:] == (2 * MARGIN + 2 * SIDE + LINE, 2 * MARGIN + 3 * line + 2 * GAP)
    for clip in range(4):
        top, left = MARGIN + clip // 3 * (SIDE + LINE), MARGIN + clip % 3 * (line + GAP)
        for time in range(5):
            assert torch.equal(shown(page, top, left + time * (SIDE + THIN)), GREY[clip, time].expand(3, -1, -1))


def test_long_clips_are_shown_from_start_to_end(tmp_path: Path) -> None:
    """Sixteen frames of them, the first and the last among them; the animation has them all."""
    raw = CLIPS.flatten(0, 1)[None, :29, :1]
    page = pixels(Image.open(strip({"": raw}, tmp_path / "sheet", fps=8)))
    assert page.shape[1:] == (2 * MARGIN + SIDE, 2 * MARGIN + 16 * (SIDE + THIN) - THIN)
    for time, place in ((0, 0), (28, 15)):
        assert torch.equal(shown(page, MARGIN, MARGIN + place * (SIDE + THIN)), raw[0, time].expand(3, -1, -1))
    assert len(frames_of(tmp_path / "sheet.gif")) == 29


def test_the_sheet_moves(tmp_path: Path) -> None:
    """All rows together, a frame each time step, for ever; grey clips bit for bit; a clip that has ended stays."""
    strip({"": GREY[:2], " ": GREY[2:4, :3]}, tmp_path / "sheet", fps=10)
    frames = frames_of(tmp_path / "sheet.gif")
    assert len(frames) == 5
    top, left = MARGIN, frames[0].width - MARGIN - 2 * SIDE - GAP
    for time, frame in enumerate(frames):
        page = pixels(frame)
        assert torch.equal(shown(page, top, left + SIDE + GAP), GREY[1, time].expand(3, -1, -1))
        below = shown(page, frame.height - MARGIN - SIDE, left)
        assert torch.equal(below, GREY[2, min(time, 2)].expand(3, -1, -1))
    with Image.open(tmp_path / "sheet.gif") as animation:
        assert (animation.info["loop"], animation.info["duration"]) == (0, 100)


def test_rows_have_names_and_may_be_empty(tmp_path: Path) -> None:
    """A name stands at the left, a row without clips is left out, and grey and colour share a sheet."""
    page = pixels(Image.open(strip({"2 steps": CLIPS[:1], "none": CLIPS[:0], "real": GREY[:1]}, tmp_path / "a", 8)))
    bare = pixels(Image.open(strip({"": CLIPS[:1]}, tmp_path / "b", 8)))
    left = page.shape[2] - (bare.shape[2] - MARGIN)
    assert (page[:, :, :left] < 128).any()
    assert page.shape[1] < 2 * bare.shape[1]
    assert torch.equal(shown(page, MARGIN, left), CLIPS[0, 0])
    assert len(frames_of(tmp_path / "a.gif")) == 5


@pytest.mark.parametrize("still", [False, True])
def test_grey_clips_come_back_bit_for_bit(tmp_path: Path, still: bool) -> None:
    """As many frames as there were, also where nothing moves; names are kept, and a slash makes a sub-folder."""
    raw = GREY[:2, :1].expand(-1, 5, -1, -1, -1) if still else GREY[:2]
    files = write_files(raw, ["a/0", "1"], tmp_path, fps=4)
    assert files == [tmp_path / "a" / "0.gif", tmp_path / "1.gif"]
    for clip, file in zip(raw, files, strict=True):
        back = torch.stack([pixels(frame, 1) for frame in frames_of(file)])
        assert torch.equal(back, clip)


def test_colours_come_back_about_as_they_were(tmp_path: Path) -> None:
    """Each frame has a palette of its own; 64 colours are fewer than it holds."""
    (file,) = write_files(CLIPS[:1], ["one"], tmp_path, fps=4)
    back = torch.stack([pixels(frame) for frame in frames_of(file)])
    assert (back.float() - CLIPS[0].float()).abs().max() <= 1


@pytest.mark.parametrize(("fps", "milliseconds"), [(4, 250), (24, 40), (30, 30), (1000, 20), (0.5, 2000)])
def test_durations_are_whole_hundredths(tmp_path: Path, fps: float, milliseconds: int) -> None:
    """The nearest, and two at least."""
    (file,) = write_files(GREY[:1], ["one"], tmp_path, fps)
    with Image.open(file) as animation:
        assert animation.info["duration"] == milliseconds


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing that fails half-way leaves the old file as it was, and nothing beside it."""
    (file,) = write_files(GREY[:1], ["one"], tmp_path, fps=4)
    before = file.read_bytes()

    def fail(path: Path, content: bytes) -> None:
        with io.FileIO(path, "w") as stream:
            stream.write(content[:20])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space"):
        write_files(GREY[1:2], ["one"], tmp_path, fps=4)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_kinds_that_cannot_be_written_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown ones, and MP4 without PyAV; nothing is written, and a sheet then has no MP4 beside it."""
    with pytest.raises(UsageError, match="did you mean 'mp4'"):
        write_files(GREY, list("abcdef"), tmp_path, 4, kind="mpeg4")
    monkeypatch.setattr(preview.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install av"):
        write_files(GREY, list("abcdef"), tmp_path, 4, kind="mp4")
    assert not list(tmp_path.iterdir())
    strip({"": GREY}, tmp_path / "sheet", 4)
    assert {file.name for file in tmp_path.iterdir()} == {"sheet.png", "sheet.gif"}


def test_mp4_has_every_frame_and_the_rate(tmp_path: Path) -> None:
    """Odd sides become even, a smooth clip comes back about as it was, and nothing half-written lies beside it."""
    av = pytest.importorskip("av", reason="PyAV, which writes MP4 files, is not installed")
    ramp = torch.linspace(0, 200, 33).to(torch.uint8)
    raw = torch.stack([(ramp + 10 * time).expand(1, 21, 33) for time in range(5)])[None]
    (file,) = write_files(raw, ["one"], tmp_path, fps=12.5, kind="mp4")
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 12.5
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert back.shape == (5, 22, 34, 3)
    assert np.abs(back[:, :21, :33, 0].astype(float) - raw[0, :, 0].numpy()).mean() < 4
    sheet = strip({"1 step": raw}, tmp_path / "sheet", 12.5)
    assert {each.name for each in tmp_path.iterdir()} == {"one.mp4", sheet.name, "sheet.gif", "sheet.mp4"}


def test_arrays_hold_no_objects() -> None:
    """Frames by height, width and channels, and the rate."""
    held = arrays(CLIPS, fps=8)
    assert list(held) == ["x", "fps"]
    assert held["x"].dtype == np.uint8
    assert held["x"].shape == (6, 5, 8, 8, 3)
    assert torch.equal(torch.from_numpy(held["x"][2, 3, :, :, 1]), CLIPS[2, 3, 1])
    assert held["fps"] == 8.0
