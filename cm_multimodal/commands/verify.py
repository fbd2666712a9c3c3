r"""cmm verify: finds every file of a synthetic data set that is missing, changed or truncated."""

__all__ = ["run"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from ..synthesis.verify import verify


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    if config["out"] is None:
        raise UsageError("Say which data set: out=data/synth.")
    out = Path(config["out"]).expanduser()
    count = 0
    for fault in verify(out):
        count += 1
        print(f"{fault.file}: {fault.what}", flush=True)
    if count:
        raise DataError(
            f"{count:,} faults in '{out}'. The command that made the set, typed again, makes missing and truncated files "
            "anew; remove changed ones first."
        )
    print(f"{out}: every file is as it was written.")
