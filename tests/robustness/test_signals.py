r"""SIGTERM and Ctrl-C: the update at hand is finished, the state saved, the way to go on is said (cases 21-26)."""

import faults
import os
import pytest
import signal

from cm_multimodal import signals
from cm_multimodal.cli import main
from cm_multimodal.errors import Interrupted
from cm_multimodal.training.module import TrainingModule
from functools import partial
from harness import QUICK, assert_same_run, empty, live, start, state
from pathlib import Path

pytestmark = [pytest.mark.robustness, pytest.mark.usefixtures("empty")]
__all__ = ["empty"]
CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
GOES_ON = "The same command goes on: cmm train"


@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_training_after_the_step(number: int) -> None:
    """The exit code tells which signal it was; one more step was made, and none of it is lost."""
    code, text = live("train", *QUICK, "name=run", faults=[partial(faults.signal_at, 6, number)])
    assert code == CODES[number]
    assert "the state is saved at 448 samples" in text
    assert GOES_ON in text
    assert "name=run" in text.splitlines()[-1]
    assert "Traceback" not in text
    assert state("runs/run")["counters"]["seen"] == 7 * 64


@pytest.mark.parametrize("step", [2, 3, 8, 9])
def test_wherever_a_signal_comes_the_log_is_that_of_a_run_left_alone(step: int) -> None:
    """Also where a checkpoint is due: its held-out loss is measured when the run goes on."""
    assert live("train", *QUICK, "name=whole")[0] == 0
    code, _ = live("train", *QUICK, "name=run", faults=[partial(faults.signal_at, step, signal.SIGTERM)])
    assert code == (75 if step < 9 else 0)
    assert live("train", *QUICK, "name=run")[0] == 0
    if step < 9:
        assert_same_run("runs/whole", "runs/run")


@pytest.mark.parametrize("number", CODES)
def test_a_signal_to_all_processes_leaves_the_workers_at_work(number: int) -> None:
    """A terminal or a scheduler signals the whole group: the workers go on, and the state is saved."""
    words = (*QUICK, "name=run", "train.samples=1_000_000", "train.workers=2")
    life = start("train", *words, faults=[os.setsid])
    life.wait_for(lambda: Path("runs/run/metrics.jsonl").exists())
    os.killpg(life.process.pid, number)
    assert life.wait() == CODES[number]
    assert "Traceback" not in life.text()
    assert state("runs/run")["counters"]["seen"] > 0


@pytest.mark.parametrize("place", ["validation", "preview"])
def test_a_signal_while_judging_or_drawing(place: str) -> None:
    """What is judged or drawn is given up, and the run stops within one step."""
    fault = {"validation": faults.signal_in_validation, "preview": faults.signal_in_preview}[place]
    code, text = live("train", *QUICK, "name=run", "train.preview_every=128", faults=[partial(fault, signal.SIGTERM)])
    assert code == 75
    assert GOES_ON in text
    assert state("runs/run")["counters"]["seen"] <= 3 * 64
    assert not list(Path("runs/run").rglob("*.tmp"))
    assert live("train", *QUICK, "name=run", "train.preview_every=128")[0] == 0
    assert live("train", *QUICK, "name=whole", "train.preview_every=128")[0] == 0
    assert_same_run("runs/whole", "runs/run")


def test_signals_while_saving_corrupt_nothing() -> None:
    """The first is granted when the checkpoint is there, those that follow change nothing."""
    fault = partial(faults.signals_in_save, 2, signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
    code, text = live("train", *QUICK, "name=run", faults=[fault])
    assert code == 75
    assert "Traceback" not in text
    assert live("train", *QUICK, "name=run")[0] == 0
    assert live("train", *QUICK, "name=whole")[0] == 0
    assert_same_run("runs/whole", "runs/run")


def test_a_signal_in_the_last_step_leaves_a_finished_run() -> None:
    """Where nothing is left to do there is nothing to go on with."""
    assert live("train", *QUICK, "name=run", faults=[partial(faults.signal_at, 9, signal.SIGTERM)])[0] == 0
    assert Path("runs/run/bundle/bundle.json").exists()


@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_sampling(number: int) -> None:
    """Sampling and evaluation stop at once, with a sentence, and leave nothing half done."""
    assert live("train", *QUICK, "name=run", "train.samples=64")[0] == 0
    for words in (("sample", "n=2000", "out=drawn", "format=npz"), ("evaluate", "n=2000", "steps=[8]")):
        life = start(*words, "run=runs/run", "threads=1", faults=[partial(faults.signal_in_preview, number)])
        assert life.wait() == CODES[number]
        assert "Stopped." in life.text()
        assert "Traceback" not in life.text()
    assert not Path("drawn").exists()


def test_a_wish_to_stop_is_granted_once() -> None:
    """Who defers it hears of it until the state is saved; one that nobody granted stops what comes next, and that alone."""
    with signals.deferred():
        faults.send(signal.SIGTERM)
        for _ in (1, 2):
            with pytest.raises(Interrupted):
                signals.check()
    with signals.deferred():
        assert signals.received() == signal.SIGTERM
    with pytest.raises(Interrupted):
        signals.check()
    signals.check()


def test_the_same_program_goes_on_after_a_stopped_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook: what was saved can be drawn from."""
    step = TrainingModule.training_step

    def stopped(self: TrainingModule, *arguments: object) -> None:
        faults.send(signal.SIGINT)
        step(self, *arguments)

    monkeypatch.setattr(TrainingModule, "training_step", stopped)
    assert main(["train", *QUICK, "name=run"]) == CODES[signal.SIGINT]
    assert main(["sample", "run=runs/run", "n=2", "out=drawn"]) == 0


def test_a_killed_data_worker_is_a_sentence() -> None:
    """A process that prepares data and dies ends the run, which says so and can go on; it does not hang (case 26)."""
    workers = ("train.workers=2", "name=run")
    code, text = live("train", *QUICK, *workers, faults=[partial(faults.kill_worker, 4)])
    assert code == 3
    assert "A data worker has died" in text
    assert "Traceback" not in text
    assert live("train", *QUICK, *workers)[0] == 0
    assert live("train", *QUICK, "name=whole")[0] == 0
    assert_same_run("runs/whole", "runs/run")
