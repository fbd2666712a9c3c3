r"""The protocol record: what a number in a table means."""

__all__ = ["Protocol", "commit"]

import dataclasses
import subprocess

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..machine import describe_machine
from .reference import Reference

CODE = ("*.py", "*.yaml", ":!tests", ":!benchmarks")  # of git


@dataclass(frozen=True)
class Protocol:
    """How scores were made.

    Arguments:
        n: Generated samples per row.
        seeds: Sampling seeds.
        reference: The split that samples are held against, and its size.
        features: The features of distances, with a checksum of the weights that make them, if others' do.
        feature_dimensions: Their number; a Fréchet distance of fewer samples than dimensions is biased.
        k: Neighbours of precision and recall.
        classifier: What the accuracy score fits.
        judge: The checksum of the one that is fitted to the real training split; empty where none was needed.
        judges: The names of models from outside that judged, and their checksums.
        data: The data set.
        objective: The objective of the model.
        samples_seen: The training samples the model saw.
        chunk: Samples computed at a time.
        guidance: The scale of guidance; 1 is none.
        interval: The noise ratios that it is confined to, if it is.
        solver: What follows the diagonal.
        sampler: How the map is used; the usual way of the model unless given.
        gamma: The share of fresh noise, of the sampler of that name.
        grid: Where all steps lie; each method's own grid unless given.
        decoder: The name of what makes samples of what the model draws, where it is another model.
        hardware: Device and processor.
        versions: Python and torch.
        commit: The project's commit; empty outside a checkout.
    """

    n: int
    seeds: tuple[int, ...]
    reference: str
    features: str
    feature_dimensions: int
    k: int
    classifier: str
    judge: str
    judges: Mapping[str, str]
    data: Mapping[str, Any]
    objective: str
    samples_seen: int
    chunk: int
    guidance: float
    interval: tuple[float, ...] | None
    solver: Mapping[str, Any]
    sampler: str | None
    gamma: float | None
    grid: str | tuple[float, ...] | None
    decoder: str | None
    hardware: str
    versions: str
    commit: str

    @classmethod
    def of(
        cls, bundle: Bundle, ground: Reference, data: Mapping[str, Any], device: str, how: Mapping[str, Any]
    ) -> "Protocol":
        """Collects the record of an evaluation."""
        facts = describe_machine()
        return cls(
            n=ground.n,
            seeds=tuple(ground.settings.get("seeds", (0,))),
            reference=f"{ground.against} split, {len(ground.real)} samples",
            features=ground.extractor,
            feature_dimensions=ground.features.shape[1],
            k=ground.settings.get("k", 5),
            classifier=bundle.modality.classifier,
            judge=ground.judge.digest if ground.own or "recognition" in (ground.settings.get("also") or ()) else "",
            judges=dict(ground.modality.judges(ground.settings)),
            data={key: value for key, value in data.items() if value is not None and key != "root"},
            objective=bundle.card.objective,
            samples_seen=bundle.card.samples_seen,
            chunk=bundle.card.chunk,
            guidance=how["guidance"],
            interval=None if how["interval"] is None else tuple(how["interval"]),
            solver=dict(how["solver"]),
            sampler=how["sampler"],
            gamma=how["gamma"] if how["sampler"] == "gamma" else None,
            grid=how["grid"] if how["grid"] is None or isinstance(how["grid"], str) else tuple(how["grid"]),
            decoder=how.get("decoder"),
            hardware=where(device),
            versions=f"Python {facts['python']}, torch {facts['torch']}",
            commit=commit(),
        )

    def warnings(self) -> list[str]:
        """Returns what a reader of the table must know."""
        few = self.n <= self.feature_dimensions
        return [f"Fréchet distances are biased: {self.n} samples, {self.feature_dimensions} features."] if few else []

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain data."""
        return {**dataclasses.asdict(self), "warnings": self.warnings()}


def where(device: str) -> str:
    """Returns the device, the GPU's name if it is one, the processor and the number of threads, in words."""
    facts = describe_machine()
    names = facts["gpus"][:1] if device.startswith("cuda") else []
    return ", ".join([device, *names, facts["processor"], f"{facts['threads']} threads"])


def commit() -> str:
    """Returns the project's commit, '-changed' where the code is no longer that; nothing outside a checkout."""
    root = Path(__file__).parents[2]
    try:
        if not (root / ".git").exists():
            return ""
        head, same = (
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10)
            for words in (("rev-parse", "HEAD"), ("diff", "--quiet", "HEAD", "--", *CODE))
        )
        return head.stdout.strip() + "-changed" * (same.returncode != 0) if head.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""
