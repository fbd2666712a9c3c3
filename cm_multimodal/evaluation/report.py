r"""Tables, plots and files of an evaluation."""

__all__ = ["Summary", "summaries", "tables", "write_report"]

import dataclasses
import json
import statistics

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pathlib import Path
from rich.table import Table

from ..files import write_text
from .protocol import Protocol
from .runner import Row

SCORES = {"accuracy": "accuracy score", "frechet": "Fréchet", "precision": "precision", "recall": "recall"}
COLUMNS = 4  # of measures, side by side
DIGITS = {"accuracy": 4, "frechet": 3, "precision": 3, "recall": 3}


@dataclass(frozen=True)
class Summary:
    """Rows that differ by the seed only: the mean and the spread (half the range) of each score."""

    method: str
    steps: int
    calls: int
    means: dict[str, float]
    spreads: dict[str, float]


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Groups rows by method and steps, in the order they came."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.steps, row.calls), []).append(row)
    return [Summary(*key, *_moments(group)) for key, group in groups.items()]


def tables(rows: Sequence[Row], protocol: Protocol) -> list[Table]:
    """Returns the tables that a terminal shows: the usual scores, and what `evaluation.also` asks for."""
    title = f"{protocol.objective}, {protocol.samples_seen:,} samples seen"
    usual = _table(rows, SCORES, Table(title=title, caption=_caption(protocol)))
    also = _also(rows)
    parts = [also[start : start + COLUMNS] for start in range(0, len(also), COLUMNS)]
    return [usual, *(_table(rows, {name: name for name in part}, Table()) for part in parts)]


def _also(rows: Sequence[Row]) -> list[str]:
    """Returns the names of all scores that were asked for besides the usual ones, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.also))


def _caption(protocol: Protocol) -> str:
    caption = (
        f"{protocol.n} samples, seeds {list(protocol.seeds)}, mean ± half the range; reference: {protocol.reference}; "
        f"features: {protocol.features}; k = {protocol.k}; classifier: {protocol.classifier}"
    )
    if protocol.guidance != 1:
        between = "" if protocol.interval is None else f" for noise ratios in {list(protocol.interval)}"
        caption += f"; guidance {protocol.guidance:g}{between}"
    if protocol.solver != {"name": "euler"}:
        caption += f"; diagonal by {', '.join(str(value) for value in protocol.solver.values())}"
    if protocol.sampler is not None:
        caption += f"; map by {protocol.sampler}{'' if protocol.gamma is None else f' {protocol.gamma:g}'}"
    if protocol.decoder is not None:
        caption += f"; decoded by {protocol.decoder}, whose calls are not counted"
    if protocol.grid is not None:
        caption += f"; grid {protocol.grid if isinstance(protocol.grid, str) else list(protocol.grid)}"
    if protocol.judge:
        caption += f"; judge {protocol.judge}, fitted to the training split"
    for name, digest in protocol.judges.items():
        caption += f"; language model {name}, {digest}"
    return "\n".join([caption, *protocol.warnings()])


def _table(rows: Sequence[Row], names: Mapping[str, str], shown: Table) -> Table:
    for name in ("method", "steps", "calls", *names.values()):
        shown.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for summary in summaries(rows):
        numbers = [str(number) if summary.steps else "" for number in (summary.steps, summary.calls)]
        shown.add_row(summary.method, *numbers, *(_cell(summary, name) for name in names))
    return shown


def write_report(protocol: Protocol, rows: Sequence[Row], folder: Path) -> None:
    """Writes `metrics.json` and `quality.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"protocol": protocol.to_dict(), "rows": [dataclasses.asdict(row) for row in rows]}
    write_text(folder / "metrics.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    _plot(rows).savefig(folder / "quality.png", dpi=120)


def _plot(rows: Sequence[Row]) -> Figure:
    found = summaries(rows)
    names = [name for name in ("accuracy", "frechet", *_also(rows)) if any(name in summary.means for summary in found)]
    down = -(-len(names) // COLUMNS)
    across = -(-len(names) // down)
    figure = Figure(figsize=(4.4 * across, 3.4 * down), layout="constrained")
    for index, name in enumerate(names):
        title = SCORES.get(name, name)
        axes = figure.add_subplot(down, across, index + 1, xscale="log", xlabel="network calls", ylabel=title)
        _draw(axes, [summary for summary in found if name in summary.means], name)
        calls = sorted({row.calls for row in rows if row.steps})
        axes.set_xticks(calls, [str(count) for count in calls])
        axes.minorticks_off()
        axes.legend()
        axes.grid(alpha=0.3)
    return figure


def _draw(axes: Axes, found: Sequence[Summary], name: str) -> None:
    """Draws a score by network calls, a line a method; what takes none is a level."""
    for method in dict.fromkeys(summary.method for summary in found):
        chosen = [summary for summary in found if summary.method == method]
        if not chosen[0].steps:
            style = "-" if method == "real" else ":"
            axes.axhline(chosen[0].means[name], color="grey", linestyle=style, label=method)
            continue
        values, spreads = ([getattr(each, part)[name] for each in chosen] for part in ("means", "spreads"))
        axes.errorbar([each.calls for each in chosen], values, spreads, marker="o", capsize=3, label=method)


def _moments(rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, float]]:
    values = {name: [getattr(row, name) for row in rows] for name in SCORES if getattr(rows[0], name) is not None}
    common = [name for name in rows[0].also if all(name in row.also for row in rows)]
    values |= {name: [row.also[name] for row in rows] for name in common}
    means = {name: statistics.fmean(each) for name, each in values.items()}
    return means, {name: (max(each) - min(each)) / 2 for name, each in values.items()}


def _cell(summary: Summary, name: str) -> str:
    if name not in summary.means:
        return "-"
    mean, digits = summary.means[name], DIGITS.get(name, 3)
    spread = "" if not summary.steps else f" ± {summary.spreads[name]:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"
