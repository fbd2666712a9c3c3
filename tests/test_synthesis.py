r"""A synthetic data set is a function of its plan: whoever makes it, in whatever order, however often it is stopped."""

import csv
import json
import numpy as np
import os
import pytest
import shutil
import signal
import subprocess
import tarfile
import torch

from cm_multimodal import cli
from cm_multimodal.bundle import read_bundle
from cm_multimodal.errors import UsageError
from cm_multimodal.evaluation.reference import reference
from cm_multimodal.generation.labels import labels_of, labels_wanted
from cm_multimodal.generation.sampling import Samples, collect, make_plan
from cm_multimodal.modality import Splits
from cm_multimodal.synthesis import making
from cm_multimodal.synthesis.audit import audit
from cm_multimodal.synthesis.card import _copies
from cm_multimodal.synthesis.formats import FORMATS
from cm_multimodal.synthesis.record import SetFolder
from collections.abc import Callable
from dataclasses import asdict, replace
from modalities.image.adapter import ImageModality
from own_files import tree, write_model
from pathlib import Path
from PIL import Image

Cmm = Callable[..., int]
CLASSES = tuple("0123456789")
ORDER = ("n=70", "shard=16", "data.name=digits")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned nothing."""
    folder = tmp_path_factory.mktemp("model") / "bundle"
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def whole(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that was made without a break."""
    out = tmp_path_factory.mktemp("whole") / "set"
    assert synth(bundle, out) == 0
    return out


def synth(bundle: Path, out: Path, *words: str) -> int:
    return cli.main(["synth", f"bundle={bundle}", f"out={out}", "processes=1", *ORDER, *words])


def drawn(bundle: Path) -> Samples:
    model = read_bundle(bundle)
    return collect(model, make_plan(model, n=70))


@pytest.mark.parametrize("words", [("batch=1",), ("batch=7",), ("batch=64",), ("batch=2", "processes=2")], ids=" ".join)
def test_the_same_bytes_for_any_batch_and_number_of_processes(
    bundle: Path, whole: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """How much is under way at a time, and where, leaves no trace."""
    assert synth(bundle, tmp_path / "set", *words) == 0
    assert tree(tmp_path / "set") == tree(whole)


def test_a_cluster_of_ray_makes_the_same_bytes(bundle: Path, whole: Path, tmp_path: Path) -> None:
    """The plan is the same wherever its shards are made."""
    pytest.importorskip("ray", reason="Ray is an extra")
    words = [f"bundle={bundle}", f"out={tmp_path / 'set'}", *ORDER]
    assert cli.main(["synth", *words, "launcher=ray"]) == 0
    assert tree(tmp_path / "set") == tree(whole)


def test_the_files_are_the_samples(bundle: Path, whole: Path) -> None:
    """Each PNG is the sample of its number, in the folder of its class; the index has a line for each."""
    samples = drawn(bundle)
    with (whole / "samples.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["sample_id"]) for row in rows] == list(range(70))
    for row, raw, label in zip(rows, samples.raw, samples.label.tolist(), strict=True):
        assert row["file"] == f"data/{label}/{int(row['sample_id']):06d}.png"
        assert np.array_equal(np.asarray(Image.open(whole / row["file"])), raw[0].numpy())
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=whole, check=False).returncode == 0


def test_what_is_made_is_what_a_training_reads(whole: Path, cmm: Cmm) -> None:
    """The folder of a set is a data set by class."""
    options = {"folder": str(whole / "data"), "size": 8, "channels": 1, "test_fraction": 0.0}
    read = ImageModality.dataset({"name": "folder", **options})
    assert read.train.classes == CLASSES
    assert len(read.train) == 70


@pytest.mark.parametrize("form", sorted(FORMATS.keys() - {"jsonl"}))
def test_every_form_holds_the_same_samples(bundle: Path, tmp_path: Path, form: str) -> None:
    """Whatever the form, the samples and classes read back are those that were drawn."""
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet files are written by pyarrow, an extra")
    out, samples = tmp_path / "set", drawn(bundle)
    assert synth(bundle, out, f"format={form}") == 0
    raw, label = READERS[form](out / "data")
    assert np.array_equal(raw, samples.raw[:, 0].numpy())
    assert label == samples.label.tolist()


def read_folder(data: Path) -> tuple[np.ndarray, list[int]]:
    files = sorted(data.rglob("*.png"), key=lambda file: file.stem)
    return np.stack([np.asarray(Image.open(file)) for file in files]), [int(file.parent.name) for file in files]


def read_npz(data: Path) -> tuple[np.ndarray, list[int]]:
    parts = [dict(np.load(file, allow_pickle=False)) for file in sorted(data.iterdir())]
    assert all(part["seed"] == 0 for part in parts)
    return np.concatenate([part["x"] for part in parts])[..., 0], np.concatenate(
        [part["label"] for part in parts]
    ).tolist()


def read_tar(data: Path) -> tuple[np.ndarray, list[int]]:
    pictures, labels = [], []
    for file in sorted(data.iterdir()):
        with tarfile.open(file) as archive:
            for member in archive:
                assert member.mtime == 0
                content = archive.extractfile(member)
                assert content is not None
                if member.name.endswith(".cls"):
                    labels.append(int(content.read()))
                else:
                    pictures.append(np.asarray(Image.open(content)))
    return np.stack(pictures), labels


def read_parquet(data: Path) -> tuple[np.ndarray, list[int]]:
    import io
    import pyarrow.parquet

    rows = [row for file in sorted(data.iterdir()) for row in pyarrow.parquet.read_table(file).to_pylist()]
    pictures = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    return np.stack(pictures), [row["label"] for row in rows]


READERS = {"folder": read_folder, "npz": read_npz, "webdataset": read_tar, "parquet": read_parquet}


def test_shares_make_the_whole(bundle: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of an array of SLURM, started apart, make the set of one process; the last one finishes it."""
    out = tmp_path / "set"
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "7")
    for task in ("7", "5", "6"):
        assert not (out / "SHA256SUMS").exists()
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert synth(bundle, out) == 0
    assert tree(out) == tree(whole)


def test_verify_finds_what_is_missing_changed_or_truncated(
    bundle: Path, whole: Path, tmp_path: Path, cmm: Cmm, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every such file is named; the command that made the set makes missing and truncated ones anew."""
    out = shutil.copytree(whole, tmp_path / "set")
    assert cmm("verify", f"out={out}") == 0
    gone, short, other = out / "data/0/000000.png", out / "data/1/000001.png", out / "data/2/000002.png"
    card = out / "README.md"
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-9])
    other.write_bytes(bytes([*other.read_bytes()[:-1], 0]))
    card.unlink()
    capsys.readouterr()
    assert cmm("verify", f"out={out}") == 3
    said = capsys.readouterr().out
    size = (whole / "data/1/000001.png").stat().st_size
    assert said.splitlines() == [
        "README.md: missing", "data/0/000000.png: missing",
        f"data/1/000001.png: truncated: {size - 9} of {size} bytes", "data/2/000002.png: changed",
    ]  # fmt: skip
    other.unlink()
    assert synth(bundle, out) == 0
    assert tree(out) == tree(whole)


def test_a_damaged_list_of_checksums_is_written_anew(bundle: Path, whole: Path, tmp_path: Path, cmm: Cmm) -> None:
    """Empty, cut at the end of a line, or no text at all: verify says so, and the command that made the set mends it."""
    out = shutil.copytree(whole, tmp_path / "set")
    lines = (out / "SHA256SUMS").read_bytes().splitlines(keepends=True)
    for content in (b"", b"".join(lines[:-3]), b"\xff\n"):
        (out / "SHA256SUMS").write_bytes(content)
        assert cmm("verify", f"out={out}") == 3
        assert synth(bundle, out) == 0
        assert tree(out) == tree(whole)


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", "{}", '{"n": 5}', '{"n": 5, "shard": 0}', '{"n": "many", "shard": 5}']
)
def test_a_plan_that_is_none_is_a_sentence(
    whole: Path, tmp_path: Path, cmm: Cmm, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever lies in plan.json, verify reads it or says that it cannot."""
    out = shutil.copytree(whole, tmp_path / "set")
    (out / "plan.json").write_text(text)
    assert cmm("verify", f"out={out}") == 3
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["null", "[]", "{}", '{"rows": 3, "files": {}}', '{"rows": [], "files": {"a": [1e999, ""]}}']
)
def test_a_record_that_is_none_is_a_fault(whole: Path, tmp_path: Path, cmm: Cmm, text: str) -> None:
    """A shard whose record cannot be read is not there; it is one fault."""
    out = shutil.copytree(whole, tmp_path / "set")
    (out / "records/00001.json").write_text(text)
    assert cmm("verify", f"out={out}") == 3
    assert SetFolder(out).shard(1) is None


def test_verify_of_what_is_half_done(bundle: Path, whole: Path, tmp_path: Path, cmm: Cmm) -> None:
    """A set without its list of checksums, or a shard without its record, is not whole."""
    out = shutil.copytree(whole, tmp_path / "set")
    (out / "records/00001.json").write_text("{")
    assert cmm("verify", f"out={out}") == 3
    assert synth(bundle, out) == 0
    (out / "SHA256SUMS").unlink()
    assert cmm("verify", f"out={out}") == 3
    assert synth(bundle, out) == 0
    assert tree(out) == tree(whole)
    assert cmm("verify", f"out={tmp_path}") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("steps=2",), "steps=1 there and 2 here"),
        (("n=71",), "n=70 there and 71 here"),
        (("n=0",), "n=0 is not possible"),
        (("n=null",), "Say how many samples"),
        (("label={0: 3, 1: 4}",), "add up to 7, and n=70"),
        (("label={0: 0.3, 1: 0.4}",), "add up to 0.7, not to 1"),
        (("label={0: -1, 1: 71}",), "give each class a count"),
        (("label=[0,eleven]",), "There is no class 'eleven'"),
        (("format=folders",), "did you mean 'folder'?"),
        (("format=jsonl",), "holds texts"),
        (("kind=gif",), "There is no kind=gif"),
        (("shard=0",), "shard=0 is not possible"),
        (("batch=0",), "batch=0 is not possible"),
        (("processes=two",), "processes=two is not possible"),
        (("report=2",), "report=2 is not possible"),
        (("share=2/2",), "share=2/2 is not possible"),
        (("launcher=slurm",), "There is no launcher 'slurm'"),
        (("launcher=ray", "processes=2"), "its cluster decides"),
        (("confidence=1",), "confidence=1 is not possible"),
        (("confidence=0.5", "data={}"), "needs a classifier"),
        (("perception=true",), "name a probability too"),
        (("labels.share=0.1",), "name a probability too"),
        (("confidence=0.5", "labels.share=2"), "labels.share=2 is not possible"),
        (("perception=2",), "perception=2 is not possible"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(
    bundle: Path, whole: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    """What is not possible is said, with exit code 2, and the set that is there stays as it was."""
    before = tree(whole)
    given = [word for word in words if word != "data={}"]
    order = ORDER[:2] if len(given) < len(words) else ORDER
    capsys.readouterr()
    assert cli.main(["synth", f"bundle={bundle}", f"out={whole}", *order, *given]) == 2
    assert said in capsys.readouterr().err
    assert tree(whole) == before


def test_a_folder_of_something_else_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with files of other origin is left alone; so is a file in its place."""
    (tmp_path / "mine.txt").write_text("mine")
    assert synth(bundle, tmp_path) == 2
    assert "is no data set of cmm synth" in capsys.readouterr().err
    assert synth(bundle, tmp_path / "mine.txt") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_classes_by_list_count_and_share() -> None:
    """Several take turns; counts and shares are spread evenly, and add up."""
    ids = torch.arange(10)
    assert labels_of(None, ids, 3).tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert labels_of(labels_wanted(["dog", "cat"], ("cat", "dog"), 10), ids, 2).tolist() == [1, 0] * 5
    counted = labels_wanted({"cat": 8, "dog": 2}, ("cat", "dog"), 10)
    assert labels_of(counted, ids, 2).tolist() == [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    shared = labels_wanted({"cat": 1 / 3, "dog": 1 / 3, "owl": 1 / 3}, ("cat", "dog", "owl"), 100)
    assert shared is not None
    assert sorted(torch.bincount(shared).tolist()) == [33, 33, 34]
    with pytest.raises(UsageError, match="trained without classes"):
        labels_wanted("cat", (), 10)


def test_counts_decide_how_many(bundle: Path, tmp_path: Path) -> None:
    """Without n, as many are drawn as the counts say."""
    words = ("label={3: 5, 7: 2}", "report=false")
    assert cli.main(["synth", f"bundle={bundle}", f"out={tmp_path / 'set'}", *words]) == 0
    found = {path.name: len(list(path.iterdir())) for path in (tmp_path / "set/data").iterdir()}
    assert found == {"3": 5, "7": 2}
    assert "Not looked for" in (tmp_path / "set/README.md").read_text()


def test_doubtful_samples_are_left_out(bundle: Path, tmp_path: Path) -> None:
    """With confidence=, none is kept of whose class the classifier is less sure; the card says how many are gone."""
    out = tmp_path / "set"
    assert synth(bundle, out, "confidence=0.12") == 0
    record = json.loads((out / "manifest.json").read_text())
    with (out / "samples.csv").open() as stream:
        sure = [float(row["confidence"]) for row in csv.DictReader(stream)]
    assert 0 < len(sure) == record["samples"] < 70 == record["drawn"]
    assert record["left_out"] == {"doubtful": 70 - len(sure)}
    assert min(sure) >= 0.12
    assert f"{70 - len(sure)} are left out" in (out / "README.md").read_text()
    assert len(list((out / "data").rglob("*.png"))) == len(sure)


def test_empty_samples_are_left_out(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds nothing, such as a silent clip, is no file, and is counted."""
    monkeypatch.setattr(ImageModality, "void", lambda self, raw: torch.arange(len(raw)) == 3)
    assert synth(bundle, tmp_path / "set") == 0
    record = json.loads((tmp_path / "set/manifest.json").read_text())
    assert record["left_out"] == {"empty": 9}
    assert not list((tmp_path / "set").rglob("000003.png"))


def test_a_memoriser_is_found(bundle: Path) -> None:
    """Training samples themselves, drawn again and again, are copies of them and of one another; real ones are not."""
    ground = reference(read_bundle(bundle), {"name": "digits"}, {})
    train = ground.splits.train
    again = train.raw[torch.arange(60) % 30]
    found = audit(ground, again, torch.arange(60))
    assert found.memorised == found.duplicates == 1
    assert found.closest[0][2] == 0
    assert found.memorised_real < 0.05
    noise = torch.randint(0, 256, again.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert audit(ground, noise, torch.arange(60)).memorised == 0
    inside = replace(ground, splits=Splits(train, train))
    found = audit(inside, torch.cat([again[:30], noise[:30]]), torch.arange(60))
    assert (found.usual, found.memorised, found.memorised_real, found.duplicates) == (0, 0.5, 1, 0)
    assert "50.00% lie on a training sample" in _copies(asdict(found))


def test_the_report_shows_the_nearest(whole: Path) -> None:
    """The set holds a picture of the pairs that are closest, and what was found in numbers."""
    copies = json.loads((whole / "manifest.json").read_text())["copies"]
    assert copies["looked_at"] == 70
    assert len(copies["closest"]) == 8
    assert (whole / "report/nearest.png").exists()


def test_a_signal_stops_between_chunks(
    bundle: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM leaves with exit code 75 and a sentence; the same command goes on."""
    draw, count = making.draw, 0

    def interrupted(*arguments: object) -> Samples:
        nonlocal count
        count += 1
        if count == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(making, "draw", interrupted)
        assert synth(bundle, tmp_path / "set") == 75
    assert "The same command goes on" in capsys.readouterr().err
    assert synth(bundle, tmp_path / "set") == 0
    assert tree(tmp_path / "set") == tree(whole)
