"""The benchmark runner: rows that are measured once, suites that go on, tables that can be read."""

import functools
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
from cm_multimodal.solvers import SOLVERS
from cm_multimodal.training.settings import read_settings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cmm = Callable[..., int]
TINY = {"dimensions": [2], "seeds": [0, 1], "updates": 20, "batch": 32, "width": 16, "samples": 64}


@functools.cache
def composed(verb: str, words: tuple[str, ...]) -> dict[str, Any]:
    return compose(verb, words)


def suite(**changes: Any) -> GroundTruth:
    group = suite_settings("ground_truth", {**TINY, **changes})
    return GroundTruth(read_settings(Settings, group, "settings"), lambda verb, words: composed(verb, tuple(words)))


def silent(line: str) -> None:
    pass


class Watched(GroundTruth):
    """A suite that notes what it measures."""

    def __init__(self, inner: GroundTruth) -> None:
        self.settings, self.configs, self.measured = inner.settings, inner.configs, []

    def measure(self, case: Case) -> dict[str, Any]:
        self.measured.append((case.key["objective"], case.key["seed"]))
        return super().measure(case)


def test_a_suite_measures_once_and_goes_on(tmp_path: Path) -> None:
    """Rows that are there are kept and shown, whatever else is asked for; other settings are measured anew beside them."""
    first, more, again = Watched(suite()), Watched(suite()), Watched(suite(updates=30))
    run_suite(first, tmp_path, ["flow_matching"], report=silent)
    assert first.measured == [("flow_matching", 0), ("flow_matching", 1)]
    rows = run_suite(more, tmp_path, ["shortcut"], report=silent)
    assert more.measured == [("shortcut", 0), ("shortcut", 1)]
    assert [row.key["objective"] for row in rows] == ["flow_matching"] * 2 + ["shortcut"] * 2
    text = (tmp_path / "ground_truth.md").read_text()
    assert "`shortcut`" in text
    assert "| diagonal |" in text
    assert (tmp_path / "ground_truth.png").stat().st_size > 10_000
    assert len(run_suite(again, tmp_path, ["flow_matching"], report=silent)) == len(again.measured) == 2
    assert len(json.loads((tmp_path / "ground_truth.json").read_text())["rows"]) == 6


def test_settings_replace_single_keys() -> None:
    """A setting deep inside a group leaves its neighbours as they are."""
    usual, own = suite_settings("digits"), suite_settings("digits", {"overrides": {"mean_flow": []}, "steps": [1, 2]})
    assert own["overrides"] == {**usual["overrides"], "mean_flow": []}
    assert own["steps"] == [1, 2]
    assert own["seconds"] == usual["seconds"]


def test_what_was_measured_survives_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends a suite between two cases; the next call measures the rest."""
    calls = iter([None, None, Interrupted("Stopped.", 75)])

    def check() -> None:
        found = next(calls)
        if found:
            raise found

    wanted = ["flow_matching", "denoising"]
    monkeypatch.setattr(signals, "check", check)
    with pytest.raises(Interrupted):
        run_suite(suite(), tmp_path, wanted, report=silent)
    before = [row["key"]["objective"] for row in json.loads((tmp_path / "ground_truth.json").read_text())["rows"]]
    assert len(before) == 2
    monkeypatch.setattr(signals, "check", lambda: None)
    rest = Watched(suite())
    run_suite(rest, tmp_path, wanted, report=silent)
    assert [name for name, _ in rest.measured] == [name for name in wanted for _ in (0, 1) if name not in before]


def test_rows_outlive_options_that_are_younger(tmp_path: Path) -> None:
    """A row that was measured before a training had an option is that of the option's usual value, and of no other."""
    key, train = {"task": "a"}, {"name": "a", "train": {"samples": 8}}
    case, other = (Case(key, {"train": {**train, "train": {"samples": 8, "shard": shard}}}) for shard in (False, True))
    assert case.hash == Case(key, {"train": train}).hash != other.hash
    scored = Case(key, {"train": {**train, "evaluation": {"n": 50}}})
    assert scored.run("runs") == Case(key, {"train": train}).run("runs") != other.run("runs")
    run_suite(suite(), tmp_path, ["flow_matching"], report=silent)
    record = json.loads((tmp_path / "ground_truth.json").read_text())
    for row in record["rows"]:
        row["hash"] = "of another version"
    (tmp_path / "ground_truth.json").write_text(json.dumps(record))
    again = Watched(suite())
    run_suite(again, tmp_path, ["flow_matching"], report=silent)
    assert not again.measured
    (tmp_path / "ground_truth.json").write_text(json.dumps({**record, "protocol": "of another version"}))
    run_suite(again, tmp_path, ["flow_matching"], report=silent)
    assert json.loads((tmp_path / "ground_truth.json").read_text())["protocol"] == json.loads(
        json.dumps(again.protocol())
    )


def test_several_processes_measure_the_same(tmp_path: Path) -> None:
    """Two cases at a time give the numbers that one at a time gives."""
    one, two = (run_suite(suite(), tmp_path / str(workers), ["mean_flow"], workers, silent) for workers in (1, 2))
    assert [row.values["map_error"] for row in one] == [row.values["map_error"] for row in two]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_in_the_suite(name: str) -> None:
    """Each objective trains in it, is judged on what it learns, and draws samples; its network calls are counted."""
    tiny = suite(seeds=[0], updates=4)
    values = tiny.measure(next(case for case in tiny.cases() if case.key["objective"] == name))
    assert values["map_error"] > 0
    assert values["calls"] >= 1
    assert values["sw_1"] > 0
    assert (values["semigroup"] is None) == (values["over"] not in ("triangle", "lattice"))


def test_errors_of_the_truth_are_zero() -> None:
    """The errors that the suite reports are those of the map: none for the true one."""
    data = mixture(3)
    found = errors(ExactMap(data, build_path("linear", data.sigma_data)), MeanFlow(), data, 256)
    assert found["map_error"] < 1e-6
    assert found["semigroup"] < 1e-6


QUICK = {
    "experiment": "image/smoke", "seconds": 1.5, "probe": 10, "training_seeds": "[0,1]", "seeds": "[0]", "steps": "[2,4]",
}  # fmt: skip


def digits(cmm: Cmm, only: str, **changes: Any) -> list[dict[str, Any]]:
    """Runs a quick suite of digits, and returns all rows that its file holds."""
    words = [f"settings.{key}={value}" for key, value in {**QUICK, **changes}.items()]
    assert cmm("benchmark", "suite=digits", f"only={only}", *words, "out=results", "threads=1") == 0
    return json.loads(Path("results/digits.json").read_text())["rows"]


def test_digits_end_to_end(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """The digits suite trains for a time, scores, ranks, trains the best again, and shows it; a teacher comes first.

    Another time is another training, and never reads what the first one left.
    """
    rows = digits(cmm, "consistency_distillation", again=1)
    assert [tuple(row["key"].values()) for row in rows] == [("consistency_distillation", seed) for seed in (0, 1)]
    assert len({row["values"]["samples"] for row in rows}) == 1
    assert len(list(Path("runs/benchmark").glob("flow_matching-0-*/bundle"))) == 1
    assert "Fréchet distance" in capsys.readouterr().out
    longer = digits(cmm, "consistency_distillation", again=0, seconds=3.0)[2:]
    assert [row["values"]["samples"] > rows[0]["values"]["samples"] for row in longer] == [True]


def test_a_training_that_diverges_is_a_row(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """An objective that fails is shown as such, by itself and beside others, and is none of the best."""
    wild = {"overrides": "{shortcut:['optimizer.lr=1e30','optimizer.clip=1e30']}", "again": 1}
    rows = digits(cmm, "shortcut", **wild)
    assert [row["values"]["samples"] for row in rows] == [0]
    assert "| `shortcut` | - | 0 | failed | failed |" in capsys.readouterr().out
    assert len(digits(cmm, "[shortcut,flow_matching]", **wild)) == 3
    assert "| `shortcut` | - | 0 | failed | failed |" in capsys.readouterr().out


def test_solvers_end_to_end(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """Every chosen way has rows on both fields; more calls come closer to the flow, and a run's map makes its own jumps."""
    assert cmm("train", "experiment=image/smoke", "train.samples=1280", "name=mine") == 0
    quick = {"run": "runs/mine", "calls": "[1,5]", "map_calls": "[1,2]", "samples": 4, "n": 60, "reference_steps": 8}
    words = [f"settings.{key}={value}" for key, value in {**quick, "teach.updates": 5}.items()]
    chosen = ("euler", "heun", "unipc_2", "sde_dpm_solver", "map")
    assert cmm("benchmark", "suite=solvers", f"only=[{','.join(chosen)}]", *words, "out=results") == 0
    rows = json.loads(Path("results/solvers.json").read_text())["rows"]
    found = {tuple(row["key"].values()): row["values"] for row in rows}
    assert {(data, name) for data, name, _ in found} == {
        (data, name) for data in ("mixture", "digits") for name in chosen
    }
    assert [found["mixture", "heun", steps]["calls"] for steps in (1, 3)] == [1, 5]
    assert found["mixture", "euler", 1]["error"] > found["mixture", "euler", 5]["error"] > 0
    assert found["mixture", "sde_dpm_solver", 5]["error"] is None
    assert found["digits", "map", 2].keys() == {"calls", "error", "accuracy", "frechet"}
    shown = capsys.readouterr().out
    assert "**mixture: error / sigma_data**" in shown
    assert "| **the learned map** |" in shown
    assert Path("results/solvers.png").stat().st_size > 10_000


def test_every_solver_is_in_the_suite() -> None:
    """The suite's own settings name each of them."""
    assert {method["name"] for method in suite_settings("solvers")["methods"].values()} == set(SOLVERS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("suite=ground_thruth",), "did you mean 'ground_truth'"), ((), "no suite 'None'"),
        (("suite=ground_truth", "only=[meanflow]"), "did you mean 'mean_flow'"),
        (("suite=ground_truth", "settings.update=3"), "did you mean 'updates'"),
        (("suite=ground_truth", "workers=0"), "workers=0 is not possible"),
        (("suite=ground_truth", "threads=-1"), "threads=-1 is not possible"),
        (("suite=ground_truth", "settings.updates=0"), "updates"),
        (("suite=solvers", "settings.run=runs/none"), "runs/none"),
        (("suite=solvers", "settings.methods=null"), "group of solvers"), (("suite=solvers", "settings.n=0"), "at least 1"),
        (("suite=solvers", "settings.methods.map={name:ddim}"), "'map' is none of them"),
        (("suite=digits", "only=5"), "only=5 is not possible"), (("suite=digits", "settings=5"), "settings"),
        (("suite=digits", "settings.steps.a=1"), "settings"),
        (("suite=digits", "settings.overrides.shortcut=5"), "a list of"),
        (("suite=digits", "settings.remarks.shortct=x"), "did you mean 'shortcut'"),
        (("suite=digits", "workers=2"), "to itself"), (("suite=digits", "settings.steps=[]"), "not empty"),
    ],
)  # fmt: skip
def test_wrong_words_get_sentences(
    cmm: Cmm, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    """Unknown suites, objectives and settings are answered with what there is."""
    assert cmm("benchmark", *words, "out=results") == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["[]", '{"rows": [{"key": {}, "hash": "", "values": {}, "commit": "", "hardware": "", "config": [1]}]}']
)
def test_results_that_are_no_results(tmp_path: Path, text: str) -> None:
    """A file in the place of the results is named, and not overwritten."""
    (tmp_path / "ground_truth.json").write_text(text)
    with pytest.raises(DataError, match="does not hold benchmark results"):
        run_suite(suite(), tmp_path, ["flow_matching"])
    assert (tmp_path / "ground_truth.json").read_text() == text
    assert set(SUITES) == {"ground_truth", "digits", "solvers", "worth", "smoke", "small", "gpu"}
