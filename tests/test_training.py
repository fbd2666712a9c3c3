r"""Training goes on exactly where it stopped, whatever stopped it."""

import json
import os
import pytest
import signal
import subprocess
import sys
import time
import torch

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.training import checkpoints
from cm_multimodal.training.data import Stream
from cm_multimodal.training.run import load
from collections.abc import Callable
from modalities.image.adapter import ImageModality
from modalities.image.data import load as load_images
from pathlib import Path

Cmm = Callable[..., int]
TINY = (
    "experiment=image/smoke", "net.channels=8", "train.samples=1280", "train.batch=64", "train.checkpoint_every=256",
    "train.preview_every=1280", "train.log_every=2", "train.precision=float32", "train.threads=1",
)  # fmt: skip
TOY = (
    "experiment=toy/points",
    "train.samples=5120",
    "train.checkpoint_every=1024",
    "train.log_every=2",
    "train.threads=1",
)


def state(run: str) -> dict[str, object]:
    """Returns the final training state of a run."""
    newest = checkpoints.latest(Path(run) / "checkpoints")
    assert newest is not None
    return checkpoints.load_state(newest)


def equal(a: object, b: object) -> bool:
    """Compares states bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def losses(run: str) -> list[tuple[int, float]]:
    """Returns the log's samples and losses."""
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [(row["samples"], row["loss"]) for row in rows]


def start(*words: str) -> subprocess.Popen[str]:
    """Starts `cmm train` as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [
        sys.executable,
        "-c",
        "import sys; from cm_multimodal.cli import main; sys.exit(main())",
        "train",
        *words,
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(pattern: str, process: subprocess.Popen[str]) -> None:
    """Waits until a file exists, or the process ends."""
    deadline = time.monotonic() + 120
    while not list(Path().glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("objective", ["mean_flow", "flow_matching", "easy_consistency"])
def test_a_killed_run_ends_where_an_uninterrupted_one_does(cmm: Cmm, objective: str) -> None:
    """SIGKILL at some step: the same command ends with the same bits, log and averages included."""
    scaling = {"easy_consistency": "rotation"}.get(objective, "euler")
    words = (*TINY, f"objective={objective}", f"objective.scaling={scaling}")
    assert cmm("train", *words, "name=whole") == 0
    process = start(*words, "name=killed")
    wait_for("runs/killed/checkpoints/step-*[0-9]/manifest.json", process)
    process.kill()
    process.wait()
    assert not Path("runs/killed/bundle").exists()
    assert cmm("train", *words, "name=killed") == 0
    assert equal(state("runs/whole"), state("runs/killed"))
    assert losses("runs/whole") == losses("runs/killed")
    left, right = (Path("runs") / name / "bundle" / "weights.safetensors" for name in ("whole", "killed"))
    assert left.read_bytes() == right.read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(cmm: Cmm, number: int, code: int) -> None:
    """SIGTERM and Ctrl-C end with their codes, without a traceback, and nothing is lost."""
    process = start(*TINY, "name=stopped", "train.samples=100_000", "train.checkpoint_every=100_000")
    wait_for("runs/stopped/metrics.jsonl", process)
    process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == code
    assert "Traceback" not in text
    assert "the state is saved" in text
    seen = state("runs/stopped")["counters"]["seen"]
    assert seen > 0
    assert cmm("train", *TINY, "name=stopped", f"train.samples={seen + 128}") == 0
    assert state("runs/stopped")["counters"]["seen"] == seen + 128


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(
    cmm: Cmm, capsys: pytest.CaptureFixture[str]
) -> None:
    """One flipped byte is found by the checksum; training goes on from the checkpoint before, to the same end."""
    assert cmm("train", *TINY, "name=whole") == 0
    assert cmm("train", *TINY, "name=hurt") == 0
    newest = checkpoints.latest(Path("runs/hurt/checkpoints"))
    file = newest.folder / "training.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    capsys.readouterr()
    assert cmm("train", *TINY, "name=hurt") == 0
    text = capsys.readouterr().out
    assert "is damaged: 'training.pt'" in text
    assert "going on from step-000000001024" in text
    assert equal(state("runs/whole"), state("runs/hurt"))


@pytest.mark.parametrize("damage", ["no manifest", "empty manifest", "other format", "file missing", "half saved"])
def test_what_is_not_whole_is_not_a_checkpoint(cmm: Cmm, damage: str) -> None:
    """A folder without a fitting manifest, or one that was never renamed, does not exist."""
    assert cmm("train", *TINY, "name=run", "train.samples=512") == 0
    root = Path("runs/run/checkpoints")
    newest = checkpoints.latest(root)
    manifest = newest.folder / "manifest.json"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "empty manifest":
        manifest.write_text("")
    elif damage == "other format":
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 9'))
    elif damage == "file missing":
        (newest.folder / "weights.safetensors").unlink()
    else:
        newest.folder.rename(newest.folder.with_suffix(".tmp"))
    lines: list[str] = []
    before = checkpoints.latest(root, lines.append)
    assert before.samples == 256
    assert bool(lines) == (damage != "half saved")


def test_a_full_disk_loses_nothing(
    cmm: Cmm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error while saving is loud (exit code 3), and earlier checkpoints are untouched."""
    assert cmm("train", *TINY, "name=run", "train.samples=512") == 0

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    assert cmm("train", *TINY, "name=run", "train.samples=1024") == 3
    assert "No space left on device" in capsys.readouterr().err
    root = Path("runs/run/checkpoints")
    assert checkpoints.latest(root).samples == 512
    assert not list(root.glob("*.tmp"))


def test_micro_batches_change_only_rounding(cmm: Cmm) -> None:
    """The same global batch in smaller pieces sees the same samples and ends within rounding."""
    words = (*TINY, "train.samples=320", "train.checkpoint_every=320")
    assert cmm("train", *words, "name=whole") == 0
    assert cmm("train", *words, "name=pieces", "train.micro_batch=24") == 0
    for (a_samples, a_loss), (b_samples, b_loss) in zip(losses("runs/whole"), losses("runs/pieces"), strict=True):
        assert a_samples == b_samples
        assert a_loss == pytest.approx(b_loss, rel=2e-3)


def test_a_loss_that_is_not_finite_stops_the_run(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights are not touched by updates that are not finite; after a few the run ends with exit code 4 and the facts."""
    assert cmm("train", *TINY, "name=run", "train.samples=512") == 0
    good = state("runs/run")["network"]
    assert cmm("train", *TINY, "name=run", "train.samples=2048", "optimizer.lr=1e30") == 4
    text = capsys.readouterr().err
    assert "diverged" in text
    assert "Traceback" not in text
    facts = json.loads(Path("runs/run/diagnosis.json").read_text())
    assert len(facts["ids"]) == 64
    assert equal(state("runs/run")["network"], good)


def test_a_finished_run_says_so(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """Starting a finished run again changes nothing and ends well."""
    assert cmm("train", *TOY) == 0
    capsys.readouterr()
    assert cmm("train", *TOY) == 0
    assert "This run is finished" in capsys.readouterr().out


def test_another_plan_is_refused_with_the_difference(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed network, objective or path is refused; a changed learning rate is allowed and said."""
    assert cmm("train", *TOY) == 0
    for change in ("net.size=s", "path=edm", "objective.weight.power=1.0", "seed=1", "train.batch=128"):
        assert cmm("train", *TOY, change) == 2
        assert "started with another configuration" in capsys.readouterr().err
    assert cmm("train", *TOY, "train.samples=6144", "optimizer.lr=1e-4") == 0
    assert "optimizer.lr: 0.003 -> 0.0001" in capsys.readouterr().out


def test_a_missing_run_is_an_error(tmp_path: Path) -> None:
    """Loading what is not there, or has no checkpoint yet, never starts anew."""
    with pytest.raises(UsageError, match="no run"):
        load(tmp_path)
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(DataError, match="no usable checkpoint"):
        load(tmp_path)


def test_the_stream_shows_every_sample_once_an_epoch_and_starts_anywhere() -> None:
    """Each epoch is a permutation; a stream that starts late goes on as the whole one; horizontal flips belong to the id."""
    splits = load_images({"name": "digits"})
    modality = ImageModality(ImageModality.describe(splits.train))

    def stream(first: int, last: int) -> Stream:
        return Stream(splits.train, modality, 5, 100, first, last, torch.device("cpu"), {"flip": 0.5})

    whole, late = list(stream(0, 2800)), list(stream(1400, 2800))
    epoch = torch.cat([drawn.batch.x for drawn in whole[:14]])
    ink = epoch.sum(dim=(1, 2, 3)).sort().values
    assert torch.allclose(ink, modality.encode(splits.train.raw).sum(dim=(1, 2, 3)).sort().values)
    assert not torch.equal(epoch, torch.cat([drawn.batch.x for drawn in whole[14:]]))
    assert all(torch.equal(a.batch.x, b.batch.x) for a, b in zip(whole[14:], late, strict=True))


def test_points_are_learned(cmm: Cmm) -> None:
    """The toy modality trains through the same command to samples that lie on the half-moons."""
    assert cmm("train", "experiment=toy/points", "train.threads=1") == 0
    assert cmm("evaluate", "run=runs/points", "steps=[1,4]", "threads=1") == 0
    rows = {row["steps"]: row for row in json.loads(Path("runs/points/evaluation/metrics.json").read_text())["rows"]}
    assert rows[1]["frechet"] < 0.05
    assert rows[4]["precision"] > 0.5
    assert rows[4]["recall"] > 0.9
