r"""Finishing a synthetic data set whose shards are all there: the look for copies, the index, the card, the checksums."""

__all__ = ["finish"]

import csv
import dataclasses
import io
import json
import platform
import safetensors.torch
import torch

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from safetensors import SafetensorError
from torch import Tensor
from typing import Any

from ..evaluation.protocol import commit
from ..files import write_text
from ..generation.sampling import Samples, draw, map_of
from ..machine import describe_machine
from .audit import Audit, audit, audited
from .card import card
from .order import Job
from .record import OWN, SetFolder, Shard


def finish(job: Job, folder: SetFolder) -> None:
    """Writes what a set has beside its samples, if it is not there, and removes what was left behind half done."""
    shards = [shard for number in range(job.shards) if (shard := folder.shard(number)) is not None]
    if not _finished(folder, shards):
        found = _audit(job, folder) if job.looks else None
        record = _record(job, shards, found)
        write_text(folder.folder / "samples.csv", _index(job, shards))
        write_text(folder.folder / "manifest.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        write_text(folder.folder / "README.md", card(record))
        folder.write_sums(shards)
    folder.tidy()


def _finished(folder: SetFolder, shards: Sequence[Shard]) -> bool:
    if not folder.sums.exists() or not all((folder.folder / name).exists() for name in OWN):
        return False
    lines = folder.sums.read_text(encoding="utf-8", errors="replace").splitlines()
    there = {name for shard in shards for name in shard.files} | {path.as_posix() for path in folder.others()}
    return {line.split("  ", 1)[-1] for line in lines} == there


def _record(job: Job, shards: Sequence[Shard], found: Audit | None) -> dict[str, Any]:
    rows = [row for shard in shards for row in shard.rows]
    labels, classes = Counter(row.label for row in rows), job.model.bundle.card.spec.classes
    left_out: Counter[str] = Counter()
    for shard in shards:
        left_out.update({reason: len(numbers) for reason, numbers in shard.left_out.items()})
    made = job.model.bundle.card
    on_gpu = job.model.device.type == "cuda"
    device = torch.cuda.get_device_name(job.model.device) if on_gpu else describe_machine()["processor"]
    return {
        "plan": job.words,
        "samples": len(rows),
        "drawn": job.plan.n,
        "left_out": dict(left_out),
        "classes": {classes[label]: labels[label] for label in sorted(labels) if label >= 0},
        "calls": shards[0].calls,
        "method": type(job.plan.method).__name__,
        "model": {"objective": made.objective, "samples_seen": made.samples_seen, "learned": sorted(made.learned)},
        "data": {key: value for key, value in job.order.data.items() if value is not None and key != "root"},
        "copies": None if found is None else dataclasses.asdict(found),
        "made_by": {
            "program": f"cm-multimodal {version('cm-multimodal')}",
            "commit": commit(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "hardware": device,
        },
    }


def _index(job: Job, shards: Sequence[Shard]) -> str:
    classes, sieved = job.model.bundle.card.spec.classes, job.sieve is not None
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["sample_id", "label", "class", "file", *(["confidence"] if sieved else [])])
    for row in (row for shard in shards for row in shard.rows):
        name = classes[row.label] if row.label >= 0 else ""
        table.writerow([row.sample_id, row.label, name, row.file, *([row.confidence] if sieved else [])])
    return text.getvalue()


def _audit(job: Job, folder: SetFolder) -> Audit | None:
    """Looks through some of the samples, and shows those that are nearest to training samples."""
    seen = [_seen(job, folder, number) for number in range(job.shards)]
    raw, ids = (torch.cat([part[index] for part in seen]) for index in (0, 1))
    if not len(raw):
        return None
    found = audit(job.ground, raw, ids)
    place = {int(number): index for index, number in enumerate(ids)}
    if found.closest:
        rows = {
            "generated": raw[[place[number] for number, _, _ in found.closest]],
            "nearest real": job.ground.splits.train.raw[[index for _, index, _ in found.closest]],
        }
        (folder.folder / "report").mkdir(exist_ok=True)
        job.model.bundle.modality.preview(rows, folder.folder / "report" / "nearest")
    return found


def _seen(job: Job, folder: SetFolder, number: int) -> tuple[Tensor, Tensor]:
    """Returns those samples of a shard, and their numbers, that are looked at: as they were kept, or drawn again."""
    shard, wanted = folder.shard(number), audited(job.plan.n)
    ids = torch.tensor([row.sample_id for row in shard.rows] if shard else [], dtype=torch.int64)
    ids = ids[torch.isin(ids, wanted)]
    if not len(ids):
        return job.ground.splits.train.raw[:0], ids
    try:
        kept = safetensors.torch.load_file(folder.looked_at / f"{number:05d}.safetensors")
        if torch.equal(kept["sample_id"], ids):
            return kept["raw"], ids
    except (OSError, SafetensorError, KeyError):
        pass
    flow_map = map_of(job.model.bundle, job.plan, job.model.device)
    drawn = Samples.joined(
        [draw(job.model.bundle, flow_map, job.plan, start, job.model.device) for start in job.starts(number)]
    )
    return drawn.raw[torch.isin(drawn.sample_id, ids)], ids
