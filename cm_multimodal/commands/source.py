r"""Finding what a verb works on: a run's newest checkpoint, or a bundle."""

__all__ = ["decoder_of", "folder_of", "load", "unusual"]

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


def unusual(config: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Returns what the name of a folder of samples ends in: the solver's options, and those that are not as usual."""
    options = {key: value for key, value in config["solver"].items() if key != "name"}
    options |= {key: config[key] for key, value in usual.items() if config[key] != value}
    return "".join(f"-{key}{_word(value)}" for key, value in options.items())


def _word(value: object) -> str:
    """Returns a value as it stands in the name of a folder: a file by its own name, several by their items."""
    items = [f"{key}-{part}" for key, part in value.items()] if isinstance(value, dict) else value
    items = items if isinstance(items, list) else [items]
    return "-".join(Path(str(item)).stem if str(item).endswith(".json") else str(item) for item in items)


def load(config: Mapping[str, Any]) -> Model:
    """Loads the run or bundle that was named, on the device that was named."""
    set_threads(config["threads"])
    model = Model.load(folder_of(config), config["device"])
    if config.get("decoder") is None:
        return model
    return model.decoded_by(Model.load(Path(str(config["decoder"])).expanduser(), config["device"]))
