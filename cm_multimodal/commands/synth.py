r"""cmm synth: turns a run or a bundle into a data set that other models are trained on."""

__all__ = ["run"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..clock import minutes
from ..errors import UsageError
from ..synthesis.making import synthesize
from ..synthesis.order import Order
from ..synthesis.record import SetFolder
from ..synthesis.share import find_share
from ..values import fits
from .evaluate import data_of, labels_of
from .source import folder_of

HOW = ("steps", "seed", "sampler", "solver", "gamma", "guidance", "interval", "grid", "path")
SAME = (
    "n", "label", "seconds", "format", "kind", "shard", "chunk", "confidence", "perception", "report", "device", "threads",
)  # fmt: skip


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    if config["out"] is None:
        raise UsageError("Say where the data set is to lie: out=data/synth.")
    for name in ("batch", "processes"):
        value = config[name]
        if not ((fits(value, int) and value >= 1) or (value is None and name == "processes")):
            raise UsageError(f"{name}={value} is not possible; it is a whole number from 1.")
    out = Path(config["out"]).expanduser()
    how = (config["batch"], config["processes"], find_share(config["share"]), config["launcher"])
    for progress in synthesize(_order(config), out, *how):
        print(
            f"{progress.done:>9,}/{progress.total:,} samples  {progress.samples_per_s:,.0f} samples/s  "
            f"{minutes(progress.seconds_left)} left",
            flush=True,
        )
    print(_sentence(SetFolder(out)))


def _order(config: Mapping[str, Any]) -> Order:
    decoder = None if config["decoder"] is None else str(Path(str(config["decoder"])).expanduser())
    how = {key: config[key] for key in HOW}
    same = {key: config[key] for key in SAME}
    source, data, labels = str(folder_of(config)), data_of(config), labels_of(config)
    return Order(source, how=how, decoder=decoder, data=data, labels=labels, **same)


def _sentence(folder: SetFolder) -> str:
    if not folder.sums.exists():
        return f"{folder.folder}: this part is done; the set is not whole yet."
    return f"{folder.folder}: the set is whole, see {folder.folder / 'README.md'}; cmm verify out={folder.folder} checks it."
