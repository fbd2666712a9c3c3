r"""Configuration: YAML names things, a command line overrides them, and the result is plain data.

Overrides follow Hydra's grammar (`group=choice`, `key=value`, `key=[1,2]`); what names a file or folder may hold any
character.
"""

__all__ = ["OPEN", "compose", "suite_settings"]

import contextlib
import re
import yaml

from collections.abc import Iterator, Mapping, Sequence
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from typing import Any

from .catalogue import config_file, config_folder
from .errors import UsageError, nearest

OPEN = (
    "net.",
    "data.",
    "train.augment.",
    "settings.",
    "solver.",
)  # what these hold depends on the modality, which checks it itself
NAMED = ("solver",)  # outside of training, where it is no group: solver=ddim is solver.name=ddim
PATHS = (
    "run",
    "bundle",
    "out",
    "name",
    "runs",
    "resume",
    "label",
    "mask",
    "decoder",
    "data.folder",
    "data.root",
    "data.path",
)


def compose(verb: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the configuration of a verb with overrides applied, as plain data.

    Raises:
        UsageError: An override names nothing known, or cannot be parsed.
    """
    words = [_quoted(_named(word) if verb != "train" else word) for word in overrides]
    with _hydra(verb):
        try:
            config = hydra_compose(verb, words)
            plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            return plain | {key: str(plain[key]) for key in PATHS if not _absent_or_several(key, plain.get(key))}
        except MissingConfigException as error:
            raise UsageError(_missing(error)) from error
        except OverrideParseException as error:
            raise UsageError(f"'{error.override}' is not of the form key=value.") from error
        except (ConfigCompositionException, OmegaConfBaseException, HydraException) as error:
            raise UsageError(_unknown(verb, error)) from error


def suite_settings(name: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the settings of a benchmark suite (configs/benchmark), with some of a person's own in their place.

    Raises:
        UsageError: What a person gave is no mapping, or of another form than what it replaces.
    """
    usual = OmegaConf.load(config_folder() / f"benchmark/{name}.yaml")
    if not isinstance(own or {}, Mapping):
        raise UsageError(f"settings={own} is not possible; set settings.KEY=VALUE instead.")
    try:
        plain: Any = OmegaConf.to_container(OmegaConf.merge(usual, own or {}), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"The settings do not fit those of suite={name}: {str(error).splitlines()[0]}") from error
    return plain


@contextlib.contextmanager
def _hydra(verb: str) -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_file(verb).parent.resolve()), version_base="1.3"):
        yield


def _named(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{key}.name={value}" if equals and key in NAMED else word


def _quoted(word: str) -> str:
    """Prepares an override: names of files and folders may hold any character, and open groups any key."""
    key, equals, value = word.partition("=")
    name = key.lstrip("+~")
    several = name == "label" and re.fullmatch(r"\[.*\]|\{.*\}", value)
    plain = value in ("", "null") or several or re.fullmatch(r"[\w./+-]+", value, re.ASCII)
    if name in PATHS and equals and not plain:
        escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value.strip("'\""))
        word = f"{key}='{escaped}'"
    return f"++{word}" if key.startswith(OPEN) else word


def _absent_or_several(key: str, value: object) -> bool:
    return value is None or (key == "label" and isinstance(value, list | dict))


def _missing(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").partition("/")
    root = config_folder() / group
    known = sorted(str(file.relative_to(root).with_suffix("")) for file in root.rglob("*.yaml"))
    return f"There is no {group} '{choice}'; {nearest(choice, known)}"


def _unknown(verb: str, error: Exception) -> str:
    cause: BaseException = error.__cause__ or error
    text = str(error)
    found = re.search(r"[Cc]ould not override '([^']+)'", text)
    if found is None:
        found = re.search(r"Key '([^']+)' (?:is )?not in", f"{text} {cause}")
    if found is None:
        return text.splitlines()[0]
    return f"There is no option '{found[1]}' of cmm {verb}; {nearest(found[1], _keys(verb))}"


def _keys(verb: str) -> list[str]:
    """Returns every key that a verb's configuration can hold, dotted."""
    groups = (
        {
            folder.name: folder
            for folder in config_folder().iterdir()
            if folder.is_dir() and folder.name not in ("verb", "benchmark")
        }
        if verb == "train"
        else {}
    )
    keys = set(groups) | _dotted(yaml.safe_load(config_file(verb).read_text()))
    for name, folder in groups.items():
        for file in folder.glob("*.yaml"):
            keys |= {f"{name}.{key}" for key in _dotted(yaml.safe_load(file.read_text()))}
    return sorted(keys - {"defaults"})


def _dotted(config: dict[str, Any], prefix: str = "") -> set[str]:
    keys = set()
    for key, value in config.items():
        keys.add(f"{prefix}{key}")
        if isinstance(value, dict):
            keys |= _dotted(value, f"{prefix}{key}.")
    return keys
