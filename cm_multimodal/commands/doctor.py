r"""cmm doctor: says what this machine can do, in sentences."""

__all__ = ["run"]

import importlib.metadata
import torch

from collections.abc import Iterator, Mapping
from typing import Any

from ..derivatives import DERIVATIVES, self_test
from ..listing import data_root
from ..machine import describe_machine

PACKAGES = ("torch", "torchaudio", "lightning", "hydra-core", "einops", "sentencepiece", "librosa", "torchmetrics")


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    for line in findings(config["data"]["root"]):
        print(line)


def findings(root: str | None) -> Iterator[str]:
    """Yields sentences on the machine."""
    facts = describe_machine()
    yield f"Python {facts['python']} on {facts['system']}."
    yield f"{facts['processor']}: {facts['cores']} cores free."
    yield "GPU: " + (", ".join(facts["gpus"]) if facts["gpus"] else "none; training runs on the CPU.")
    yield f"bf16 in hardware: {'yes; precision=auto uses it' if facts['bf16'] else 'no; training is in float32'}."
    yield "Packages: " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES) + "."
    yield from _derivatives()
    folder = data_root(root)
    held = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else ""
    yield f"Data: '{folder}' {f'holds {held}' if held else 'holds nothing; set data.root= or CMM_DATA'}."


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "is missing"


def _derivatives() -> Iterator[str]:
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)
    s = torch.linspace(0.2, 0.8, 4, dtype=torch.float64)
    for name, kind in DERIVATIVES.items():
        try:
            error = self_test(kind(), lambda a, b: torch.tanh(a * b[:, None]), x, s, x.cos())
            yield f"Derivative {name}: works, {error:.1e} from a finite difference."
        except (ValueError, RuntimeError) as error:
            yield f"Derivative {name}: does not work here ({error})."
