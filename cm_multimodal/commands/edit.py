r"""cmm edit: completes what is known of real samples, or walks between two generated ones."""

__all__ = ["run"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, nearest
from ..generation.editing import edit, interpolate, is_told
from ..generation.sampling import GAMMA, Plan, make_plan
from ..model import Model
from ..values import fits
from .evaluate import data_of
from .source import folder_of, load, unusual

USUAL = {"label": None, "gamma": GAMMA, "grid": None}


def run(config: Mapping[str, Any]) -> None:
    """Runs the command."""
    model, how = load(config), str(config["how"])
    known = ("interpolate", *model.bundle.modality.edits)
    if how not in known:
        raise UsageError(f"There is no how={how}; {nearest(how, known)}")
    rows = _walk(model, config) if how == "interpolate" else _completed(model, config)
    out = Path(config["out"]).expanduser() if config["out"] else _folder(config)
    out.mkdir(parents=True, exist_ok=True)
    last = rows["edited"]
    model.bundle.modality.write(last, [f"{i:06d}" for i in range(len(last))], out)
    print(f"{len(last)} samples: {model.bundle.modality.preview(rows, out / 'grid')}")
    if "real" in rows:
        close = model.bundle.modality.closeness(how, last, rows["real"])
        print("".join(f"{name}: {value:.3f}\n" for name, value in close.items()), end="")


def _plan(model: Model, config: Mapping[str, Any], sampler: str | None) -> Plan:
    keys = ("n", "steps", "seed", "label", "solver", "gamma", "grid")
    return make_plan(model.bundle, sampler=sampler, **{key: config[key] for key in keys})


def _completed(model: Model, config: Mapping[str, Any]) -> dict[str, Any]:
    measurement = model.bundle.modality.measurement(config["how"], config)
    sampler, card = config["sampler"], model.bundle.card
    if not is_told(card, measurement):
        if sampler is not None or config["solver"]["name"] is not None:
            raise UsageError(
                "This network was told no such parts of samples in training (net.known=true): jumps to clean data alone "
                "complete them, without sampler= and solver=."
            )
        sampler = "renoise" if "edge" in card.learned else None
    plan, given = _plan(model, config, sampler), model.bundle.modality.dataset(data_of(config)).test
    done = edit(model.bundle, plan, given, measurement, model.device)
    return {"known": done.known, "edited": done.raw, "real": given.raw[: plan.n]}


def _walk(model: Model, config: Mapping[str, Any]) -> dict[str, Any]:
    ends = config["between"]
    if not (isinstance(ends, list) and len(ends) == 2 and all(fits(end, int) and end >= 0 for end in ends)):
        raise UsageError(f"between={ends} is not possible; give the numbers of two samples: 'between=[0,10]'.")
    plan = _plan(model, config, config["sampler"])
    return {"edited": interpolate(model.bundle, plan, ends, model.device)}


def _folder(config: Mapping[str, Any]) -> Path:
    ends = str(config["between"]).strip("[]").replace(", ", "-")
    what = {"inpaint": Path(str(config["mask"])).stem, "enlarge": config["factor"], "interpolate": ends}
    words = (config["how"], what.get(config["how"]), config["solver"]["name"] or config["sampler"])
    name = "-".join(str(word) for word in words if word is not None)
    name += f"-steps{config['steps']}-seed{config['seed']}-n{config['n']}{unusual(config, USUAL)}"
    return folder_of(config) / "edited" / name
