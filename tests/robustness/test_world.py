r"""Two processes train one run as one does: the same samples, draws and, to rounding, weights (cases 12, 25, 28, 44, 45)."""

import faults
import json
import os
import pytest
import re
import shutil
import signal
import subprocess
import sys
import torch

from cm_multimodal.training.data import Stream, batches
from cm_multimodal.training.settings import TrainSettings
from cm_multimodal.training.world import World, find_world
from functools import partial
from harness import DIGITS, QUICK, empty, live, rows, state, together
from modalities.image.adapter import ImageModality
from modalities.image.data import load as load_images
from pathlib import Path

pytestmark = [pytest.mark.robustness, pytest.mark.usefixtures("empty")]
__all__ = ["empty"]
ROOT = Path(__file__).parents[2]
OBJECTIVES = {"mean_flow": "euler", "flow_matching": "euler", "easy_consistency": "rotation"}
FIFTY = (
    "experiment=image/smoke", "net.channels=8", "train.samples=800", "train.batch=16", "train.log_every=1",
    "train.checkpoint_every=800", "train.preview_every=800", "train.threads=1",
)  # fmt: skip


def digits(batch: int, world: World = World(), samples: int = 2800) -> Stream:
    splits = load_images({"name": "digits"})
    modality = ImageModality(ImageModality.describe(splits.train, {}))
    settings = TrainSettings(samples, batch, augment={"flip": 0.5}, drop_label=0.2)
    return Stream(splits.train, modality, 5, 0, settings, world=world)


@pytest.mark.parametrize("size", [2, 3])
def test_the_rows_of_all_processes_are_the_global_batch(size: int) -> None:
    """Ids, samples, classes and noise of the parts, laid end to end, are those of one process; none comes twice."""
    whole = digits(100)
    parts = [digits(100, World(rank, size)) for rank in range(size)]
    for index in (0, 13, 14, 27):
        one, shared = whole[index], [part[index] for part in parts]
        assert torch.equal(one.batch.x, torch.cat([each.batch.x for each in shared]))
        assert torch.equal(one.batch.cond.label, torch.cat([each.batch.cond.label for each in shared]))
        assert one.draws.ids.tolist() == [i for each in shared for i in each.draws.ids.tolist()]
        noise = [each.draws.noise("noise", (1, 8, 8)) for each in (one, *shared)]
        assert torch.equal(noise[0], torch.cat(noise[1:]))
    ids = [i for index in range(28) for part in parts for i in part[index].draws.ids.tolist()]
    assert sorted(ids) == list(range(2800))


@pytest.mark.parametrize(("workers", "ahead"), [(0, 2), (1, 1), (4, 8)])
def test_any_number_of_workers_prepares_the_same_batches(workers: int, ahead: int) -> None:
    """Batches come in order and alike, however many processes prepare however many ahead (case 44)."""
    stream = digits(100, samples=1500)
    loaded = list(batches(stream, workers, ahead))
    assert len(loaded) == len(stream) == 15
    for index, drawn in enumerate(loaded):
        assert torch.equal(drawn.batch.x, stream[index].batch.x)
        assert torch.equal(drawn.draws.ids, stream[index].draws.ids)


def test_memory_formats_do_not_mix_up_gradients() -> None:
    """Channels-last weights get channels-last gradients from the other process, too."""
    words = (*QUICK, "train.channels_last=true", "train.precision=float64", "train.samples=256")
    assert live("train", *words, "name=one")[0] == 0
    assert [code for code, _ in together(2, "train", *words, "name=two")] == [0, 0]
    for a, b in zip(rows("runs/one"), rows("runs/two"), strict=True):
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), abs=1e-9)


BOUNDS = {"float64": 1e-9, "float32": 1e-3}


@pytest.mark.parametrize("precision", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_learn_what_one_does(objective: str, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fifty steps in float64: the losses differ by less than 1e-9; what float32 makes of it is printed."""
    scaling = f"objective.scaling={OBJECTIVES[objective]}"
    words = (*FIFTY, f"objective={objective}", scaling, f"train.precision={precision}")
    code, text = live("train", *words, "name=one")
    assert code == 0, text
    for code, text in together(2, "train", *words, "name=two"):
        assert code == 0, text
    pairs = list(zip(rows("runs/one"), rows("runs/two"), strict=True))
    assert len([pair for pair in pairs if "loss" in pair[0]]) == 50
    assert all(a["samples"] == b["samples"] for a, b in pairs)
    largest = max(abs(a[key] - b[key]) for a, b in pairs for key in ("loss", "held_out_loss") if key in a)
    assert largest < BOUNDS[precision]
    with capsys.disabled():
        print(f"\n  {objective}, {precision}: the losses of 50 steps differ by at most {largest:.1e}")


HELD = re.compile(r"([\d,]+) parameters \(([\d,]+) of them here\)")
IN_PARTS = {
    "mean_flow": (),
    "improved_mean_flow_difference": (),
    "flow_matching": (),
    "easy_consistency": ("objective.scaling=rotation",),
}


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=() if name == "mean_flow" else pytest.mark.slow) for name in IN_PARTS]
)
def test_weights_in_parts_learn_what_whole_ones_do(objective: str) -> None:
    """In float64 the losses are those of one process; each holds half, and the run goes on whole, and in parts again."""
    words = (*FIFTY, f"objective={objective}", *IN_PARTS[objective], "train.precision=float64", "train.batch=4")
    for samples, parts in ((100, "train.shard=true"), (160, "train.shard=false"), (200, "train.shard=true")):
        results = together(2, "train", *words, "name=two", f"train.samples={samples}", parts)
        assert [code for code, _ in results] == [0, 0], results
        shown = HELD.search(results[0][1])
        assert bool(shown) == (parts == "train.shard=true")
        if shown:
            size, own = (int(number.replace(",", "")) for number in shown.groups())
            assert 0.4 * size < own < 0.6 * size
        assert live("train", *words, "name=one", f"train.samples={samples}")[0] == 0
    pairs = list(zip(rows("runs/one"), rows("runs/two"), strict=True))
    assert len([pair for pair in pairs if "loss" in pair[0]]) == 50
    assert all(a["samples"] == b["samples"] for a, b in pairs)
    assert max(abs(a[key] - b[key]) for a, b in pairs for key in ("loss", "held_out_loss") if key in a) < 1e-9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("optimizer.name=muon",), "do not go together"),
        (("train.compile=true",), "do not go together"),
        (("train.channels_last=true",), "do not go together"),
        (("objective=shortcut",), "holds weights of its own"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_weights_in_parts_do_not_go_with_is_said(words: tuple[str, ...], message: str) -> None:
    """A sentence before the first update, in every process."""
    for code, text in together(2, "train", *QUICK, "name=two", "train.shard=true", *words):
        assert code == 2, text
        assert message in text


def test_two_processes_go_on_where_one_stopped_and_back() -> None:
    """A run may change its number of processes: order, draws and, to rounding, losses stay what they were."""
    for code, text in together(2, "train", *QUICK, "name=mixed", "train.samples=256"):
        assert code == 0, text
    assert live("train", *QUICK, "name=mixed", "train.samples=384")[0] == 0
    results = together(2, "train", *QUICK, "name=mixed")
    assert [code for code, _ in results] == [0, 0]
    assert "going on from step-000000000384" in results[0][1]
    assert "2 processes" in results[0][1]
    assert results[1][1] == ""
    for samples in (256, 384, 640):
        assert live("train", *QUICK, "name=alone", f"train.samples={samples}")[0] == 0
    for a, b in zip(rows("runs/mixed"), rows("runs/alone"), strict=True):
        assert a["samples"] == b["samples"]
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), rel=1e-4)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_at_the_same_step(rank: int) -> None:
    """Whichever process hears it, all finish the same update, and one saves."""
    fault = partial(faults.signal_at, 5, signal.SIGTERM, rank=rank)
    results = together(2, "train", *QUICK, "name=run", faults=[fault])
    assert [code for code, _ in results] == [75, 75]
    assert state("runs/run")["counters"]["seen"] == 6 * 64
    assert [code for code, _ in together(2, "train", *QUICK, "name=run")] == [0, 0]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_on_one_process_is_skipped_by_all(what: str) -> None:
    """A bad loss or gradient of one process: no update on any; in a row: all stop with exit 4, diagnosed where it was."""
    once = partial(faults.not_finite, what, 4, 1, rank=1)
    results = together(2, "train", *QUICK, "name=run", "train.log_every=1", faults=[once])
    assert [code for code, _ in results] == [0, 0]
    assert sum(row.get("skipped", 0) for row in rows("runs/run")) == 1
    often = partial(faults.not_finite, what, 4, 9, rank=1)
    results = together(2, "train", *QUICK, "name=bad", faults=[often])
    assert [code for code, _ in results] == [4, 4]
    facts = json.loads(Path("runs/bad/diagnosis-1.json").read_text())["skipped_updates"]
    assert {row["id"] for row in facts[0]["rows"]} <= set(range(4 * 64 + 32, 5 * 64))
    assert state("runs/bad")["counters"]["seen"] == 256


def test_weights_that_drift_apart_are_found_at_the_next_checkpoint() -> None:
    """Processes that hold different weights never make a checkpoint of them."""
    results = together(2, "train", *QUICK, "name=run", faults=[partial(faults.drift, 5, 1)])
    assert [code for code, _ in results] == [1, 1]
    assert all("hold different weights after 384 samples" in text for _, text in results)
    assert state("runs/run")["counters"]["seen"] == 256


def test_a_process_that_fails_alone_takes_the_others_with_it() -> None:
    """No room for the log on the main process: it says so, and the other says that it stopped, without a traceback."""
    results = together(2, "train", *QUICK, "name=run", faults=[partial(faults.no_log, 4)])
    assert results[0][0] == 3
    assert "No space left" in results[0][1]
    assert results[1][0] in (1, 3)
    assert "its message says why" in results[1][1]
    assert "Traceback" not in results[0][1] + results[1][1]


def test_processes_that_see_other_files_are_told() -> None:
    """A run that only the main process sees is not gone on with by some and begun by others."""
    assert live("train", *QUICK, "name=run", "train.samples=128")[0] == 0
    Path("elsewhere").mkdir()
    results = together(2, "train", *QUICK, "name=run", faults=[partial(faults.elsewhere, 1, "elsewhere")])
    assert [code for code, _ in results] == [1, 3]
    assert "does not see" in results[1][1]
    assert "its message says why" in results[0][1]


def test_a_mistake_ends_all_processes() -> None:
    """What only the main process can find wrong, such as a locked or unwritable run, does not leave the others waiting."""
    Path("runs").write_text("in the way")
    results = together(2, "train", *QUICK, "name=run")
    assert [code for code, _ in results] == [2, 2]
    assert "cannot be written" in results[0][1]
    assert "Traceback" not in results[0][1] + results[1][1]


def test_more_processes_than_samples_are_refused() -> None:
    """A global batch of one cannot be shared by two."""
    results = together(2, "train", *QUICK[:-1], "objective=flow_matching", "train.batch=1", "name=run")
    assert [code for code, _ in results] == [2, 2]
    assert "train.batch=1 is smaller than the number of processes, 2" in results[0][1]


def test_processes_are_found_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun and srun say who is who; a plain shell, or a batch script without srun, says nothing."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert find_world() == World()
    slurm = {
        "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
        "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "1234567",
    }  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert find_world() == World(5, 8, 1, 4, "tcp://gpu07:19567")
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert find_world() == World(1, 2, 0, 1)


@pytest.mark.slow
def test_torchrun_starts_it() -> None:
    """The README's command for several processes, with the launcher itself; then the same command goes on."""
    torchrun = shutil.which("torchrun", path=str(Path(sys.executable).parent))
    assert torchrun is not None
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for samples in (128, 256):
        command = [
            torchrun,
            "--nproc-per-node=2",
            "--standalone",
            "-m",
            "cm_multimodal",
            "train",
            *DIGITS,
            "name=run",
        ]
        done = subprocess.run(
            [*command, f"train.samples={samples}"], env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert "going on from step-000000000128" in done.stdout
    assert done.stdout.count("2 processes") == 1
