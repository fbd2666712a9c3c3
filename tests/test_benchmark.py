"""The benchmark runner: rows that are measured once, suites that go on, tables that can be read."""

import json
import pytest

from cm_multimodal import signals
from cm_multimodal.config import compose, suite_settings
from cm_multimodal.errors import DataError, Interrupted
from cm_multimodal.evaluation.benchmark import Case, run_suite
from cm_multimodal.evaluation.suites import SUITES
from cm_multimodal.evaluation.suites.ground_truth import GroundTruth, Settings, errors, mixture
from cm_multimodal.exact import ExactMap
from cm_multimodal.objectives import OBJECTIVES
from cm_multimodal.objectives.mean_flow import MeanFlow
from cm_multimodal.paths import build_path
from cm_multimodal.training.settings import read_settings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cmm = Callable[..., int]
TINY = {"dimensions": [2], "seeds": [0, 1], "updates": 20, "batch": 32, "width": 16, "samples": 64}


def suite(only: list[str], **changes: Any) -> GroundTruth:
    group = {**suite_settings("ground_truth"), **TINY, **changes}
    return GroundTruth(read_settings(Settings, group, "settings"), compose, only)


class Watched(GroundTruth):
    """A suite that notes what it measures."""

    def __init__(self, inner: GroundTruth) -> None:
        self.settings, self.configs, self.measured = inner.settings, inner.configs, []

    def measure(self, case: Case) -> dict[str, Any]:
        self.measured.append((case.key["objective"], case.key["seed"]))
        return super().measure(case)


def test_a_suite_measures_once_and_goes_on(tmp_path: Path) -> None:
    """Rows that are there are kept; other settings, and new objectives, are measured; a table and a plot come with them."""
    first = Watched(suite(["flow_matching"]))
    run_suite(first, tmp_path, report=lambda line: None)
    assert first.measured == [("flow_matching", 0), ("flow_matching", 1)]
    more = Watched(suite(["flow_matching", "shortcut"]))
    rows = run_suite(more, tmp_path, report=lambda line: None)
    assert more.measured == [("shortcut", 0), ("shortcut", 1)]
    assert [row.key["objective"] for row in rows] == ["flow_matching"] * 2 + ["shortcut"] * 2
    text = (tmp_path / "ground_truth.md").read_text()
    assert "`shortcut`" in text
    assert "| diagonal |" in text
    assert (tmp_path / "ground_truth.png").stat().st_size > 10_000
    again = Watched(suite(["flow_matching"], updates=30))
    run_suite(again, tmp_path, report=lambda line: None)
    assert len(again.measured) == 2


def test_what_was_measured_survives_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends a suite between two cases; the next call measures the rest."""
    calls = iter([None, None, Interrupted("Stopped.", 75)])

    def check() -> None:
        found = next(calls)
        if found:
            raise found

    monkeypatch.setattr(signals, "check", check)
    with pytest.raises(Interrupted):
        run_suite(suite(["flow_matching", "denoising"]), tmp_path, report=lambda line: None)
    assert len(json.loads((tmp_path / "ground_truth.json").read_text())["rows"]) == 2
    monkeypatch.setattr(signals, "check", lambda: None)
    rest = Watched(suite(["flow_matching", "denoising"]))
    run_suite(rest, tmp_path, report=lambda line: None)
    assert rest.measured == [("denoising", 0), ("denoising", 1)]


def test_several_processes_measure_the_same(tmp_path: Path) -> None:
    """Two cases at a time give the numbers that one at a time gives."""
    one, two = (
        run_suite(suite(["mean_flow"]), tmp_path / str(workers), workers, lambda line: None) for workers in (1, 2)
    )
    assert [row.values["map_error"] for row in one] == [row.values["map_error"] for row in two]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_in_the_suite(name: str) -> None:
    """Each objective trains in it, is judged on what it learns, and draws samples; its network calls are counted."""
    tiny = suite([name], seeds=[0], updates=4)
    values = tiny.measure(tiny.cases()[0])
    assert values["map_error"] > 0
    assert values["calls"] >= 1
    assert values["sw_1"] > 0
    assert (values["semigroup"] is None) == (values["over"] != "triangle")


def test_errors_of_the_truth_are_zero() -> None:
    """The errors that the suite reports are those of the map: none for the true one."""
    data = mixture(3)
    found = errors(ExactMap(data, build_path("linear", data.sigma_data)), MeanFlow(), data, 256)
    assert found["map_error"] < 1e-6
    assert found["semigroup"] < 1e-6


def test_digits_end_to_end(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """The digits suite trains for a time, scores, ranks, trains the best again, and shows it; a teacher comes first."""
    names = "only=[consistency_distillation]"
    quick = {"seconds": 1.5, "again": 1, "training_seeds": "[0,1]", "seeds": "[0]", "steps": "[1,2]"}
    quick["experiment"] = "image/smoke"
    words = [f"settings.{key}={value}" for key, value in quick.items()]
    assert cmm("benchmark", "suite=digits", names, *words, "out=results", "threads=1") == 0
    rows = json.loads(Path("results/digits.json").read_text())["rows"]
    assert [tuple(row["key"].values()) for row in rows] == [("consistency_distillation", seed) for seed in (0, 1)]
    assert Path("runs/benchmark/flow_matching-0/bundle").is_dir()
    assert "Fréchet distance" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("suite=ground_thruth",), "did you mean 'ground_truth'"), ((), "no suite 'None'"),
        (("suite=ground_truth", "only=[meanflow]"), "did you mean 'mean_flow'"),
        (("suite=ground_truth", "settings.update=3"), "did you mean 'updates'"),
        (("suite=ground_truth", "workers=0"), "workers=0 is not possible"),
    ],
)  # fmt: skip
def test_wrong_words_get_sentences(
    cmm: Cmm, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    """Unknown suites, objectives and settings are answered with what there is."""
    assert cmm("benchmark", *words, "out=results") == 2
    assert says in capsys.readouterr().err


def test_results_that_are_no_results(tmp_path: Path) -> None:
    """A file in the place of the results is named, and not overwritten."""
    (tmp_path / "ground_truth.json").write_text("[]")
    with pytest.raises(DataError, match="does not hold benchmark results"):
        run_suite(suite(["flow_matching"]), tmp_path)
    assert (tmp_path / "ground_truth.json").read_text() == "[]"
    assert set(SUITES) == {"ground_truth", "digits"}
