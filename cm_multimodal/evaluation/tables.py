r"""What suites share: names that are checked, and numbers over seeds."""

__all__ = ["grouped", "known_objectives", "markdown", "mean_and_spread", "notes", "spread_of", "wanted_names"]

import statistics

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import UsageError, nearest
from ..objectives import OBJECTIVES
from .benchmark import Row


def wanted_names(wanted: Sequence[str] | str | None, kind: str, known: Sequence[str]) -> list[str]:
    """Returns the names of a kind that were given, one or a list, or all that are known.

    Raises:
        UsageError: One of them is unknown.
    """
    names = [wanted] if isinstance(wanted, str) else wanted
    if names is None:
        return list(known)
    if not isinstance(names, list) or not names:
        raise UsageError(f"only={wanted} is not possible; give names: 'only=[{known[0]},{known[1]}]'.")
    _check_names("only", names, kind, known)
    return names


def known_objectives(key: str, names: Collection[str]) -> None:
    """Raises a UsageError if one of the names that stand under a key is not that of an objective."""
    _check_names(key, names, "objective", OBJECTIVES)


def _check_names(key: str, names: Collection[str], kind: str, known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"There is no {kind} '{name}' ({key}); {nearest(str(name), known)}")


def grouped(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Groups rows that differ by their other keys only, in the order they came."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.key[name] for name in names), []).append(row)
    return groups


def mean_and_spread(rows: Sequence[Row], name: str, digits: int = 3) -> str:
    """Returns the mean and half the range of a value over rows, or a dash where it was not measured."""
    values = [row.values[name] for row in rows if row.values.get(name) is not None]
    return spread_of(values, f".{digits}f") if values else "-"


def spread_of(values: Sequence[float], form: str = ".3f") -> str:
    """Returns the mean of numbers, in a format, and half their range, if they are several."""
    spread = f" ± {format((max(values) - min(values)) / 2, form.lstrip('+'))}" if len(values) > 1 else ""
    return f"{format(statistics.fmean(values), form)}{spread}"


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], words: int = 2) -> str:
    """Returns a table in Markdown; all columns but the first ones, which are words, are flush right."""
    lines = [head, ["---" if i < words else "--:" for i in range(len(head))], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def notes(values: Mapping[str, str]) -> str:
    """Returns remarks on rows as a list in Markdown."""
    return "\n".join(f"* `{name}`: {text}" for name, text in values.items())
