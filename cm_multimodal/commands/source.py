r"""Finding what a verb works on: a run's newest checkpoint, or a bundle."""

__all__ = ["decoder_of", "folder_of", "load"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..machine import set_threads
from ..model import Model


def folder_of(config: Mapping[str, Any]) -> Path:
    """Returns the folder of the run or bundle that was named."""
    given = [config[key] for key in ("run", "bundle") if config.get(key) is not None]
    if len(given) != 1:
        raise UsageError("Say what to work on: run=runs/NAME or bundle=FOLDER.")
    return Path(str(given[0])).expanduser()


def decoder_of(config: Mapping[str, Any]) -> str | None:
    """Returns the name of the decoder that was named, a bundle's with that of its run."""
    if config["decoder"] is None:
        return None
    path = Path(str(config["decoder"])).expanduser().resolve()
    return f"{path.parent.name}-{path.name}" if path.name == "bundle" else path.name


def load(config: Mapping[str, Any]) -> Model:
    """Loads the run or bundle that was named, on the device that was named."""
    set_threads(config["threads"])
    model = Model.load(folder_of(config), config["device"])
    if config.get("decoder") is None:
        return model
    return model.decoded_by(Model.load(Path(str(config["decoder"])).expanduser(), config["device"]))
