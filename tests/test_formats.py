r"""Every form of a synthetic data set holds samples of every modality, in the same bytes each time."""

import json
import numpy as np
import pytest
import soundfile
import tarfile
import torch

from cm_multimodal.errors import UsageError
from cm_multimodal.generation.sampling import Samples
from cm_multimodal.modality import Dataset, Modality, find_modality
from cm_multimodal.synthesis.formats import FORMATS, make_format
from cm_multimodal.synthesis.formats.base import folder_of_class
from functools import cache
from itertools import product
from own_files import tree
from pathlib import Path

DATA = {
    "image": {"name": "digits"},
    "audio": {"name": "strings", "limit": 40},
    "text": {"name": "grammar", "limit": 40, "length": 12},
    "video": {"name": "moving_digits", "limit": 40, "frames": 4, "size": 12},
}
PAIRS = [
    (name, form, kind)
    for name, form in product(DATA, sorted(FORMATS))
    for kind in (find_modality(name).kinds if form in ("folder", "webdataset") else (None,))
    if form != "jsonl" or name == "text"
]


@cache
def real(name: str) -> tuple[Modality, Dataset]:
    adapter = find_modality(name)
    train = adapter.dataset(DATA[name]).train
    return adapter(adapter.describe(train, DATA[name])), train


def samples(name: str, first: int, count: int) -> Samples:
    """Returns some real samples, as if they had been drawn."""
    train, ids = real(name)[1], torch.arange(first, first + count)
    return Samples(train.raw[ids], torch.full_like(ids, -1) if train.label is None else train.label[ids], ids, 1)


def write(name: str, form: str, kind: str | None, folder: Path) -> list[str]:
    """Writes a shard of two chunks."""
    modality, train = real(name)
    made = make_format(form, modality, kind, train.classes, seed=3)
    (folder / "data").mkdir(parents=True)
    pieces = [made.encode(samples(name, first, count), folder) for first, count in ((0, 3), (3, 2))]
    return made.close(pieces, 7, folder)


@pytest.mark.parametrize(("name", "form", "kind"), PAIRS)
def test_every_form_writes_every_modality(name: str, form: str, kind: str | None, tmp_path: Path) -> None:
    """Each of five samples has its file, whose bytes are the same when it is written again."""
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet files are written by pyarrow, an extra")
    if kind == "mp4":
        pytest.importorskip("av", reason="MP4 files are written by PyAV, an extra")
    files = write(name, form, kind, tmp_path / "first")
    assert len(files) == 5
    assert all((tmp_path / "first" / file).stat().st_size for file in files)
    assert write(name, form, kind, tmp_path / "second") == files
    assert tree(tmp_path / "first") == tree(tmp_path / "second")
    if form in ("folder", "webdataset"):
        suffix = kind or real(name)[0].kinds[0]
        assert (Path(files[0]).suffix == f".{suffix}") == (form == "folder")


def test_a_text_a_line(tmp_path: Path) -> None:
    """JSON lines hold the texts, in their order."""
    (file,) = set(write("text", "jsonl", None, tmp_path))
    modality, train = real("text")
    rows = [json.loads(line) for line in (tmp_path / file).read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == modality.arrays(train.raw[:5])["x"].tolist()
    assert [row["sample_id"] for row in rows] == list(range(5))


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_sounds_come_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """Neither kind loses anything of 16 bits."""
    files = write("audio", "folder", kind, tmp_path)
    for file, clip in zip(files, real("audio")[1].raw, strict=False):
        assert np.array_equal(soundfile.read(tmp_path / file, dtype="int16")[0], clip.numpy())


def test_a_tar_pairs_a_sample_with_its_class(tmp_path: Path) -> None:
    """The files of a sample follow each other, and name neither a time nor an owner."""
    (file,) = set(write("image", "webdataset", None, tmp_path))
    with tarfile.open(tmp_path / file) as archive:
        members = archive.getmembers()
        labels = [int(archive.extractfile(member).read()) for member in members[1::2]]  # type: ignore[union-attr]
    assert [member.name for member in members[:3]] == ["000000.png", "000000.cls", "000001.png"]
    assert labels == samples("image", 0, 5).label.tolist()
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}


def test_what_does_not_suit_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A form for texts, a kind of another modality, a program that is not installed."""
    modality = real("audio")[0]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cases = [
        ("jsonl", None, "holds texts"),
        ("folder", "png", "no kind=png"),
        ("parquet", None, "pip install"),
        ("tar", None, "no format 'tar'"),
    ]
    for form, kind, said in cases:
        with pytest.raises(UsageError, match=said):
            make_format(form, modality, kind, (), 0)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cat", "cat"), ("größe", "größe"), ("a/b", "a%2Fb"), ("..", "%2E."), (".hidden", "%2Ehidden"), ("", "%00"),
        (" ", "%20"), ("50%", "50%25"), ("a\nb", "a%0Ab"),
    ],
)  # fmt: skip
def test_a_class_cannot_leave_its_folder(name: str, folder: str) -> None:
    """Names of classes come from a bundle, which may be anyone's."""
    assert folder_of_class(name) == folder
