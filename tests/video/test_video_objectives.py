r"""Every objective learns clips: a few updates, and two clips drawn from what it made (`make smoke`)."""

import numpy as np
import pytest

from cm_multimodal.cli import main
from cm_multimodal.objectives import OBJECTIVES
from collections.abc import Callable
from pathlib import Path

pytestmark = [pytest.mark.smoke, pytest.mark.slow]
TINY = (
    "modality=video", "data=moving_digits", "data.frames=3", "data.size=10", "data.count=64", "net.channels=8",
    "evaluation.features=frames", "train.samples=256", "train.batch=64", "train.threads=1", "train.preview_every=256",
)  # fmt: skip
TAUGHT = ("consistency_distillation", "continuous_distillation")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of clips that learned its diagonal, for those that need one."""
    runs = tmp_path_factory.mktemp("teacher")
    assert main(["train", *TINY, "objective=flow_matching", f"runs={runs}", "name=teacher"]) == 0
    return runs / "teacher"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_clips(name: str, teacher: Path, cmm: Callable[..., int]) -> None:
    """It trains, its preview is drawn, and two clips are written that are not one and the same."""
    taught = (f"objective.source.teacher={teacher}",) if name in TAUGHT else ()
    assert cmm("train", *TINY, f"objective={name}", *taught, "name=mine") == 0
    assert cmm("sample", "run=runs/mine", "steps=2", "n=2", "format=npz", "out=clips") == 0
    clips = np.load("clips/samples.npz")["x"]
    assert clips.shape == (2, 3, 10, 10, 1)
    assert (clips[0] != clips[1]).any()
