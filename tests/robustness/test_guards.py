r"""Numbers that are not finite, or absurd, never reach the weights (cases 27-34)."""

import faults
import json
import numpy as np
import pytest
import signal
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.bundle import Card, empty_map
from cm_multimodal.derivatives import CentralDifference, ForwardMode, perturbed
from cm_multimodal.maps import SCALINGS
from cm_multimodal.modality import TensorSpec
from cm_multimodal.objectives import OBJECTIVES
from cm_multimodal.paths import PATHS
from cm_multimodal.random import Draws
from cm_multimodal.times import RATIO_MAX, RATIO_MIN, LogNormal, TimePair, Triangle
from functools import partial
from harness import DIGITS, QUICK, empty, equal, live, state
from modalities.image.adapter import ImageModality
from pathlib import Path
from PIL import Image

pytestmark = [pytest.mark.robustness, pytest.mark.usefixtures("empty")]
__all__ = ["empty"]
MEAN_FLOW = (*DIGITS, "objective=mean_flow")


@pytest.mark.parametrize("what", ["loss", "gradient", "tangent"])
def test_a_run_of_nan_ends_with_a_diagnosis(what: str) -> None:
    """No update, then exit 4 and a file with sample ids, times and norms; the last checkpoint is finite and untouched."""
    assert live("train", *MEAN_FLOW, "name=run", "train.samples=256", "optimizer.schedule=constant")[0] == 0
    good = state("runs/run")["network"]
    words = (*MEAN_FLOW, "name=run", "optimizer.schedule=constant")
    code, text = live("train", *words, faults=[partial(faults.not_finite, what, 4, 6)])
    assert code == 4
    assert "diverged" in text
    assert "lower optimizer.lr" in text
    assert "Traceback" not in text
    facts = json.loads(Path("runs/run/diagnosis.json").read_text())["skipped_updates"]
    assert [fact["samples_seen"] for fact in facts] == [256, 320, 384, 448, 512]
    assert {"loss", "distance", "grad_norm", "rows", "gradients"} <= facts[0].keys()
    assert {"id", "time", "noise_ratio", "distance"} == facts[0]["rows"][0].keys()
    assert facts[0]["rows"][0]["id"] in range(256, 320)
    assert {"loss": "nan", "gradient": "inf", "tangent": "nan"}[what] == facts[0]["grad_norm"]
    assert (facts[0]["rows"][0]["distance"] == "nan") == (what == "tangent")
    assert equal(state("runs/run")["network"], good)
    assert all(torch.isfinite(value).all() for value in good.values())


def test_a_single_bad_update_is_skipped() -> None:
    """One update that is not finite is left out and counted; no checkpoint is made of a run amid them."""
    code, _ = live("train", *QUICK, "name=run", "train.log_every=1", faults=[partial(faults.not_finite, "loss", 3)])
    assert code == 0
    rows = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    skipped = {row["samples"]: row["skipped"] for row in rows if "skipped" in row}
    assert skipped[256] == 1.0
    assert sum(skipped.values()) == 1.0
    assert not Path("runs/run/diagnosis.json").exists()


def test_a_bad_last_update_does_not_cost_the_last_checkpoint() -> None:
    """Where the last update is skipped, the weights that there are are saved; so they are where a signal comes then."""
    code, text = live("train", *QUICK, "name=run", faults=[partial(faults.not_finite, "loss", 9)])
    assert code == 0, text
    assert state("runs/run")["counters"] == {"seen": 640, "skipped": 1}
    bad = [partial(faults.not_finite, "loss", 0), partial(faults.signal_at, 0, signal.SIGTERM)]
    code, text = live("train", *QUICK, "name=early", faults=bad)
    assert code == 75
    assert "the state is saved at 64 samples" in text
    assert state("runs/early")["counters"]["seen"] == 64


def test_an_absurd_rate_is_found_out() -> None:
    """A learning rate of 1e3 is divergence, with the advice to lower it, though no number need be infinite."""
    code, text = live("train", *MEAN_FLOW, "name=run", "optimizer.lr=1e3", "optimizer.warmup=0")
    assert code == 4
    assert "Try a lower optimizer.lr" in text
    assert not list(Path("runs/run/checkpoints").glob("step-*"))


def test_a_wrong_derivative_is_replaced_and_said() -> None:
    """A derivative that fails its self-test is not used; the log names it and the one that takes its place (case 32)."""
    code, text = live("train", *MEAN_FLOW, "name=run", "train.samples=64", faults=[faults.wrong_tangents])
    assert code == 0
    assert "The derivative 'forward_mode' does not work here, and is not used" in text
    assert "derivative: double_backward" in text


def test_no_wrong_derivative_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test lets nothing through that differs from a finite difference."""
    monkeypatch.setattr(ForwardMode, "__call__", lambda self, f, x, s, v: x * 0)
    objective = OBJECTIVES["mean_flow"]()
    flow_map = small_map("linear", "euler")
    lines = objective.self_check(
        flow_map, Batch(torch.zeros(4, 1, 8, 8), Conditions(torch.zeros(4, dtype=torch.int64)))
    )
    assert not isinstance(objective.derivative, ForwardMode | CentralDifference)
    assert "differs from a finite difference" in lines[0]


class Boundary(Triangle):
    """The corners of the triangle of times (a source is never clean data), its sides, and what lies beside them."""

    def pairs(self, draws, path):
        ratio = torch.tensor(
            [RATIO_MIN, RATIO_MIN, RATIO_MAX, RATIO_MAX, RATIO_MAX, 1.0, 1.0, RATIO_MIN], dtype=torch.float64
        )
        lower = torch.tensor([0, RATIO_MIN, RATIO_MAX, 0, RATIO_MIN, 1.0 - 1e-9, 0, 0], dtype=torch.float64)
        rows = draws.ids % len(ratio)
        s, t = path.time_of(ratio[rows].clamp_min(1e-12)), path.time_of(lower[rows].clamp_min(1e-12))
        return TimePair(s, torch.where(lower[rows] == 0, torch.zeros_like(t), torch.minimum(s, t)))


class Ends(LogNormal):
    """The ends and the middle of the noise ratios."""

    def times(self, u, path):
        ratio = torch.tensor([RATIO_MIN, 1.0, RATIO_MAX], dtype=torch.float64)
        return path.time_of(ratio[torch.arange(len(u)) % 3])


def small_map(path: str, scaling: str):
    """A small network, off its start, made a map."""
    spec = TensorSpec((1, 8, 8), 0.75, ("a", "b"))
    card = Card("image", spec, {"size": "xs", "channels": 8, "blocks": 1}, path, scaling, True, ("edge",), "test")
    torch.manual_seed(0)
    return perturbed(empty_map(card, ImageModality(spec))).float()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["mean_flow", "flow_matching", "easy_consistency"])
def test_the_boundary_of_times_is_finite(name: str, path: str) -> None:
    """At s = t, t = 0 and the ends of the ratio, loss and gradients are finite on every path and scaling (case 29)."""
    for scaling in SCALINGS if name == "easy_consistency" else ("euler", "endpoint", "rotation"):
        flow_map = small_map(path, scaling)
        times = Boundary(Ends()) if name == "mean_flow" else Ends()
        objective = OBJECTIVES[name](times=times)
        x = torch.linspace(-1, 1, 16 * 64).reshape(16, 1, 8, 8)
        batch = Batch(x, Conditions(torch.arange(16) % 2))
        for progress in (0.0, 1.0):
            loss = objective.loss(flow_map, batch, Draws(0, torch.arange(16)), progress)
            assert torch.isfinite(loss.per_sample).all(), (path, scaling)
            loss.value.backward()
            assert all(torch.isfinite(p.grad).all() for p in flow_map.parameters() if p.grad is not None)


@pytest.mark.parametrize("value", [0, 128])
def test_a_constant_data_set_trains(value: int) -> None:
    """Pictures that are all the same have no spread to divide by: training stays finite (case 30)."""
    for index in range(24):
        Path("same/x").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(f"same/x/{index}.png")
    words = ("data=folder", "data.folder=same", "net.channels=8", "net.blocks=1", "train.batch=16", "train.samples=320")
    code, text = live("train", *words, "train.threads=1", "train.log_every=1", "train.precision=float32", "name=same")
    assert code == 0, text
    rows = [json.loads(line) for line in Path("runs/same/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert not any(row.get("skipped") for row in rows)
