r"""An order for a data set: what is to be drawn, and how it is to lie on the disk.

Plain data that any process can open by itself: every one that works on an order loads the model, and holds what the order
comes to (`Job.words`) against the plan in the folder. Samples are a function of those words and of their numbers, on one
type of machine, for whatever is computed by several processes, in whatever order.
"""

__all__ = ["Job", "Order"]

import dataclasses
import hashlib
import json
import math
import torch

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

from ..bundle import LIMITS, Bundle
from ..errors import DataError, UsageError
from ..evaluation.reference import Reference, reference
from ..generation.labels import Wish
from ..generation.perception import Perception
from ..generation.sampling import Plan, check_alone, make_plan
from ..generation.sieve import Sieve, told
from ..labelling import Labelling
from ..machine import set_threads
from ..model import Model
from ..training.data import fingerprint
from ..training.saved import weights_checksum
from ..training.settings import read_settings
from ..training.world import find_world
from ..values import fits
from .formats import Format, make_format

FORMAT = 1
MOST = 100_000  # samples of a shard
HERE = ("source", "decoder", "data", "labels", "perception")  # a checksum, or what was meant, stands for them


@dataclass(frozen=True)
class Order:
    """What a person wants.

    Arguments:
        source: The folder of a run or of a bundle.
        n: The number of samples to draw; the sum of `label`, if that counts.
        label: A class; several, which take turns; counts or shares of classes; all take turns unless given.
        how: `steps`, `seed`, `sampler`, `solver`, `gamma`, `guidance`, `interval`, `grid` and `path`, as in `cmm sample`.
        seconds: How long sounds last; as long as those that were learned from unless given.
        decoder: The folder of a vocoder.
        format: The form of the files.
        kind: Their suffix; the modality's usual one unless given.
        shard: Samples of a shard, which is written whole or not at all; rounded up to whole chunks.
        chunk: Samples that the network is asked for at once; the model's own number unless given.
        confidence: Samples are left out to whose class a classifier gives less than this probability.
        perception: Whether that classifier sees what the generator's own network does, not what a judge sees of samples.
        report: Whether the set is looked through for copies of training samples.
        data: The settings of the data set that the model was trained on; empty where it is not at hand.
        labels: Which of its classes the model was told, as in `cmm train`: the classifier is told no others.
        device: Where it is computed.
        threads: The CPU threads of each process; one unless given.
    """

    source: str
    n: int | None = None
    label: Wish | None = None
    how: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    decoder: str | None = None
    format: str = "folder"
    kind: str | None = None
    shard: int = 512
    chunk: int | None = None
    confidence: float | None = None
    perception: bool = False
    report: bool = True
    data: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    threads: int | None = None

    def to_json(self) -> str:
        """Returns the order as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Order":
        """Reads the text of an order."""
        return cls(**json.loads(text))

    def open(self) -> "Job":
        """Loads the model, and checks what is wanted of it.

        Raises:
            UsageError: Something is not possible.
            DataError: The model, or the data that it is held against, are damaged.
        """
        for name in ("shard", "chunk", "threads"):
            value = getattr(self, name)
            if value is not None and not (fits(value, int) and 1 <= value <= MOST):
                raise UsageError(f"{name}={value} is not possible; it is a whole number from 1 to {MOST:,}.")
        for name in ("report", "perception"):
            if type(getattr(self, name)) is not bool:
                raise UsageError(f"{name}={getattr(self, name)} is not possible; it is true or false.")
        set_threads(self.threads or 1)
        original = Model.load(self.source, self.device)
        check_alone(original.bundle)
        model = self._altered(original)
        plan = make_plan(model.bundle, self._count(), label=self.label, **self.how)
        form = make_format(self.format, model.bundle.modality, self.kind, model.bundle.card.spec.classes, plan.seed)
        self._check_confidence()
        return Job(self, model, plan, form, original.bundle)

    def _altered(self, model: Model) -> Model:
        model = replace(model, device=find_world().device(model.device))
        if self.seconds is not None:
            if not fits(self.seconds, float):
                raise UsageError(f"seconds={self.seconds} is no number of seconds.")
            model = model.lasting(float(self.seconds))
        if self.decoder is not None:
            model = model.decoded_by(Model.load(self.decoder, self.device))
        if self.chunk is None:
            return model
        card = replace(model.bundle.card, chunk=self.chunk)
        if self.chunk * math.prod(card.spec.shape) > LIMITS["elements of a chunk"]:
            raise UsageError(
                f"chunk={self.chunk} samples are too many at once; the model's own number is {model.bundle.card.chunk}."
            )
        return replace(model, bundle=replace(model.bundle, card=card))

    def _count(self) -> int:
        counts = list(self.label.values()) if isinstance(self.label, Mapping) else []
        if self.n is None and counts and all(type(count) is int for count in counts):
            return sum(int(count) for count in counts)
        if self.n is None:
            raise UsageError("Say how many samples: n=10000.")
        return self.n

    def _check_confidence(self) -> None:
        if self.confidence is None and self.perception:
            raise UsageError("perception=true says what the classifier of confidence= sees; name a probability too.")
        if self.confidence is None:
            return
        if not (fits(self.confidence, float) and 0 < self.confidence < 1):
            raise UsageError(f"confidence={self.confidence} is not possible; it is a probability between 0 and 1.")
        if not self.data or self.seconds is not None:
            raise UsageError(
                f"confidence={self.confidence} needs a classifier, which is fitted to the training data: name them "
                "(data.name=...), or the run itself instead of its bundle; and leave seconds= out."
            )


@dataclass(frozen=True)
class Job:
    """An order that was opened: ready to be worked on.

    Arguments:
        order: The order.
        model: The model.
        plan: How it is sampled.
        form: How samples are written.
        original: The model that was trained, before its samples were made longer, or decoded by another one.
    """

    order: Order
    model: Model
    plan: Plan
    form: Format
    original: Bundle

    @property
    def looks(self) -> bool:
        """Whether the set is looked through for copies: not where the training data are not at hand, or last otherwise."""
        return self.order.report and bool(self.order.data) and self.order.seconds is None

    @cached_property
    def ground(self) -> Reference:
        """The real data."""
        return reference(self.original, self.order.data, {})

    @cached_property
    def sieve(self) -> Sieve | None:
        """What leaves samples out, if anything does."""
        order = self.order
        if order.confidence is None:
            return None
        see = Perception(self.original, self.model.device) if order.perception else self.ground.modality.vectors
        known = told(self.ground.splits.train, read_settings(Labelling, order.labels, "labels"), order.confidence)
        return Sieve(see, known, order.confidence)

    @property
    def judge(self) -> str | None:
        """What the classifier depends on beside the weights, in words."""
        if self.sieve is None:
            return None
        known, eyes = self.sieve.known, "the generator's own state" if self.order.perception else "samples"
        return (
            f"support vectors on {eyes}, told {len(known):,} of {len(self.ground.splits.train):,} labels "
            f"(checksum {fingerprint(known)[:12]}, scikit-learn {version('scikit-learn')})"
        )

    def read_ahead(self) -> None:
        """Reads the real data if they will be needed, so that nothing is drawn in vain.

        Raises:
            UsageError, DataError: They are not there, or cannot be used.
        """
        try:
            _ = self.ground if self.looks else None
        except (UsageError, DataError) as error:
            raise type(error)(
                f"{error} (The set is to be looked through for copies of training samples; report=false does without.)"
            ) from error

    @cached_property
    def shard(self) -> int:
        """Samples of a shard: whole chunks."""
        chunk = self.model.bundle.card.chunk
        return -(-self.order.shard // chunk) * chunk

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.plan.n // self.shard)

    def starts(self, shard: int) -> range:
        """Returns the first numbers of the chunks of a shard."""
        first = shard * self.shard
        return range(first, min(first + self.shard, self.plan.n), self.model.bundle.card.chunk)

    @cached_property
    def words(self) -> dict[str, Any]:
        """All that the bytes of the set depend on, but for the type of the machine, as plain data."""
        card, order = self.model.bundle.card, self.order
        whole = {key: value for key, value in dataclasses.asdict(order).items() if key not in HERE}
        how = {**whole.pop("how"), "n": self.plan.n, "chunk": card.chunk, "shard": self.shard, "kind": self.form.kind}
        facts = {
            "label": _sorted(order.label),
            "grid": self.plan.grid,
            "model": checksum(self.model),
            "decoder": None if order.decoder is None else checksum(Model.load(order.decoder)),
            "judge": self.judge,
            "data": {key: value for key, value in order.data.items() if value is not None and key != "root"},
            "device": self.model.device.type,
            "threads": order.threads or 1,
            "versions": f"cm-multimodal {version('cm-multimodal')}, torch {torch.__version__}",
        }
        return json.loads(json.dumps({"version": FORMAT, "modality": card.modality, **whole, **how, **facts}))


def _sorted(label: Wish | None) -> Wish | None:
    return dict(sorted(label.items(), key=lambda item: str(item[0]))) if isinstance(label, Mapping) else label


def checksum(model: Model) -> str:
    """Returns a checksum of all that a model is: its card, but for the chunk, and its weights."""
    card = replace(model.bundle.card, chunk=1)
    content = f"{card.to_json()}{weights_checksum(model.bundle.flow_map)}"
    return hashlib.sha256(content.encode()).hexdigest()[:16]
