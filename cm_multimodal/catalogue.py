r"""Where configurations lie: light enough for `cmm --help`."""

__all__ = ["config_file", "config_folder", "experiments"]

from pathlib import Path


def config_folder() -> Path:
    """Returns the folder of configurations: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def config_file(verb: str) -> Path:
    """Returns the configuration of a verb; only `train` composes groups, which lie beside it."""
    return config_folder() / ("train.yaml" if verb == "train" else f"verb/{verb}.yaml")


def experiments() -> list[str]:
    """Returns the names of all experiments."""
    root = config_folder() / "experiment"
    return sorted(str(file.relative_to(root).with_suffix("")) for file in root.rglob("*.yaml"))
