r"""The card of a synthetic data set: what it is, how it was made, what is known of its worth and its dangers."""

__all__ = ["card"]

from collections.abc import Mapping
from typing import Any

LOAD = {
    "folder": "Each sample is a file `data/CLASS/NUMBER.{kind}`: `cmm train data={data} data.folder=data` trains on it.",
    "npz": "`numpy.load('data/00000.npz')` holds `x`, `label`, `sample_id` and `seed`.",
    "webdataset": "`webdataset.WebDataset('data/{{00000..{last:05d}}}.tar')` yields `{kind}` and `cls`.",
    "parquet": "`datasets.load_dataset('parquet', data_files='data/*.parquet')` yields `{modality}` and `label`.",
    "jsonl": "Each line of `data/*.jsonl` holds `text`, `label` and `class`.",
}
ORIGIN = (
    "**Every sample was drawn by a generative model; none was observed.** Made by {program}, `cmm synth`, in {calls} a "
    "sample."
)
CHECK = "`samples.csv` has a line for each; `cmm verify out=.` and `sha256sum -c SHA256SUMS` check every file."
WARNING = (
    "A set like this repeats what its generator learned, with its gaps: rare things are rarer. Say that it is synthetic "
    "where results are shown, and measure its worth on real data that the generator never saw. What may be done with it "
    "depends on the rights to the training data."
)
GROUP = {"image": "folder", "audio": "sounds", "text": "texts", "video": "videos"}
HOW = ("steps", "guidance", "interval", "grid", "path", "seconds", "decoder", "seed", "chunk", "threads", "device")


def card(record: Mapping[str, Any]) -> str:
    """Returns the card of a set, in Markdown.

    Arguments:
        record: What the manifest holds.
    """
    plan, model = record["plan"], record["model"]
    last = -(-record["drawn"] // plan["shard"]) - 1
    words = {
        "kind": plan["kind"],
        "modality": plan["modality"],
        "last": last,
        "data": GROUP.get(plan["modality"], "..."),
    }
    program, calls = record["made_by"]["program"], record["calls"]
    facts = {"objective": model["objective"], "training samples seen": f"{model['samples_seen']:,}"}
    facts |= {"weights": plan["model"]} | {f"trained on {key}": value for key, value in record["data"].items()}
    facts |= {"drawn by": record["method"]} | {key: plan[key] for key in HOW if plan.get(key) is not None}
    parts = [
        f"# {record['samples']:,} synthetic samples ({plan['modality']})",
        ORIGIN.format(program=program, calls=f"{calls} network call{'s' * (calls != 1)}"),
        f"{LOAD[plan['format']].format(**words)} {CHECK}",
        f"## How it was made\n\n{_table(facts)}",
        _left_out(record),
        _classes(record["classes"]),
        f"## Copies of training samples\n\n{_copies(record['copies'])}",
        f"## What to know before it is used\n\n{WARNING}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {_plain(key)} | {_plain(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _plain(value: object) -> str:
    """Returns a value as it stands in a cell of a table."""
    return "".join(c if c.isprintable() else " " for c in str(value)).replace("|", "\\|")


def _left_out(record: Mapping[str, Any]) -> str:
    counts, confidence = record["left_out"], record["plan"]["confidence"]
    parts = []
    if confidence is not None:
        parts.append(
            f"Sieved: of {record['drawn']:,} samples drawn, {counts.get('doubtful', 0):,} are left out, to whose class a "
            f"classifier gives a probability below {confidence}: {record['plan']['judge']}. What is left is easier than "
            "real data, and less diverse."
        )
    if counts.get("empty"):
        parts.append(f"{counts['empty']:,} samples held nothing, and are left out.")
    return " ".join(parts)


def _classes(classes: Mapping[str, int]) -> str:
    return f"## Classes\n\n{_table({name: f'{count:,}' for name, count in classes.items()})}" if classes else ""


def _copies(copies: Mapping[str, Any] | None) -> str:
    if copies is None:
        return "Not looked for: the training data were not at hand, or `report=false` was asked for."
    near = "nearer to a training sample than half of what is usual for a real test sample"
    if not copies["usual"]:
        near = "on a training sample, as most real test samples do"
    return (
        f"Of {copies['looked_at']:,} samples, taken evenly, {copies['memorised']:.2%} lie {near} (of which "
        f"{copies['memorised_real']:.2%} do), and {copies['duplicates']:.2%} as near to another sample of this set. The "
        "nearest pairs: `report/`."
    )
