r"""cmm sample: draws samples from a run or a bundle."""

__all__ = ["run"]

import time

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, nearest
from ..generation.sampling import GAMMA, Samples
from ..model import Model
from ..synthesis.formats.base import write_npz
from ..values import fits
from .source import decoder_of, folder_of, load, unusual

FORMATS = ("files", "npz")
USUAL = {
    "label": None, "seconds": None, "gamma": GAMMA, "guidance": 1.0, "interval": None, "grid": None, "path": None,
    "decoder": None,
}  # fmt: skip
HOW = ("sampler", "solver", "gamma", "guidance", "interval", "grid", "path")


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    if config["format"] not in FORMATS:
        raise UsageError(f"There is no format '{config['format']}'; {nearest(str(config['format']), FORMATS)}")
    model = load(config)
    if config["seconds"] is not None:
        if not fits(config["seconds"], float):
            raise UsageError(f"seconds={config['seconds']} is no number of seconds.")
        model = model.lasting(float(config["seconds"]))
    how = {key: config[key] for key in HOW}
    begin = time.perf_counter()
    samples = model.sample(config["n"], config["steps"], config["seed"], config["label"], **how)
    seconds, lasts = time.perf_counter() - begin, model.bundle.modality.duration()
    out = Path(config["out"]).expanduser() if config["out"] else _folder(config)
    out.mkdir(parents=True, exist_ok=True)
    written = _npz(model, samples, config["seed"], out) if config["format"] == "npz" else _files(model, samples, out)
    print(f"{config['n']} samples at {samples.calls} network calls each: {written}")
    if lasts:
        print(f"drawn in {seconds:.2f} s, {seconds / (config['n'] * lasts):.3f} of the time that they last")


def _folder(config: Mapping[str, Any]) -> Path:
    config = {**config, "decoder": decoder_of(config)}
    method, more = config["solver"]["name"] or config["sampler"] or "map", unusual(config, USUAL)
    return folder_of(config) / "samples" / f"{method}-steps{config['steps']}-seed{config['seed']}-n{config['n']}{more}"


def _files(model: Model, samples: Samples, out: Path) -> Path:
    modality = model.bundle.modality
    modality.write(samples.raw, [f"{i:06d}" for i in samples.sample_id.tolist()], out)
    columns = 16 if len(samples.raw) > 64 else 8
    rows = {
        f"{i * columns}": samples.raw[i * columns : (i + 1) * columns] for i in range(-(-len(samples.raw) // columns))
    }
    return modality.preview(dict(list(rows.items())[:16]), out / "grid")


def _npz(model: Model, samples: Samples, seed: int, out: Path) -> Path:
    file = out / "samples.npz"
    write_npz(model.bundle.modality.arrays(samples.raw), samples, seed, file)
    return file
