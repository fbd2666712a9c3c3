r"""The same rows and columns for every modality, and what is said of them."""

import base64
import json
import math
import mmap
import pytest
import re
import torch

from cm_multimodal.build import build_objective
from cm_multimodal.config import compose, suite_settings
from cm_multimodal.errors import UsageError
from cm_multimodal.evaluation import protocol
from cm_multimodal.evaluation.across import COLUMNS, Across, Settings
from cm_multimodal.evaluation.benchmark import Row
from cm_multimodal.evaluation.page import page
from cm_multimodal.evaluation.suites import SUITES
from cm_multimodal.evaluation.suites.smoke import Smoke
from cm_multimodal.machine import metered
from cm_multimodal.training.settings import read_settings
from collections.abc import Callable
from matplotlib.figure import Figure
from pathlib import Path
from typing import Any

Cmm = Callable[..., int]
QUICK = (
    "['train.samples=640','net.channels=8','train.threads=1','train.preview_every=640','train.checkpoint_every=640']"
)


@pytest.mark.parametrize("name", ["smoke", "small", "gpu"])
def test_every_case_of_a_suite_can_be_composed(name: str) -> None:
    """Its objectives can be built of experiments that exist; the map and its flow differ by the objective alone."""
    suite = SUITES[name](read_settings(Settings, suite_settings(name), "settings"), compose)
    assert isinstance(suite, Across)
    cases = suite.cases()
    assert {case.key["entry"] for case in cases} == {"image", "audio", "text", "video"}
    for entry in suite.entries:
        configs = {case.key["method"]: case.config["train"] for case in cases if case.key["entry"] == entry}
        mine, flow = configs["map"], configs["flow"]
        assert {key for key in mine if mine[key] != flow[key]} == {"objective", "name"}
        assert flow["objective"]["name"] in ("flow_matching", "denoising")
        for config in (mine, flow):
            build_objective(config["objective"])


def test_flow_matching_is_solved_by_those_that_can_do_with_so_few_calls() -> None:
    """One call is none for a solver that looks back on one; a number of calls that suits no solver is a sentence."""
    both = {"entries": {"image": {}}, "solvers": ["euler", "dpm_solver_pp"]}
    settings = read_settings(Settings, both, "settings")
    assert [settings.solvers_of(calls) for calls in (1, 2)] == [["euler"], ["euler", "dpm_solver_pp"]]
    with pytest.raises(UsageError, match="calls: 1 is fewer than any of dpm_solver_pp can do with"):
        read_settings(Settings, both | {"solvers": ["dpm_solver_pp"]}, "settings")


def row(method: str, calls: int, **values: Any) -> Row:
    key = {"entry": "image", "method": method, "calls": calls}
    return Row(key, f"{method}{calls}", {"calls": calls, "solver": "euler", **values}, "", "here")


def suite(**entries: Any) -> Smoke:
    return Smoke(read_settings(Settings, {"entries": entries}, "settings"), compose)


def test_the_headline_says_what_is_kept_and_saved() -> None:
    """Against the best flow: its share of the score, and calls and seconds from there to the fewest that keep 95 %."""
    known = suite(image={"experiment": "image/smoke"})
    flow = [row("flow", n, accuracy=a, seconds=10.0 * n, training_seconds=50.0) for n, a in ((1, 0.2), (50, 0.9))]
    maps = [row("map", n, accuracy=a, seconds=10.0 * n, training_seconds=100.0) for n, a in ((1, 0.72), (2, 0.88))]
    text = known.table([*maps, *flow])
    assert (
        "| image | accuracy | 80 % | 98 % | - | 50 → 2 | 25.0× | 2.0× | 100 |" in text
    )  # 50 s more, at 480 s of 1,000
    assert "| flow (euler) | 50 |" in text
    poor = row("map", 1, accuracy=0.3, seconds=1.0, training_seconds=100.0)
    assert "| image | accuracy | 33 % | - | - | - | - | 2.0× | - |" in known.table([poor, *flow])


def test_rows_of_two_machines_are_not_held_against_each_other() -> None:
    """Each has a table of its own, and no ratio of times is taken between them; what is kept has no clock."""
    known = suite(image={"experiment": "image/smoke"})
    times = {"seconds": 10.0, "training_seconds": 50.0, "trained_on": "a machine"}
    here, there = ({"protocol": {"hardware": f"cpu, a machine, {n} threads"}} for n in (1, 8))
    rows = [row("map", 1, accuracy=0.9, **times, **here), row("flow", 50, accuracy=0.9, **times, **there)]
    text = known.table(rows)
    assert "| image | accuracy | 100 % | - | - | 50 → 1 | - | 1.0× | - |" in text
    assert "**image** (`image/smoke`; cpu, a machine, 1 threads)" in text
    assert "**image** (`image/smoke`; cpu, a machine, 8 threads)" in text
    assert "On cpu, a machine, 1 threads; cpu, a machine, 8 threads." in text


def test_two_kinds_of_gpu_are_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is called by its name, and a processor by its own alone."""
    for name in ("H100", "A100"):
        facts = {"gpus": [name], "processor": "a processor", "threads": 2}
        monkeypatch.setattr(protocol, "describe_machine", lambda facts=facts: facts)
        assert protocol.where("cuda:0") == f"cuda:0, {name}, a processor, 2 threads"
    assert protocol.where("cpu") == "cpu, a processor, 2 threads"


def test_a_suite_from_training_to_its_page(cmm: Cmm, tmp_path: Path) -> None:
    """Maps, flows, ceiling and floors of one entry; a second call measures nothing; the page holds tables and picture."""
    words = (
        "suite=smoke", "out=results", "threads=1", "only=image", f"settings.entries.image.overrides={QUICK}",
        "settings.entries.image.n=60", "settings.steps=[1,2]", "settings.calls=[2]", "settings.solvers=[euler,heun]",
    )  # fmt: skip
    assert cmm("benchmark", *words) == 0
    rows = json.loads((tmp_path / "results/smoke.json").read_text())["rows"]
    found = {(each["key"]["method"], each["key"]["calls"]): each["values"] for each in rows}
    assert set(found) == {("map", 1), ("map", 2), ("flow", 2), ("real", 0), ("floors", 0)}
    first = found["map", 1]
    assert set(COLUMNS) <= set(first) | {"training_seconds"}
    assert first["protocol"]["n"] == found["real", 0]["protocol"]["n"] == found["floors", 0]["protocol"]["n"] == 60
    assert found["flow", 2]["protocol"]["solver"] == {"name": found["flow", 2]["solver"]}
    assert not first["protocol"]["solver"]
    assert set(found["floors", 0]["rows"]) == {"mean", "memory"}
    assert found["floors", 0]["rows"]["memory"]["memorised"] > 0.9 > first["memorised"]
    text, web = ((tmp_path / f"results/smoke.{kind}").read_text() for kind in ("md", "html"))
    assert "| real |" in text
    assert "<table>" in web
    assert 'src="http' not in web
    before = (tmp_path / "results/smoke.json").read_text()
    assert cmm("benchmark", *words) == 0
    assert (tmp_path / "results/smoke.json").read_text() == before


@pytest.mark.slow
@pytest.mark.smoke
def test_all_modalities_in_one_suite(cmm: Cmm, tmp_path: Path) -> None:
    """All of suite=smoke: all kinds of rows for every modality; the memoriser is found, jumps beat one step of a flow."""
    assert cmm("benchmark", "suite=smoke", "out=results") == 0
    rows = json.loads((tmp_path / "results/smoke.json").read_text())["rows"]
    for entry in ("image", "audio", "text", "video"):
        found = {
            (each["key"]["method"], each["key"]["calls"]): each["values"]
            for each in rows
            if each["key"]["entry"] == entry
        }
        assert len(found) == 8
        floors, real = found["floors", 0]["rows"], found["real", 0]["rows"]["real"]
        assert floors["memory"]["memorised"] > 0.9, entry
        assert real["memorised"] < 0.5, entry
        assert all(math.isfinite(each["frechet"]) for (method, _), each in found.items() if method in ("map", "flow"))
        assert found["map", 4]["frechet"] < found["flow", 1]["frechet"], entry


def test_a_page_needs_nothing_beside_it() -> None:
    """The picture is within, and HTML in the text is shown, not obeyed."""
    web = page("a < b", "| x |\n|---|\n| <script>alert(1)</script> |", Figure())
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', web)
    assert base64.b64decode(source).startswith(b"\x89PNG")
    assert "<script>" not in web
    assert "<title>a &lt; b</title>" in web


def test_what_work_costs_is_measured() -> None:
    """Time of the clock and of the CPU, and the memory that was needed for it."""
    with metered(torch.device("cpu")) as idle:
        pass
    with metered(torch.device("cpu")) as cost, mmap.mmap(-1, 1 << 27) as fresh:
        fresh.write(bytes(1 << 27))
    assert 0 < cost.seconds < 60
    assert cost.cpu_seconds > 0
    assert math.isnan(idle.memory) or cost.memory - idle.memory > 64
