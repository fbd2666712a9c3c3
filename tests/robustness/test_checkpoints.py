r"""Checkpoints are there whole or not at all; whatever goes wrong while saving costs no earlier one (cases 3-8, 14-16)."""

import errno
import faults
import json
import math
import os
import pytest
import shutil
import subprocess
import sys
import torch

from cm_multimodal.bundle import Card
from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.modality import TensorSpec
from cm_multimodal.training import checkpoints
from cm_multimodal.training.lock import locked
from cm_multimodal.training.saved import load_run
from collections.abc import Callable
from functools import partial
from harness import QUICK, assert_same_run, empty, live, rows, start, state
from pathlib import Path

pytestmark = [pytest.mark.robustness, pytest.mark.usefixtures("empty")]
__all__ = ["empty"]
ROOT = Path(__file__).parents[2]
CARD = Card(
    "toy_points", TensorSpec((2,), 0.5), {"size": "tiny"}, "linear", "euler", False, ("diagonal",), "flow_matching"
)


def saved(root: Path, samples: int, score: float = math.inf) -> checkpoints.Checkpoint:
    """Saves a checkpoint that holds next to nothing."""
    return checkpoints.save(root, samples, CARD, {"w": torch.ones(3)}, {"counters": {"seen": samples}}, score)


def names(root: Path) -> list[str]:
    return sorted(folder.name for folder in root.iterdir())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights cut": lambda folder: cut(folder / "weights.safetensors"),
    "optimiser flipped": lambda folder: flip(folder / "training.pt"),
    "file missing": lambda folder: (folder / "bundle.json").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "empty manifest": lambda folder: (folder / "manifest.json").write_text(""),
    "a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "deep": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "no format": lambda folder: (folder / "manifest.json").write_text("{}"),
    "format 0": lambda folder: swap(folder / "manifest.json", '"format": 2', '"format": 0'),
    "outside": lambda folder: swap(folder / "manifest.json", '"training.pt"', '"../../../etc/passwd"'),
    "one more": lambda folder: swap(folder / "manifest.json", '"files": {', '"files": {"/etc/passwd": {},'),
}


def swap(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_is_not_a_checkpoint(damage: str) -> None:
    """The damaged one is named, with the reason, and the one before it is used (cases 4, 5, 6 and 49)."""
    root = Path("checkpoints")
    first, second = saved(root, 100), saved(root, 200)
    DAMAGES[damage](second.folder)
    lines: list[str] = []
    assert checkpoints.latest(root, lines.append) == first
    assert len(lines) == 1
    assert str(second.folder) in lines[0]
    with pytest.raises(DataError):
        checkpoints.check(second.folder)


def test_training_goes_on_before_the_damage_to_the_same_end() -> None:
    """A flipped byte is reported, the checkpoint before is used, and what is damaged is set aside, not deleted."""
    assert live("train", *QUICK, "name=whole")[0] == 0
    assert live("train", *QUICK, "name=hurt")[0] == 0
    flip(Path("runs/hurt/checkpoints/step-000000000640/training.pt"))
    code, text = live("train", *QUICK, "name=hurt")
    assert code == 0
    assert "is damaged: 'training.pt'" in text
    assert "going on from step-000000000512" in text
    assert_same_run("runs/whole", "runs/hurt")
    assert "step-000000000640.damaged" in names(Path("runs/hurt/checkpoints"))


def test_where_all_are_damaged_nothing_starts_from_zero() -> None:
    """Without a single good checkpoint the run is left as it is, and the program says so."""
    assert live("train", *QUICK, "name=run", "train.samples=256")[0] == 0
    for folder in Path("runs/run/checkpoints").iterdir():
        cut(folder / "training.pt")
    before = names(Path("runs/run/checkpoints"))
    code, text = live("train", *QUICK, "name=run")
    assert code == 3
    assert "not started from zero" in text
    shutil.rmtree("runs/run/checkpoints")
    code, text = live("train", *QUICK, "name=run")
    assert code == 3
    assert before == ["step-000000000128", "step-000000000256"]


@pytest.mark.parametrize(("space", "says"), [(100_000, "File too large"), (300_000, "could not be written")])
def test_a_full_disk_is_loud_and_loses_nothing(space: int, says: str) -> None:
    """Writes that fail half-way, of averages or of the optimiser, leave the earlier checkpoints and nothing else."""
    code, text = live("train", *QUICK, "name=run", faults=[partial(faults.no_space, 5, space)])
    assert code == 3
    assert says in text
    assert "Traceback" not in text
    assert names(Path("runs/run/checkpoints")) == ["step-000000000128", "step-000000000256"]
    assert not list(Path("runs/run").rglob("*.tmp"))
    assert live("train", *QUICK, "name=run")[0] == 0
    assert live("train", *QUICK, "name=whole")[0] == 0
    assert_same_run("runs/whole", "runs/run")


@pytest.mark.parametrize("where", ["write_bundle", "sync"])
def test_no_space_left_anywhere(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC from any file of a checkpoint: a sentence, the old one untouched, the part removed."""
    root = Path("checkpoints")
    first = saved(root, 100)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, where, full)
    with pytest.raises(DataError, match="No space left"):
        saved(root, 200)
    assert names(root) == [first.folder.name]
    assert checkpoints.latest(root) == first


UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"]


def without_privileges(*code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python as a user whom permissions stop, which root is not."""
    prefix = UNPRIVILEGED if os.geteuid() == 0 else []
    if prefix and not shutil.which("setpriv"):
        pytest.skip("setpriv, which takes root's privileges away, is not installed")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "robustness")))}
    command = [*prefix, sys.executable, "-c", "\n".join(code)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_a_folder_that_cannot_be_written_stops_at_the_start_or_at_the_save() -> None:
    """A read-only place is refused before the first step; one that becomes so is an error, never a lost checkpoint."""
    Path("closed").mkdir(mode=0o555)
    words = [*QUICK, "name=run"]
    done = without_privileges(
        "import faults, sys",
        "from cm_multimodal.cli import main",
        f"words = {words!r}",
        "assert main(['train', *words, 'runs=closed']) == 2",
        "faults.read_only(5, 'runs/run/checkpoints')",
        "sys.exit(main(['train', *words]))",
    )
    assert done.returncode == 3, done.stderr
    assert "The run folder 'closed/run' cannot be written" in done.stderr
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(Path("runs/run/checkpoints")) == ["step-000000000128", "step-000000000256"]


def test_the_newest_and_the_best_stay() -> None:
    """Of many checkpoints the newest k and the one with the lowest held-out loss are kept; a failed delete is no harm."""
    root = Path("checkpoints")
    for samples, score in ((100, 3.0), (200, 1.0), (300, 2.0), (400, 2.5), (500, math.inf)):
        saved(root, samples, score)
    Path("checkpoints/step-000000000600.tmp").mkdir()
    best = checkpoints.best(root)
    assert best is not None
    assert best.samples == 200
    checkpoints.prune(root, 2, best.folder.name)
    assert names(root) == ["step-000000000200", "step-000000000400", "step-000000000500"]


def test_a_failed_delete_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old checkpoints that cannot be deleted stay, and training does not care."""
    root = Path("checkpoints")
    for samples in (100, 200, 300):
        saved(root, samples)
    monkeypatch.setattr(os, "rmdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError("no")))
    checkpoints.prune(root, 2)
    newest = checkpoints.latest(root)
    assert newest is not None
    assert newest.samples == 300


def test_the_averages_that_are_judged_and_drawn_never_reach_the_training_weights() -> None:
    """A run that judges and draws all the time trains and saves the very weights of one that does neither before its end."""
    assert live("train", *QUICK, "name=busy", "train.preview_every=64", "train.checkpoint_every=64")[0] == 0
    assert live("train", *QUICK, "name=calm", "train.checkpoint_every=640")[0] == 0
    busy, calm = state("runs/busy"), state("runs/calm")
    assert all(torch.equal(busy["network"][name], value) for name, value in calm["network"].items())
    assert [row for row in rows("runs/busy") if "loss" in row] == [row for row in rows("runs/calm") if "loss" in row]
    scores = [row["held_out_loss"] for row in rows("runs/busy") if "held_out_loss" in row]
    assert len(scores) == 10
    manifest = json.loads(Path("runs/busy/checkpoints/step-000000000640/manifest.json").read_text())
    assert manifest["score"] == scores[-1]


def test_one_training_at_a_time() -> None:
    """A second one in the same folder leaves with code 2 and names the first; after a kill the lock is free again."""
    first = start("train", *QUICK, "name=run", "train.samples=1_000_000")
    first.wait_for(lambda: Path("runs/run/metrics.jsonl").exists())
    code, text = live("train", *QUICK, "name=run", "train.samples=1_000_000")
    assert code == 2
    assert f"is being trained already, by process {first.process.pid} on" in text
    first.kill()
    said: list[str] = []
    with locked(Path("runs/run"), said.append):
        assert f"process {first.process.pid}" in said[0]


def test_a_missing_run_is_an_error() -> None:
    """Loading what is not there, or has no checkpoint yet, never starts anew."""
    with pytest.raises(UsageError, match="no run"):
        load_run(Path("runs/none"))
    Path("config.yaml").write_text("{}")
    with pytest.raises(DataError, match="no usable checkpoint"):
        load_run(Path())
