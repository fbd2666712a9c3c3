r"""Every objective learns every modality: a few updates, and two samples drawn from what it made (`make smoke`)."""

import numpy as np
import pytest

from cm_multimodal.cli import main
from cm_multimodal.objectives import OBJECTIVES
from collections.abc import Callable
from pathlib import Path

TINY = {
    "audio": (
        "modality=audio", "data=strings", "data.length=1024", "data.limit=48", "net.channels=8", "net.patch=1",
        "data.representation={name: patches, patch: 32}", "evaluation.features=bands",
    ),
    "text": (
        "modality=text", "data=grammar", "data.embedding=8", "data.limit=64", "net.channels=16", "net.blocks=1",
        "evaluation.features=ngrams", "objective.scaling=endpoint",
    ),
    "video": (
        "modality=video", "data=moving_digits", "data.frames=3", "data.size=10", "data.count=64", "net.channels=8",
        "evaluation.features=frames",
    ),
}  # fmt: skip
BRIEF = ("train.samples=256", "train.batch=64", "train.threads=1", "train.preview_every=256")
TAUGHT = ("consistency_distillation", "continuous_distillation")
WITHOUT = (
    "lagrangian_self_distillation",
    "terminal_velocity",
)  # of texts: the velocity at clean data no end point tells
PAIRS = [(kind, name) for kind in TINY for name in OBJECTIVES if kind != "text" or name not in WITHOUT]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a map of each modality that learned its diagonal, for objectives that need one."""
    runs = tmp_path_factory.mktemp("teachers")

    def teacher(kind: str) -> Path:
        words = (*TINY[kind], *BRIEF, "objective=flow_matching", f"runs={runs}", f"name={kind}")
        assert (runs / kind).exists() or main(["train", *words]) == 0
        return runs / kind

    return teacher


@pytest.mark.smoke
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_every_objective_learns_every_modality(
    kind: str, name: str, teachers: Callable[[str], Path], cmm: Callable[..., int]
) -> None:
    """It trains, its preview is drawn, and two samples are written that are numbers, and not one and the same."""
    taught = (f"objective.source.teacher={teachers(kind)}",) if name in TAUGHT else ()
    assert cmm("train", *TINY[kind], *BRIEF, f"objective={name}", *taught, "name=mine") == 0
    assert list(Path("runs/mine/samples").glob("preview-*"))
    assert cmm("sample", "run=runs/mine", "steps=2", "n=2", "format=npz", "out=samples") == 0
    one, other = np.load("samples/samples.npz")["x"]
    assert np.any(one != other)
    assert kind == "text" or (np.isfinite(one).all() and one.any())


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT)
def test_objectives_that_texts_cannot_have(
    name: str, cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """They say so before anything is trained."""
    assert cmm("train", *TINY["text"], *BRIEF, f"objective={name}", "name=mine") == 2
    assert "needs the velocity at clean data" in capsys.readouterr().err


def test_a_network_of_probabilities_names_clean_states(
    cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Under another scaling what it says would be taken for a velocity: a sentence says what to type."""
    assert cmm("train", *TINY["text"], *BRIEF, "objective=mean_flow", "objective.scaling=euler", "name=mine") == 2
    assert "objective.scaling=euler does not fit this network, which names clean states" in capsys.readouterr().err
