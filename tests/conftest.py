r"""What all tests share: the toy modality, real data where it lies, one thread count."""

import pytest
import torch

from cm_multimodal.cli import main
from cm_multimodal.modality import register_modality
from collections.abc import Callable
from pathlib import Path
from toy.points import Points
from toy.tokens import Tokens

TOY_CONFIGS = Path(__file__).parent / "toy" / "configs"

register_modality("toy_points", Points)
register_modality("toy_tokens", Tokens)


@pytest.fixture
def cmm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the program in an empty folder, with the toy experiments known."""
    monkeypatch.chdir(tmp_path)

    def run(verb: str, *words: str) -> int:
        known = (f"hydra.searchpath=[file://{TOY_CONFIGS}]",) if verb == "train" else ()
        return main([verb, *known, *words])

    return run


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)
