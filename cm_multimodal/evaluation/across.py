r"""The same protocol over all modalities: what few network calls cost, and what they save.

For each entry (a modality's experiment) these rows, in the same columns:

    map      the learned map in a few calls
    flow     flow matching, the same network trained for as many samples on the diagonal alone, by the solver of several that
             comes nearest to the real samples in that many calls
    real     held-out real data: the ceiling
    mean     normal noise around each class's mean, and
    memory   training samples once more: the floors. A memoriser has perfect scores but one, which must show it.

Headline: *quality retained*, the map's score in one, two and four calls over the best of the flow's in any number of calls;
and by how much faster it draws, in calls and in seconds, and after how many samples that has paid for the longer training.
Runs that are finished are used again while their configuration is the same. A row belongs to a table only while its case,
with all that it depends on, is the suite's own, and rows of another device, processor or number of threads have a table of
their own; so results of different protocols never stand side by side.
"""

__all__ = ["Across", "Entry", "Settings"]

import copy
import dataclasses
import functools
import math
import statistics

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from pathlib import Path
from typing import Any

from ..build import build_part
from ..errors import UsageError
from ..model import Model
from ..training.records import RunRecord, training_seconds
from ..training.run import train
from ..training.settings import read_settings
from .benchmark import Case, Compose, Row, Suite
from .protocol import Protocol
from .reference import Reference, reference
from .runner import Row as Score
from .runner import baselines, evaluate, real_row
from .tables import grouped, markdown

MAP, FLOW, REAL, FLOORS = "map", "flow", "real", "floors"
ALSO = ("kernel", "diversity", "memorised", "seconds", "cpu_seconds", "memory")
COLUMNS = {
    "accuracy": 3, "frechet": 3, "kernel": 3, "precision": 3, "recall": 3, "diversity": 3, "memorised": 3, "seconds": 2,
    "cpu_seconds": 2, "memory": 0, "training_seconds": 0,
}  # fmt: skip
HEADLINE = (1, 2, 4)
ENOUGH = 0.95  # of the best score


@dataclass(frozen=True)
class Entry:
    """A modality's part of a suite.

    Arguments:
        experiment: The experiment.
        overrides: Options of `cmm train`.
        flow: Options that make flow matching of it.
        score: What quality is measured by: 'accuracy', or a measure of the modality's own; the more, the better.
        n: The number of samples.
        remark: What a reader must know, such as that the preset is reduced.
    """

    experiment: str
    overrides: tuple[str, ...] = ()
    flow: tuple[str, ...] = ("objective=flow_matching",)
    score: str = "accuracy"
    n: int = 500
    remark: str = ""


@dataclass(frozen=True)
class Settings:
    """The settings of the suite.

    Arguments:
        entries: The entries by name.
        steps: Numbers of jumps of the map.
        calls: Numbers of network calls of flow matching.
        solvers: The solvers that it is tried with.
        seeds: Sampling seeds.
        runs: The folder of the runs.
    """

    entries: Mapping[str, Any]
    steps: tuple[int, ...] = (1, 2, 4, 8)
    calls: tuple[int, ...] = (1, 2, 4, 8, 16, 50, 100)
    solvers: tuple[str, ...] = ("euler", "dpm_solver_pp")
    seeds: tuple[int, ...] = (0,)
    runs: str = "runs/benchmark"

    def __post_init__(self) -> None:
        if not all((self.entries, self.steps, self.calls, self.solvers, self.seeds)):
            raise UsageError("settings: entries, steps, calls, solvers and seeds are not empty.")
        for count in self.calls:
            if not self.solvers_of(count):
                raise UsageError(f"settings.calls: {count} is fewer than any of {', '.join(self.solvers)} can do with.")

    def solvers_of(self, calls: int) -> list[str]:
        """Returns the solvers that make steps of one call and can do with so few."""
        return [name for name in self.solvers if build_part("solver", {"name": name}).least_steps <= calls]


class Across(Suite):
    """A suite over modalities.

    Arguments:
        settings: Its settings.
        compose: The way to configurations.
    """

    kind = Settings
    alone = True
    kinds = "entry"

    def __init__(self, settings: Settings, compose: Compose) -> None:
        self.settings, self.compose = settings, functools.cache(lambda *words: compose("train", words))
        self.entries = {
            name: read_settings(Entry, entry, f"settings.entries.{name}") for name, entry in settings.entries.items()
        }
        self._ground = functools.lru_cache(maxsize=1)(self._read_ground)

    def cases(self) -> list[Case]:
        settings = self.settings
        kinds = [(MAP, steps) for steps in settings.steps] + [(FLOW, calls) for calls in settings.calls]
        return [
            self._case(name, method, count)
            for name in self.entries
            for method, count in [*kinds, (REAL, 0), (FLOORS, 0)]
        ]

    def measure(self, case: Case) -> dict[str, Any]:
        name, method, count = case.key["entry"], case.key["method"], case.key["calls"]
        model, ground = Model.load(self._trained(case)), self._ground(name)
        run = case.run(self.settings.runs)
        trained = {"training_seconds": training_seconds(run), "trained_on": _trained_on(run)}
        if method in (MAP, FLOW):
            found = self._scores(model, ground, method, count)
            how = {"solver": found[0].method, "calls": found[0].calls}
            return {**_values(found), **trained, **how, **_protocol(model, ground, case, found[0].method)}
        parameters = sum(weight.numel() for weight in model.bundle.flow_map.parameters())
        rows = [real_row(ground)] if method == REAL else baselines(ground, parameters)
        return {"rows": {row.method: _values([row]) for row in rows}, **_protocol(model, ground, case)}

    def _scores(self, model: Model, ground: Reference, method: str, count: int) -> list[Score]:
        """Returns a row for each seed: of the map, or of the solver with which flow matching comes nearest."""
        if method == MAP:
            return list(evaluate(model, ground, [count]))
        tried = []
        for solver in self.settings.solvers_of(count):
            rows = list(evaluate(model, ground, [], [count], {"name": solver}))
            tried.append([dataclasses.replace(row, method=solver) for row in rows])
        return min(tried, key=lambda rows: statistics.fmean(row.frechet for row in rows))

    def _read_ground(self, name: str) -> Reference:
        case = self._case(name, MAP, self.settings.steps[0])
        config = case.config["train"]
        return reference(Model.load(self._trained(case)).bundle, config["data"], config["evaluation"])

    def _trained(self, case: Case) -> Path:
        """Trains the run of a case, or what is left of it, and returns its folder."""
        folder = case.run(self.settings.runs)
        train(case.config["train"], folder, lambda line: None)
        return folder

    def protocol(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    def table(self, rows: Sequence[Row]) -> str:
        parts = [self._headline(rows), ""]
        for (name,), group in grouped(rows, "entry").items():
            places = sorted({_where(row) for row in group})
            for place in places:
                here = [row for row in group if _where(row) == place]
                parts += [self._title(name, place if len(places) > 1 else ""), "", self._part(here), ""]
        return "\n".join([*parts, self._how(rows)])

    def _title(self, name: str, place: str) -> str:
        entry = self.entries[name]
        return f"**{name}** ({'; '.join(filter(None, (f'`{entry.experiment}`', entry.remark, place)))})"

    def _part(self, rows: Sequence[Row]) -> str:
        columns = self._columns(rows)
        body = [[label, calls, *(_cell(values, word) for word in columns)] for label, calls, values in _lines(rows)]
        return markdown(["method", "calls", *columns], body, 1)

    def plot(self, rows: Sequence[Row]) -> Figure:
        groups = grouped(rows, "entry")
        figure = Figure(figsize=(4.4 * max(len(groups), 1), 7), layout="constrained")
        for column, ((name,), group) in enumerate(groups.items()):
            score = self.entries[name].score
            for line, (key, words) in enumerate(
                {"calls": "network calls", "seconds": "seconds per 1,000 samples"}.items()
            ):
                place = line * len(groups) + column + 1
                axes = figure.add_subplot(2, len(groups), place, xscale="log", xlabel=words, ylabel=score)
                axes.set_title(name)
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter(NullFormatter())
                for (method, where), chosen in _curves(group, key).items():
                    points = sorted((values[key], values[score]) for values in chosen if values.get(score) is not None)
                    if points:
                        axes.plot(
                            *zip(*points, strict=True), marker="o", label=", ".join(filter(None, (method, where)))
                        )
                for label, _, values in _lines(group):
                    if label == REAL and values.get(score) is not None:
                        axes.axhline(values[score], color="grey", label=REAL)
                axes.grid(alpha=0.3)
                axes.legend()
        return figure

    def _columns(self, rows: Sequence[Row]) -> list[str]:
        there = {word for _, _, values in _lines(rows) for word, value in values.items() if isinstance(value, float)}
        return [*(word for word in COLUMNS if word in there), *sorted(there - COLUMNS.keys())]

    def _headline(self, rows: Sequence[Row]) -> str:
        head = [
            "",
            "score",
            *(f"kept in {n} call{'s' * (n > 1)}" for n in HEADLINE),
            "calls saved",
            "faster",
            "training",
            "pays after",
        ]
        body = [line for (name,), group in grouped(rows, "entry").items() if (line := self._saved(name, group))]
        return markdown(head, body, 2)

    def _saved(self, name: str, rows: Sequence[Row]) -> list[str]:
        """Returns what the map keeps of the best flow's score, and what it saves at the fewest calls that keep 95 %."""
        score = self.entries[name].score
        flows, maps = ([row.values for row in rows if row.key["method"] == kind] for kind in (FLOW, MAP))
        scored = [values for values in flows if values.get(score) is not None]
        if not scored or not maps:
            return []
        best = max(scored, key=lambda values: values[score])
        kept = {values["calls"]: values[score] / best[score] for values in maps if values.get(score) is not None}
        shares = [f"{100 * kept[n]:.0f} %" if n in kept else "-" for n in HEADLINE]
        good = [values for values in maps if kept.get(values["calls"], 0) >= ENOUGH]
        enough = min(good, key=lambda values: values["calls"], default=None)
        if enough is None:
            return [name, score, *shares, "-", "-", _times(maps[0], best, "training_seconds"), "-"]
        saved = f"{best['calls']} → {enough['calls']}"
        faster, training = _times(best, enough, "seconds"), _times(enough, best, "training_seconds")
        return [name, score, *shares, saved, faster, training, _pays(enough, best)]

    def _how(self, rows: Sequence[Row]) -> str:
        hardware = "; ".join(sorted({_where(row) for row in rows}))
        return (
            "*kept*: the map's score over the best of flow matching's in any number of calls. *calls saved*, *faster*: from "
            "those of that best one to the fewest of the map's that keep 95 % of its score, and the ratio of their seconds. "
            "*training*: the seconds of the map's training over those of flow matching's, for as many samples; *pays "
            "after*: how many samples have to be drawn until the longer training is paid for. Flow matching's solver "
            f"is the best of {', '.join(self.settings.solvers)} that can do with so few. Seconds and CPU seconds are for "
            "1,000 samples, memory in MiB. Distances are on the features of each experiment, and compare within one table "
            f"only. Sampling seeds {list(self.settings.seeds)}. On {hardware}."
        )

    def _case(self, name: str, method: str, count: int) -> Case:
        entry, settings = self.entries[name], self.settings
        kind = FLOW if method == FLOW else MAP
        words = [f"experiment={entry.experiment}", *entry.overrides, *(entry.flow if kind == FLOW else ())]
        config = copy.deepcopy(self.compose(*words, f"name={name}-{kind}"))
        own = () if entry.score == "accuracy" else (entry.score,)
        config["evaluation"] |= {"n": entry.n, "seeds": list(settings.seeds), "also": [*ALSO, *own]}
        tried = list(settings.solvers) if kind == FLOW else []
        return Case({"entry": name, "method": method, "calls": count}, {"train": config, "solvers": tried})


def _values(rows: Sequence[Score]) -> dict[str, Any]:
    """Returns the mean of each score over rows that differ by the seed."""
    usual = ("accuracy", "frechet", "precision", "recall")
    scores = [{**{name: getattr(row, name) for name in usual}, **row.also} for row in rows]
    names = [name for name, value in scores[0].items() if value is not None]
    return {name: statistics.fmean(each[name] for each in scores) for name in names}


def _protocol(model: Model, ground: Reference, case: Case, method: str = "") -> dict[str, Any]:
    solver = {"name": method} if case.key["method"] == FLOW else {}
    how = {"guidance": 1.0, "interval": None, "solver": solver, "sampler": None, "gamma": None, "grid": None}
    return {
        "protocol": Protocol.of(model.bundle, ground, case.config["train"]["data"], str(model.device), how).to_dict()
    }


def _lines(rows: Sequence[Row]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Returns the label, the calls and the values of each line of a table."""
    lines: list[tuple[str, str, Mapping[str, Any]]] = []
    for row in rows:
        if "rows" in row.values:
            lines += [(label, "", values) for label, values in row.values["rows"].items()]
        else:
            solver = f" ({row.values['solver']})" if row.key["method"] == FLOW else ""
            lines.append((f"{row.key['method']}{solver}", str(row.values["calls"]), row.values))
    return lines


def _cell(values: Mapping[str, Any], word: str) -> str:
    value = values.get(word)
    return f"{value:,.{COLUMNS.get(word, 3)}f}" if isinstance(value, float) and math.isfinite(value) else "-"


def _where(row: Row) -> str:
    return str(row.values.get("protocol", {}).get("hardware", row.hardware))


def _trained_on(run: Path) -> str:
    machine = RunRecord(run).machine()
    return ", ".join([*machine.get("gpus", []), str(machine.get("processor")), f"{machine.get('threads')} threads"])


def _curves(rows: Sequence[Row], key: str) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Returns the values of map and flow; those by the clock apart, where they are of several machines."""
    apart = key == "seconds" and len({_where(row) for row in rows}) > 1
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.key["method"] in (MAP, FLOW):
            found.setdefault((row.key["method"], _where(row) if apart else ""), []).append(row.values)
    return found


def _same_place(one: Mapping[str, Any], other: Mapping[str, Any], word: str) -> bool:
    if word == "training_seconds":
        return bool(one.get("trained_on") == other.get("trained_on"))
    here, there = (values.get("protocol", {}).get("hardware") for values in (one, other))
    return bool(here == there)


def _times(above: Mapping[str, Any], below: Mapping[str, Any], word: str) -> str:
    over, under = above.get(word), below.get(word)
    return f"{over / under:.1f}×" if over and under and _same_place(above, below, word) else "-"


def _pays(few: Mapping[str, Any], many: Mapping[str, Any]) -> str:
    """Returns after how many samples fewer calls have paid for the longer training, to two digits."""
    words = ("seconds", "training_seconds")
    if not all(few.get(word) and many.get(word) and _same_place(few, many, word) for word in words):
        return "-"
    longer, saved = few["training_seconds"] - many["training_seconds"], many["seconds"] - few["seconds"]
    return f"{float(f'{max(longer, 0) / saved * 1000:.2g}'):,.0f}" if saved > 0 else "-"
