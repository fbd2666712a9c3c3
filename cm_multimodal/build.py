r"""Building parts from configuration: names and numbers in, value objects out.

A mapping with a `name` becomes the class of that name among those its place allows, its other keys the constructor's
arguments; nothing is ever imported by a path that a configuration gives.
"""

__all__ = ["build_flow_map", "build_objective", "build_part"]

import inspect
import types
import typing

from collections.abc import Mapping
from torch import nn
from typing import Any

from . import curricula, derivatives, ema, guidance, losses, maps, times
from .errors import UsageError, nearest
from .objectives import OBJECTIVES, Objective, sources, targets
from .paths import PATHS, build_path
from .solvers import SOLVERS
from .values import check_values

MEASURES = {
    "log_normal": times.LogNormal, "log_student": times.LogStudent, "logit_normal": times.LogitNormal,
    "uniform": times.Uniform, "grid": times.Grid, "triangle": times.Triangle, "dyadic": times.Dyadic, "gaps": times.Gaps,
}  # fmt: skip
SOURCES = {
    "conditional": sources.Conditional, "model_diagonal": sources.ModelDiagonal, "teacher": sources.Teacher,
    "guided": guidance.Guided,
}  # fmt: skip
CURRICULA = {
    "easy": curricula.EasyCurriculum, "square_root": curricula.SquareRoot, "doubling": curricula.Doubling,
}  # fmt: skip
PARTS: dict[str, dict[str, Any]] = {
    "times": MEASURES,
    "measure": MEASURES,
    "diagonal": MEASURES,
    "metric": {"l2": losses.L2, "pseudo_huber": losses.PseudoHuber, "cross_entropy": losses.CrossEntropy},
    "weight": {"adaptive": losses.AdaptiveWeight, "learned": losses.LearnedLogVariance},
    "curriculum": CURRICULA,
    "target": {"online": targets.Online, "averaged": targets.Averaged},
    "solver": SOLVERS,
    "derivative": derivatives.DERIVATIVES,
    "source": SOURCES,
    "direction": SOURCES,
    "velocity": SOURCES,
    "ema": ema.DECAYS,
    "path": PATHS,
    "scaling": maps.SCALINGS,
    "objective": OBJECTIVES,
}


def build_part(place: str, config: Mapping[str, Any]) -> Any:
    """Builds what a mapping names, and what it holds.

    Arguments:
        place: The key that the mapping stands under, such as 'times' or 'metric'.
        config: A `name` and the constructor's arguments.

    Raises:
        UsageError: A name or an argument is unknown, or a value does not fit.
    """
    if not isinstance(config, Mapping):
        raise UsageError(f"{place}={config} is not possible; it is a name and its settings: {place}.name=...")
    arguments = dict(config)
    name = arguments.pop("name", None)
    kinds = PARTS[place]
    if not isinstance(name, str) or name not in kinds:
        raise UsageError(f"There is no {place} '{name}'; {nearest(str(name), kinds)}")
    known = {key: each.annotation for key, each in inspect.signature(kinds[name]).parameters.items()}
    for key, value in arguments.items():
        if key not in known:
            raise UsageError(f"The {place} '{name}' has no setting '{key}'; {nearest(key, known)}")
        if isinstance(value, Mapping) and key in PARTS:
            arguments[key] = build_part(key, value)
        if key in PARTS:
            _check_kind(key, value, arguments[key], f"{place} '{name}'", known[key])
        else:
            check_values(f"{place} {name}", {key: value}, known)
    try:
        return kinds[name](**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The {place} '{name}' cannot be made: {error}.") from error


def _check_kind(key: str, given: Any, part: object, where: str, annotation: Any) -> None:
    """Holds a part against the classes that an argument is annotated with, if it is."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(annotation) if union else (annotation,)
    if inspect.Parameter.empty in kinds or not all(isinstance(kind, type) for kind in kinds) or isinstance(part, kinds):
        return
    fitting = ", ".join(each for each, made in PARTS[key].items() if issubclass(made, kinds))
    if isinstance(given, Mapping):
        raise UsageError(f"The {key} '{given['name']}' does not fit the {where}, which takes: {fitting}.")
    raise UsageError(f"{key}={given} does not fit the {where}; it is chosen by {key}.name=, one of: {fitting}.")


def build_objective(config: Mapping[str, Any]) -> Objective:
    """Builds an objective; its `scaling` belongs to the map and is left out."""
    return build_part("objective", {key: value for key, value in config.items() if key != "scaling"})


def build_flow_map(
    net: nn.Module, path: str, scaling: str, sigma_data: float, learned: frozenset[str], precision: maps.Precision
) -> maps.FlowMap:
    """Builds a map around a network from the names of its path and scaling.

    Raises:
        UsageError: There is no such path or scaling, or the network is of another kind than they need.
    """
    part = build_part("scaling", {"name": scaling})
    if getattr(net, "names_clean", False) and not isinstance(part, maps.Endpoint):
        raise UsageError(
            f"objective.scaling={scaling} does not fit this network, which names clean states: it is endpoint."
        )
    if path == "decoding" and getattr(net, "vertices", None) is not None:
        raise UsageError("path=decoding is the clock of one-hot tokens, and these are embedded: path=linear.")
    return maps.FlowMap(net, build_path(path, sigma_data), part, sigma_data, learned, precision)
