r"""Configurations are data: each composes, each builds, each names what exists."""

import importlib
import pytest
import torch
import yaml

from cm_multimodal.build import PARTS, build_objective, build_part
from cm_multimodal.catalogue import config_folder, experiments
from cm_multimodal.config import compose
from cm_multimodal.errors import UsageError
from cm_multimodal.exact import ExactMap, Gaussian
from cm_multimodal.modality import TensorSpec
from cm_multimodal.objectives import OBJECTIVES
from cm_multimodal.paths import EDM
from cm_multimodal.solvers import SOLVERS
from cm_multimodal.training.parts import build_decays
from cm_multimodal.training.settings import TrainSettings


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_composes_and_builds(name: str) -> None:
    """Objective, averages, settings and network of each experiment can be made."""
    config = compose("train", [f"experiment={name}"])
    objective = build_objective(config["objective"])
    assert build_decays(config["ema"])
    assert TrainSettings(**config["train"]).samples > 0
    build_net = importlib.import_module(f"modalities.{config['modality']}.net").build_net
    assert build_net(config["net"], TensorSpec((1, 16, 16), 0.5, ("a", "b")), objective.two_times)


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_says_how_to_run_it(name: str) -> None:
    """The header of an experiment names its command, the hardware, the minutes and the result."""
    header = [
        line for line in (config_folder() / f"experiment/{name}.yaml").read_text().splitlines() if line.startswith("#")
    ]
    text = "\n".join(header)
    for word in ("command:", "hardware:", "minutes:", "result:"):
        assert word in text


def test_every_objective_has_a_configuration() -> None:
    """The registry of objectives and the folder of configurations name the same things."""
    files = {file.stem: yaml.safe_load(file.read_text()) for file in (config_folder() / "objective").glob("*.yaml")}
    assert set(OBJECTIVES) <= set(files)
    assert {"flow_matching", "easy_consistency", "mean_flow"} <= set(OBJECTIVES)
    for name in files:
        config = compose("train", [f"objective={name}"])["objective"]
        if config.get("source", {}).get("name") == "teacher":
            config["source"]["teacher"] = ExactMap(Gaussian(torch.zeros(2), torch.eye(2)), EDM())
        assert build_objective(config).learned


@pytest.mark.parametrize("group", ["path", "ema"])
def test_every_choice_of_a_group_builds(group: str) -> None:
    """Each path and each average can be chosen by its name."""
    for file in (config_folder() / group).glob("*.yaml"):
        config = compose("train", [f"{group}={file.stem}"])[group]
        assert config["name"] == file.stem
        assert build_decays(config) if group == "ema" else file.stem in PARTS["path"]


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_builds(name: str) -> None:
    """A name alone is enough."""
    assert build_part("solver", {"name": name}).needs(4) == {"diagonal"}


@pytest.mark.parametrize(
    ("place", "config", "says"),
    [
        ("metric", {"name": "huber"}, "did you mean 'pseudo_huber'"),
        ("metric", {"name": "pseudo_huber", "scal": 1}, "no setting 'scal'; did you mean 'scale'"),
        ("times", {"name": "triangle"}, "cannot be made"),
        ("derivative", {"name": "os.system"}, "There is no derivative 'os.system'"),
        ("objective", {"name": "builtins.open"}, "There is no objective"),
        ("ema", {}, "There is no ema 'None'"),
    ],
)
def test_parts_are_named_never_imported(place: str, config: dict[str, object], says: str) -> None:
    """Unknown names, settings and import paths are refused with a sentence."""
    with pytest.raises(UsageError, match=says):
        build_part(place, config)


def test_file_names_may_hold_any_character() -> None:
    """Spaces, brackets, quotes, equals signs and percent signs survive the way through the override grammar."""
    for name in ("a b", "x=[1,2]", "it's 100%", "päth/ü", "{a}", "a,b", "$HOME", "back\\slash"):
        assert compose("sample", [f"run={name}"])["run"] == name
