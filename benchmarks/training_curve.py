r"""Quality against training time: every checkpoint that a run kept, scored alike (train with train.keep=20 to keep many).

    python benchmarks/training_curve.py FILE run=RUN KEY=VALUE...

The keys are those of `cmm evaluate`: steps=, also=, n=, seeds=. FILE gets the numbers, and the same name with .png the
plot. Minutes are those of the training alone, by the run's own log.
"""

import json
import sys

from cm_multimodal.commands.evaluate import ground_of, whole_numbers
from cm_multimodal.commands.source import folder_of, load
from cm_multimodal.config import compose
from cm_multimodal.evaluation.report import summaries
from cm_multimodal.evaluation.runner import EULER, evaluate
from cm_multimodal.model import Model
from cm_multimodal.training.records import RunRecord
from matplotlib.figure import Figure
from pathlib import Path
from typing import Any

APART = ("samples", "minutes", "calls", "precision", "recall")  # what no panel is drawn of


def minutes(run: Path, samples: int) -> float:
    """Returns how long a run took to see so many samples."""
    spent = before = 0.0
    for line in (run / "speed.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["samples"] > samples:
            break
        spent += (row["samples"] - before) / row["samples_per_s"]
        before = row["samples"]
    return spent / 60


def curve(words: list[str]) -> list[dict[str, Any]]:
    """Returns a row for each checkpoint and number of steps."""
    config, rows = compose("evaluate", words), []
    run = folder_of(config)
    ground, _ = ground_of(config, load(config))
    for checkpoint in sorted(RunRecord(run).checkpoints.glob("step-*")):
        samples, model = int(checkpoint.name.removeprefix("step-")), Model.load(checkpoint)
        for found in summaries(list(evaluate(model, ground, whole_numbers("steps", config), (), EULER))):
            row = {"samples": samples, "minutes": minutes(run, samples), "calls": found.calls, **found.means}
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Draws each score by minutes, a line for each number of calls."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in APART]
    figure = Figure(figsize=(4.4 * len(names), 3.4), layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1, xlabel="minutes of training", ylabel=name)
        for calls in dict.fromkeys(row["calls"] for row in rows):
            chosen = [row for row in rows if row["calls"] == calls and name in row]
            axes.plot([row["minutes"] for row in chosen], [row[name] for row in chosen], "o-", label=f"{calls} calls")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def main(file: Path, words: list[str]) -> None:
    """Writes the numbers and the plot."""
    rows = curve(words)
    file.write_text(json.dumps(rows, indent=1) + "\n")
    plot(rows).savefig(file.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
