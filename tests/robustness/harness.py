r"""Trainings as processes of their own, to be killed, starved and lied to.

A server that has imported everything forks them, so that a life costs a fraction of a second. The program they run is the
one a person runs: `cm_multimodal.cli.main`.
"""

import contextlib
import filecmp
import json
import multiprocessing
import os
import pytest
import signal
import socket
import sys
import time
import torch

from cm_multimodal.training import checkpoints
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TOY_CONFIGS = HERE.parent / "toy" / "configs"
PRELOAD = ["warm", "harness", "faults"]
LIMIT_S = 120
DIGITS = (
    "experiment=image/smoke", "net.channels=8", "train.samples=640", "train.batch=64", "train.checkpoint_every=128",
    "train.preview_every=640", "train.log_every=2", "train.precision=float32", "train.threads=1",
)  # fmt: skip
QUICK = (*DIGITS, "objective=flow_matching")
Fault = Callable[[], object]


def _server() -> Any:
    parts = [HERE.parents[1], HERE.parent, HERE]
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, parts), os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@dataclass
class Life:
    """A running training: its process, and the file it speaks into."""

    process: BaseProcess
    output: Path

    def wait(self) -> int:
        """Returns the exit code; that of a killed process is the signal's number below zero."""
        self.process.join(LIMIT_S)
        assert self.process.exitcode is not None, f"it hangs:\n{self.text()}"
        return self.process.exitcode

    def kill(self) -> None:
        """Kills it."""
        self.process.kill()
        self.process.join()

    def text(self) -> str:
        """Returns what it said."""
        return self.output.read_text() if self.output.exists() else ""

    def wait_for(self, seen: Callable[[], object]) -> None:
        """Waits until something is there, or the process has ended."""
        deadline = time.monotonic() + LIMIT_S
        while not seen():
            assert self.process.is_alive(), self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.002)


def start(*words: str, faults: Sequence[Fault] = (), env: dict[str, str] | None = None, name: str = "life") -> Life:
    """Starts `cmm` with words, in the current folder, after some faults were planted."""
    output = Path(f"{name}-{time.monotonic_ns()}.txt").resolve()
    process = _server().Process(target=_live, args=(words, Path.cwd(), output, tuple(faults), env or {}))
    process.start()
    return Life(process, output)


def live(*words: str, faults: Sequence[Fault] = (), env: dict[str, str] | None = None) -> tuple[int, str]:
    """Runs `cmm` to its end, and returns the exit code and what it said."""
    life = start(*words, faults=faults, env=env)
    return life.wait(), life.text()


def together(size: int, *words: str, faults: Sequence[Fault] = ()) -> list[tuple[int, str]]:
    """Runs `cmm` as several processes that train one run, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(size)}
    places = [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    lives = [start(*words, faults=faults, env=env, name=f"rank{env['RANK']}") for env in places]
    return [(life.wait(), life.text()) for life in lives]


def _live(words: Sequence[str], folder: Path, output: Path, faults: Sequence[Fault], env: dict[str, str]) -> None:
    from cm_multimodal.cli import main
    from cm_multimodal.modality import register_modality
    from toy.points import Points

    multiprocessing.set_start_method("fork", force=True)
    os.environ.update(env)
    os.chdir(folder)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    register_modality("toy_points", Points)
    torch.set_num_threads(1)
    for fault in faults:
        fault()
    known = (f"hydra.searchpath=[file://{TOY_CONFIGS}]",) if words[0] == "train" else ()
    code = main([words[0], *known, *words[1:]])
    sys.stdout.flush()
    sys.exit(code)


def state(run: str | Path) -> dict[str, Any]:
    """Returns the newest training state of a run."""
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


def assert_same_run(a: str, b: str) -> None:
    """Two runs ended alike, bit for bit: weights, optimiser, averages, counters, log, snapshots, bundle."""
    left, right = Path(a), Path(b)
    states = state(left), state(right)
    for part in states[0]:
        assert equal(states[0][part], states[1][part]), f"{part} differs"
    assert (left / "metrics.jsonl").read_bytes() == (right / "metrics.jsonl").read_bytes()
    snapshots = [sorted(file.name for file in (run / "ema").iterdir()) for run in (left, right)]
    assert snapshots[0] == snapshots[1]
    files = [f"ema/{name}" for name in snapshots[0]] + ["bundle/weights.safetensors", "bundle/bundle.json"]
    assert not any(filecmp.cmpfiles(left, right, files, shallow=False)[1:])


def rows(run: str) -> list[dict[str, float]]:
    """Returns the rows of a run's log."""
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def peak_bytes() -> int:
    """Returns the largest memory of this process since the peak was last forgotten."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def forget_peak() -> None:
    """Lets the peak start anew from what is in use."""
    Path("/proc/self/clear_refs").write_text("5")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    with contextlib.suppress(FileExistsError):
        (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"
