r"""Training goes on exactly where it stopped, whatever stopped it; where it cannot, it says why (cases 1-20)."""

import cm_multimodal
import faults
import json
import pytest
import shutil
import signal
import torch

from cm_multimodal.cli import main
from cm_multimodal.ema import reconstruct
from cm_multimodal.training.snapshots import read_snapshots
from functools import partial
from harness import DIGITS, HERE, assert_same_run, empty, equal, live, rows, state
from pathlib import Path

pytestmark = [pytest.mark.robustness, pytest.mark.usefixtures("empty")]
__all__ = ["empty"]
OBJECTIVES = {  # the last three have a state of their own: an averaged map, a frozen one, a learned weight
    "mean_flow": "euler", "flow_matching": "euler", "easy_consistency": "rotation", "shortcut": "euler",
    "truncated_consistency": "rotation", "continuous_consistency": "rotation",
}  # fmt: skip


def words(objective: str, name: str) -> tuple[str, ...]:
    return (*DIGITS, f"objective={objective}", f"objective.scaling={OBJECTIVES[objective]}", f"name={name}")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_killed_run_ends_where_an_uninterrupted_one_does(objective: str) -> None:
    """SIGKILL before some step: the same command ends with the same bits, log, averages and snapshots included."""
    assert live("train", *words(objective, "whole"))[0] == 0
    assert live("train", *words(objective, "killed"), faults=[partial(faults.kill_at, 5)])[0] == -signal.SIGKILL
    assert not Path("runs/killed/bundle").exists()
    code, text = live("train", *words(objective, "killed"))
    assert code == 0
    assert "which is gone; this one takes over" in text
    assert "going on from step-000000000256" in text
    assert_same_run("runs/whole", "runs/killed")


def test_a_stopped_run_ends_where_an_uninterrupted_one_does() -> None:
    """Half the steps, SIGTERM, the other half; the average of another width, made after training, is the same too."""
    assert live("train", *words("flow_matching", "whole"))[0] == 0
    stop = partial(faults.signal_at, 4, signal.SIGTERM)
    assert live("train", *words("flow_matching", "stopped"), faults=[stop])[0] == 75
    assert state("runs/stopped")["counters"]["seen"] == 5 * 64
    assert live("train", *words("flow_matching", "stopped"))[0] == 0
    assert_same_run("runs/whole", "runs/stopped")
    wide = [reconstruct(read_snapshots(Path(f"runs/{name}/ema"), 640), 0.09) for name in ("whole", "stopped")]
    assert equal(*wide)
    final = state("runs/whole")
    assert not equal(final["network"], final["averages"][0])


@pytest.mark.parametrize("point", ["weights", "state", "rename", "renamed"])
def test_killed_while_saving(point: str) -> None:
    """SIGKILL before the weights, between two files, before and after the rename: the checkpoint is there whole or not."""
    whole, hurt = words("flow_matching", "whole"), words("flow_matching", "hurt")
    assert live("train", *whole)[0] == 0
    assert live("train", *hurt, faults=[partial(faults.kill_in_save, 2, point)])[0] == -signal.SIGKILL
    code, text = live("train", *hurt)
    assert code == 0
    assert f"going on from step-{256 if point == 'renamed' else 128:012d}" in text
    assert not list(Path("runs/hurt/checkpoints").glob("*.tmp"))
    assert_same_run("runs/whole", "runs/hurt")


def test_other_micro_batches_and_workers_see_the_same_samples() -> None:
    """The same global batch in pieces, prepared by other processes: the losses agree to rounding, workers to the bit."""
    short = ("train.samples=320", "train.checkpoint_every=320")
    variants = {"whole": (), "pieces": ("train.micro_batch=24",), "helped": ("train.workers=2",)}
    for name, more in variants.items():
        assert live("train", *words("flow_matching", name), *short, *more)[0] == 0
    assert_same_run("runs/whole", "runs/helped")
    for a, b in zip(rows("runs/whole"), rows("runs/pieces"), strict=True):
        assert a["samples"] == b["samples"]
        for key in {"loss", "held_out_loss"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=2e-3)


def test_micro_batch_and_rate_may_change_half_way() -> None:
    """A changed learning rate or micro-batch is allowed and said; the samples that follow are the same."""
    assert live("train", *words("flow_matching", "run"), "train.samples=256")[0] == 0
    code, text = live("train", *words("flow_matching", "run"), "train.micro_batch=16", "optimizer.lr=1e-4")
    assert code == 0
    assert "optimizer.lr: 0.002 -> 0.0001" in text
    assert "train.micro_batch: None -> 16" in text
    assert "train.samples: 256 -> 640" in text


def test_the_optimiser_takes_changed_settings() -> None:
    """What is said to have changed has changed: averages and decay of the optimiser, not only its rate."""
    assert live("train", *words("flow_matching", "run"), "train.samples=128")[0] == 0
    more = ("train.samples=256", "optimizer.betas=[0.5,0.6]", "optimizer.weight_decay=0.1")
    code, text = live("train", *words("flow_matching", "run"), *more)
    assert code == 0
    assert "optimizer.betas: [0.9, 0.99] -> [0.5, 0.6]" in text
    group = state("runs/run")["optimizer"]["param_groups"][0]
    assert (tuple(group["betas"]), group["weight_decay"]) == ((0.5, 0.6), 0.1)


def test_a_killed_run_goes_on_with_muons_momenta() -> None:
    """Its state is matrices' momenta beside Adam's averages: the same command ends with the same bits."""
    muon = (*words("flow_matching", "whole"), "optimizer.name=muon")
    assert live("train", *muon)[0] == 0
    killed = (*words("flow_matching", "killed"), "optimizer.name=muon")
    assert live("train", *killed, faults=[partial(faults.kill_at, 5)])[0] == -signal.SIGKILL
    code, text = live("train", *killed)
    assert code == 0, text
    assert_same_run("runs/whole", "runs/killed")


@pytest.mark.parametrize(
    "change",
    [
        "net.size=s",
        "optimizer.name=muon",
        "net.channels=16",
        "path=edm",
        "objective.weight.power=1.0",
        "seed=1",
        "train.batch=128",
        "data=folder",
    ],
)
def test_another_plan_is_refused_with_the_difference(change: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A changed network, objective, data set, path, seed or batch is refused, and nothing is touched."""
    shutil.copytree(HERE / "golden" / "format-1", "runs/points")
    assert main(["train", *points(), change]) == 2
    text = capfd.readouterr().err
    assert "started with another configuration" in text
    assert change.partition("=")[0].partition(".")[0] in text
    assert sorted(file.name for file in Path("runs/points/checkpoints").iterdir()) == ["step-000000001024"]


def points(*more: str) -> tuple[str, ...]:
    """The command that the golden run was made by, and more."""
    return (
        f"hydra.searchpath=[file://{HERE.parent / 'toy' / 'configs'}]", "experiment=toy/points", "net.size=tiny",
        "train.samples=1024", "train.checkpoint_every=1024", "train.log_every=2", "train.threads=1", "name=points", *more,
    )  # fmt: skip


def test_an_older_format_is_migrated(capfd: pytest.CaptureFixture[str]) -> None:
    """A run of the first format, kept as it was written, goes on, draws and is exported."""
    shutil.copytree(HERE / "golden" / "format-1", "runs/points")
    assert main(["train", *points("train.samples=2048")]) == 0
    assert "going on from step-000000001024" in capfd.readouterr().out
    assert state("runs/points")["counters"]["seen"] == 2048
    manifests = [
        json.loads(file.read_text()) for file in sorted(Path("runs/points/checkpoints").glob("*/manifest.json"))
    ]
    assert [manifest["format"] for manifest in manifests] == [2, 2]
    assert all(manifest["score"] for manifest in manifests)
    assert cm_multimodal.load("runs/points").sample(n=3).raw.shape == (3, 2)


def test_a_newer_format_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    """What a newer version wrote is neither used nor passed over."""
    shutil.copytree(HERE / "golden" / "format-1", "runs/points")
    manifest = Path("runs/points/checkpoints/step-000000001024/manifest.json")
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 3'))
    assert main(["train", *points("train.samples=2048")]) == 2
    text = capfd.readouterr().err
    assert "format 3" in text
    assert "newer version" in text


def test_a_named_checkpoint_is_used_or_missed_aloud(capfd: pytest.CaptureFixture[str]) -> None:
    """resume= begins a new run where another is; what is missing, damaged or does not fit is never a fresh start."""
    shutil.copytree(HERE / "golden" / "format-1", "runs/points")
    place = "runs/points/checkpoints/step-000000001024"
    for wrong in ("no/such/path", "runs/points", "runs/points/checkpoints/step-000000009999", "https://host/step-1"):
        assert main(["train", *points(f"resume={wrong}", "name=second")]) == 2
        assert "nothing is started from zero" in capfd.readouterr().err
        assert not Path("runs/second").exists()
    assert main(["train", *points("resume=runs/points", "name=second")]) == 2
    assert place in capfd.readouterr().err
    assert main(["train", *points(f"resume={place}", "name=second", "net.size=xs")]) == 2
    assert "net.size: tiny -> xs" in capfd.readouterr().err
    for _ in range(2):
        assert main(["train", *points(f"resume={place}", "name=second", "train.samples=2048")]) == 0
    assert state("runs/second")["counters"]["seen"] == 2048
    assert main(["train", *points("resume=auto", "name=second", "train.samples=2048")]) == 0
    assert main(["train", *points("name=points", "train.samples=2048")]) == 0
    assert main(["train", *points(f"resume={place}", "name=points", "train.samples=2048")]) == 2
    assert "has its own checkpoints" in capfd.readouterr().err
    assert equal(state("runs/points")["network"], state("runs/second")["network"])
    shutil.move(place, "moved")
    assert main(["train", *points(f"resume={place}", "name=second", "train.samples=2048")]) == 0
    shutil.move("moved", place)
    shutil.rmtree("runs/points/checkpoints/step-000000002048")
    weights = Path(place, "training.pt")
    weights.write_bytes(weights.read_bytes()[:-1])
    for name in ("third", "points"):
        assert main(["train", *points(f"resume={place}", f"name={name}")]) == 3
        assert "is damaged: 'training.pt'" in capfd.readouterr().err


def test_snapshots_that_lie_ahead_are_forgotten() -> None:
    """Averages of a later time than the run goes on from would be mixed into those of another width."""
    assert live("train", *words("flow_matching", "run"), "train.samples=256")[0] == 0
    snapshots = Path("runs/run/ema")
    stale = snapshots / "000000099968-0.06.safetensors"
    shutil.copy(min(snapshots.iterdir()), stale)
    assert live("train", *words("flow_matching", "run"), "train.samples=384")[0] == 0
    assert not stale.exists()
    assert max(int(file.name[:12]) for file in snapshots.iterdir()) == 384


def test_changed_data_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    """A run does not go on with other samples than it was started with (case 43)."""
    shutil.copytree(HERE / "golden" / "format-1", "runs/points")
    env = Path("runs/points/env.json")
    env.write_text(json.dumps({**json.loads(env.read_text()), "data": "0" * 64}))
    assert main(["train", *points("train.samples=2048")]) == 3
    assert "training data are not those" in capfd.readouterr().err


@pytest.mark.parametrize("folder", ["with space", "ümläut/深い", "a=b,c", "x[1]", "it's {100}%", "$HOME;&"])
def test_a_run_may_lie_anywhere(folder: str) -> None:
    """Spaces, brackets, quotes and equals signs in the way to a run: it trains, goes on, samples."""
    for samples in (256, 512):
        assert main(["train", *points(f"runs={folder}", f"train.samples={samples}")]) == 0
    assert main(["sample", f"run={folder}/points", "n=2", "out=drawn"]) == 0
    assert len(list(Path("drawn").glob("0*.txt"))) == 2


def test_a_batch_of_one_and_a_set_smaller_than_a_batch() -> None:
    """The smallest batch, and a batch that goes round the data set twice, are fine (cases 31 and 45)."""
    torch.set_num_threads(1)
    assert main(["train", *points("train.batch=1", "train.samples=8", "train.log_every=1", "name=one")]) == 0
    assert main(["train", *points("train.batch=250", "data.size=100", "train.samples=500", "name=small")]) == 0
