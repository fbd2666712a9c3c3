"""Pictures to look at: the labelled grid and the files one by one."""

import numpy as np
import pytest
import torch

from modalities.image import preview
from modalities.image.data import load
from pathlib import Path
from PIL import Image

RAW = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (20, 3, 8, 8)).astype(np.uint8))


def sheet(file: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def places(page: torch.Tensor, raw: torch.Tensor, scale: int) -> list[tuple[int, int]]:
    """Returns where (top, left) each picture lies on a page, enlarged by a factor; it has to lie there exactly once."""
    found = []
    for one in raw.expand(-1, 3, -1, -1):
        large = one.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        corner = (
            (page.unfold(1, 2, 1).unfold(2, 2, 1) == large[:, None, None, :2, :2]).all((0, 3, 4)).nonzero().tolist()
        )
        side = large.shape[-1]
        same = [(y, x) for y, x in corner if torch.equal(page[:, y : y + side, x : x + side], large)]
        assert len(same) == 1
        found += same
    return found


def test_grid_has_a_row_for_each_entry(tmp_path: Path) -> None:
    """Every picture is on the sheet, about 64 pixels large and unblurred, rows below each other in their order."""
    file = preview.grid({"1 step": RAW[:5], "2 steps": RAW[5:10], "real": RAW[10:12]}, tmp_path / "deep" / "grid.png")
    assert file == tmp_path / "deep" / "grid.png"
    found = places(sheet(file), RAW[:12], 8)
    rows = [[y for y, _ in found[a:b]] for a, b in ((0, 5), (5, 10), (10, 12))]
    assert [len(set(row)) for row in rows] == [1, 1, 1]
    assert rows[0][0] + 64 < rows[1][0] < rows[2][0] - 64
    assert [x for _, x in found[:5]] == [x for _, x in found[5:10]]
    assert found[1][1] - found[0][1] == 64 + preview.GAP


def test_labels_stand_at_the_left(tmp_path: Path) -> None:
    """A name is written to the left of its row; without names there is no room left for them."""
    named = sheet(preview.grid({"2 steps": RAW[:3]}, tmp_path / "named.png"))
    bare = sheet(preview.grid({"": RAW[:3]}, tmp_path / "bare.png"))
    left = places(named, RAW[:1], 8)[0][1]
    assert (named[:, :, :left] < 128).any()
    assert left > places(bare, RAW[:1], 8)[0][1] == preview.MARGIN
    assert (bare[:, :, : preview.MARGIN] == 255).all()


def test_long_rows_go_on_below(tmp_path: Path) -> None:
    """A row of more than sixteen pictures goes on in the next line."""
    found = places(sheet(preview.grid({"": RAW}, tmp_path / "grid.png")), RAW, 8)
    assert len({y for y, _ in found[:16]}) == 1
    assert found[16][0] == found[0][0] + 64 + preview.GAP
    assert found[16][1] == found[0][1]


@pytest.mark.parametrize(("side", "scale"), [(8, 8), (28, 2), (32, 2), (64, 1), (128, 1)])
def test_scale_suits_the_size(tmp_path: Path, side: int, scale: int) -> None:
    """Small pictures are enlarged by a whole factor to about 64 pixels, and large ones are left alone."""
    raw = RAW[:1, :1].repeat(1, 1, 16, 16)[:, :, :side, :side]
    page = sheet(preview.grid({"": raw}, tmp_path / "grid.png"))
    assert page.shape == (3, side * scale + 2 * preview.MARGIN, side * scale + 2 * preview.MARGIN)


def test_grey_and_colour_share_a_sheet(tmp_path: Path) -> None:
    """Rows of grey and of colour pictures stand on one sheet, and a row without pictures is left out."""
    page = sheet(preview.grid({"a": RAW[:2, :1], "b": RAW[2:4], "c": RAW[:0]}, tmp_path / "grid.png", scale=2))
    assert places(page, RAW[:2, :1], 2)[0][0] < places(page, RAW[2:4], 2)[0][0]


@pytest.mark.parametrize("channels", [1, 3])
def test_files_come_back_bit_for_bit(tmp_path: Path, channels: int) -> None:
    """Files are named as asked, a slash makes a sub-folder, and reading the folder gives the same pictures."""
    raw = RAW[:4, :channels]
    files = preview.write_files(raw, ["a/0", "a/1", "b/2", "b/3"], tmp_path)
    assert files == [
        tmp_path / "a" / "0.png",
        tmp_path / "a" / "1.png",
        tmp_path / "b" / "2.png",
        tmp_path / "b" / "3.png",
    ]
    train = load({"name": "folder", "folder": tmp_path, "test_fraction": 0}).train
    assert torch.equal(train.raw, raw)
    assert train.classes == ("a", "b")


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing that fails half-way leaves the old file as it was, and nothing beside it."""
    (file,) = preview.write_files(RAW[:1], ["one"], tmp_path)
    before = file.read_bytes()

    def fail(self: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        preview.write_files(RAW[1:2], ["one"], tmp_path)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
