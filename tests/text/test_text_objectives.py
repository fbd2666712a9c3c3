r"""Every objective learns texts: a few updates on embedded tokens, and a text drawn from what it made (`make smoke`)."""

import pytest

from cm_multimodal.cli import main
from cm_multimodal.objectives import OBJECTIVES
from collections.abc import Callable
from pathlib import Path

TINY = (
    "modality=text", "data=grammar", "data.embedding=8", "data.limit=64", "net.channels=16", "net.blocks=1",
    "evaluation.features=ngrams", "train.samples=256", "train.batch=64", "train.threads=1", "train.preview_every=256",
)  # fmt: skip
TAUGHT = ("consistency_distillation", "continuous_distillation")
WITHOUT = {
    "lagrangian_self_distillation",
    "terminal_velocity",
}  # they need the velocity at clean data, which no end point tells


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of texts that learned its diagonal, for those that need one."""
    runs = tmp_path_factory.mktemp("teacher")
    words = ("objective=flow_matching", "objective.scaling=endpoint", f"runs={runs}", "name=teacher")
    assert main(["train", *TINY, *words]) == 0
    return runs / "teacher"


@pytest.mark.smoke
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - WITHOUT))
def test_every_objective_learns_texts(name: str, teacher: Path, cmm: Callable[..., int]) -> None:
    """It trains, its preview is drawn, and two texts are written."""
    taught = (f"objective.source.teacher={teacher}",) if name in TAUGHT else ()
    assert cmm("train", *TINY, f"objective={name}", "objective.scaling=endpoint", *taught, "name=mine") == 0
    assert list(Path("runs/mine/samples").glob("preview-*.txt"))
    assert cmm("sample", "run=runs/mine", "steps=2", "n=2", "out=texts") == 0
    assert len(list(Path("texts").glob("0*.txt"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_objectives_that_texts_cannot_have(
    name: str, cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """They say so before anything is trained."""
    assert cmm("train", *TINY, f"objective={name}", "objective.scaling=endpoint", "name=mine") == 2
    assert "needs the velocity at clean data" in capsys.readouterr().err


def test_a_network_of_probabilities_names_clean_states(
    cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Under another scaling what it says would be taken for a velocity: a sentence says what to type."""
    assert cmm("train", *TINY, "objective=mean_flow", "name=mine") == 2
    assert "objective.scaling=euler does not fit this network, which names clean states" in capsys.readouterr().err
