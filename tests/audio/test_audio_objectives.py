r"""Every objective learns sounds: a few updates on waveforms, and a clip drawn from what it made (`make smoke`)."""

import pytest
import soundfile

from cm_multimodal.cli import main
from cm_multimodal.objectives import OBJECTIVES
from collections.abc import Callable
from pathlib import Path

pytestmark = [pytest.mark.smoke, pytest.mark.slow]
TINY = (
    "modality=audio", "data=strings", "data.length=1024", "data.limit=48", "data.representation={name: patches, patch: 32}",
    "net.channels=8", "net.patch=1", "evaluation.features=bands", "train.samples=256", "train.batch=64", "train.threads=1",
    "train.preview_every=256",
)  # fmt: skip
TAUGHT = ("consistency_distillation", "continuous_distillation")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of sounds that learned its diagonal, for those that need one."""
    runs = tmp_path_factory.mktemp("teacher")
    assert main(["train", *TINY, "objective=flow_matching", f"runs={runs}", "name=teacher"]) == 0
    return runs / "teacher"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_sounds(name: str, teacher: Path, cmm: Callable[..., int]) -> None:
    """It trains, its preview is drawn, and two clips are written: none of them silent, none of them without a number."""
    taught = (
        (f"objective.source.teacher={teacher}",)
        if name in ("consistency_distillation", "continuous_distillation")
        else ()
    )
    assert cmm("train", *TINY, f"objective={name}", *taught, "name=mine") == 0
    assert cmm("sample", "run=runs/mine", "steps=2", "n=2", "out=clips") == 0
    files = sorted(Path("clips").glob("0*.wav"))
    assert len(files) == 2
    for file in files:
        sound, rate = soundfile.read(file)
        assert (len(sound), rate) == (1024, 8000)
        assert sound.any()
