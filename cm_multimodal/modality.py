r"""The contract between the core and a modality.

The core knows tensors of shape (B, *). A modality knows what they are: how a person's files become tensors and back,
which network suits them, what a preview looks like, and by which features samples are compared.
"""

__all__ = ["Board", "Dataset", "Modality", "Skipped", "Splits", "TensorSpec", "find_modality", "register_modality"]

import importlib
import importlib.util
import pathlib
import torch

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from torch import Tensor, nn
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from .editing import Measurement
from .errors import UsageError, nearest
from .maps import FlowMap
from .random import Draws

BUILT_IN = "modalities"
_registered: dict[str, type["Modality"]] = {}


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Raw samples in memory, as a person has them.

    Arguments:
        raw: The samples, with shape (N, *), in the modality's own storage type (such as uint8).
        label: Their classes, with shape (N,) and int64; absent without classes.
        mask: Ones for real positions, with shape (N, L...); absent where nothing is padded.
        classes: The names of the classes.
        skipped: Files that could not be used.
        note: What is to be said of how they were read; may be empty.
    """

    raw: Tensor
    label: Tensor | None = None
    mask: Tensor | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    note: str = ""

    def __len__(self) -> int:
        return len(self.raw)


@dataclass(frozen=True)
class Splits:
    """The samples to learn from, and those held back to judge by."""

    train: Dataset
    test: Dataset


@dataclass(frozen=True)
class TensorSpec:
    """What the core must know of a modality's tensors; it is kept in the bundle.

    Arguments:
        shape: The shape of one sample in the model's space.
        sigma_data: Its standard deviation per element.
        classes: The names of the classes.
        masked: Whether samples carry a mask.
        settings: What the modality must know besides, such as a sampling rate: plain data, which it checks itself.
    """

    shape: tuple[int, ...]
    sigma_data: float
    classes: tuple[str, ...] = ()
    masked: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


class Board(Protocol):
    """What previews are shown on, such as the writer of TensorBoard."""

    def add_audio(self, tag: str, snd_tensor: Tensor, global_step: int, sample_rate: int) -> None:
        """Shows a waveform, with shape (1, T)."""

    def add_images(self, tag: str, img_tensor: Tensor, global_step: int) -> None:
        """Shows pictures, with shape (N, C, H, W)."""

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        """Shows a text."""


class Modality(ABC):
    """An adapter between raw media and tensors.

    Arguments:
        spec: The shape, scale and classes of its tensors.

    Attributes:
        name: Its name.
        classifier: What the accuracy score fits, in words.
        measures: The names of measures of its own.
        by_train: Those of them that hold samples against the training split, as those of real samples hold the test split.
        previewed: In how many steps previews show the same samples.
        kinds: The kinds of files that samples are written as, by their suffix, the usual one first.
        edits: The kinds of editing that complete what is known of a sample.
        published: Features on which the distances that people publish are of so many generated samples, against the training
            split, by name.
        alone: Whether samples are drawn from noise and a class alone, or only from what the first of `edits` knows of one.
    """

    name: str
    classifier: str
    measures: tuple[str, ...] = ()
    by_train: tuple[str, ...] = ()
    previewed: tuple[int, ...] = (1, 2, 4, 8)
    kinds: tuple[str, ...]
    edits: tuple[str, ...] = ()
    published: ClassVar[Mapping[str, int]] = MappingProxyType({})
    alone: bool = True

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec

    @classmethod
    @abstractmethod
    def dataset(cls, config: Mapping[str, Any]) -> Splits:
        """Reads a data set.

        Arguments:
            config: The `data` group of the configuration; unknown keys are an error.

        Raises:
            UsageError: Something named does not exist.
            DataError: Something in the files is wrong.
        """

    @classmethod
    @abstractmethod
    def describe(cls, train: Dataset, config: Mapping[str, Any]) -> TensorSpec:
        """Returns the shape and scale of a data set's tensors.

        Arguments:
            train: The training samples.
            config: The `data` group that they were read with.
        """

    @abstractmethod
    def encode(self, raw: Tensor) -> Tensor:
        """Returns the samples in the model's space, with shape (B, *spec.shape), in float32."""

    @abstractmethod
    def decode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns raw samples, with shape (B, *), from the model's space; what is padding becomes the raw padding."""

    @abstractmethod
    def net(self, config: Mapping[str, Any], two_times: bool) -> nn.Module:
        """Returns the backbone of a configuration (the `net` group: a size and overrides)."""

    @abstractmethod
    def preview(self, rows: Mapping[str, Tensor], file: pathlib.Path) -> pathlib.Path:
        """Writes what a person wants to look at: named rows of raw samples, each with shape (N, *). Returns the file."""

    @abstractmethod
    def write(self, raw: Tensor, names: list[str], folder: pathlib.Path, kind: str | None = None) -> list[pathlib.Path]:
        """Writes raw samples, with shape (N, *), one file each, and returns the files.

        Arguments:
            raw: The samples.
            names: Their names without the suffix; a slash in it makes a sub-folder.
            folder: Where to write them.
            kind: One of `kinds`; the first unless given.
        """

    @abstractmethod
    def arrays(self, raw: Tensor) -> dict[str, Any]:
        """Returns what `samples.npz` holds of the samples: arrays without objects, `x` first."""

    @abstractmethod
    def features(self, raw: Tensor, config: Mapping[str, Any]) -> Tensor:
        """Returns features for distances, with shape (N, D), in float64; or (N * K, D), if a sample has K rows."""

    @abstractmethod
    def vectors(self, raw: Tensor) -> Any:
        """Returns what a classifier sees of raw samples: a numpy array with shape (N, D)."""

    def void(self, raw: Tensor) -> Tensor:
        """Says which raw samples hold nothing, such as a sound that is silent, with shape (N,)."""
        return torch.zeros(len(raw), dtype=torch.bool)

    def check_kind(self, kind: str) -> None:  # noqa: B027 (most need nothing)
        """Raises a UsageError where what writes one of `kinds` is not installed."""

    def extractor(self, config: Mapping[str, Any]) -> str:
        """Returns what a table calls the features of a configuration: with a checksum, if others' weights make them."""
        return str(config.get("features", "default"))

    def duration(self) -> float | None:
        """Returns how many seconds a sample lasts; none where samples have no time."""
        return None

    def lasting(self, seconds: float) -> TensorSpec:
        """Returns the shape and scale of samples that last about so long, drawn by the same network.

        Raises:
            UsageError: Samples have no time, or cannot last so long.
        """
        raise UsageError(f"seconds={seconds} is not possible: samples of the modality '{self.name}' do not last.")

    def decoded_by(self, other: "Modality", flow_map: FlowMap) -> "Modality":
        """Returns the same modality, whose samples another model makes of what this one's model draws.

        Arguments:
            other: The modality of the other model.
            flow_map: Its map.

        Raises:
            UsageError: They do not fit, or nothing is left to make here.
        """
        raise UsageError(f"decoder= is not possible: samples of the modality '{self.name}' need none.")

    def board(self, rows: Mapping[str, Tensor], writer: Board, samples: int) -> None:  # noqa: B027 (it may show none)
        """Shows the rows of a preview in TensorBoard, at a number of samples seen."""

    def judges(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Returns, by name, the checksums of models from outside that measures judge by.

        Arguments:
            config: The `evaluation` group.

        Raises:
            UsageError: A measure needs one that is not named, or what is named is none.
            DataError: One cannot be used.
        """
        return {}

    def measure(self, name: str, samples: Dataset, real: Splits, config: Mapping[str, Any]) -> float:
        """Returns one of `measures` of samples, beside real ones; no finite number where it does not apply.

        Arguments:
            name: Its name.
            samples: The samples.
            real: The real ones.
            config: The `evaluation` group.
        """
        raise ValueError(f"the modality '{self.name}' has no measure '{name}'")

    def baselines(self, train: Dataset, count: int, parameters: int) -> Mapping[str, Callable[[], Tensor]]:
        """Returns, by name, what draws `count` raw samples by other means, of about as many parameters where it has some."""
        return {}

    def unlike(self, other: TensorSpec) -> str:
        """Says why data of another specification are none to judge this one's samples by; nothing if they are."""
        return ""

    def sample_mask(self, draws: Draws) -> Tensor:
        """Returns the mask, with shape (B, L...), of samples to be generated; only masked modalities have one."""
        raise ValueError(f"samples of the modality '{self.name}' have no mask")

    def measurement(self, how: str, options: Mapping[str, Any]) -> Measurement:
        """Returns what is known of samples that are edited, in the model's space.

        Arguments:
            how: The kind of editing, one of `edits`.
            options: What it depends on, such as `mask`.

        Raises:
            UsageError: There is no such kind here, or an option does not fit.
        """
        kinds = f"it is one of: {', '.join(self.edits)}." if self.edits else "its samples cannot be completed."
        raise UsageError(f"how={how} is not known to the modality '{self.name}'; {kinds}")

    def closeness(self, how: str, edited: Tensor, real: Tensor) -> Mapping[str, float]:
        """Returns how close edited samples, raw, with shape (N, *), are to the real ones, in numbers with names.

        Arguments:
            how: The kind of editing, one of `edits`.
            edited: The samples.
            real: What they were before anything of them was taken away.
        """
        return {}

    def told(self, x: Tensor, draws: Draws) -> Tensor:
        """Returns what a network is told of training samples, with shape (B, *): `Conditions.known`, if `net.known`."""
        raise UsageError(f"net.known=true: the modality '{self.name}' does not complete samples.")

    def augment(self, x: Tensor, uniform: Tensor, config: Mapping[str, Any]) -> Tensor:
        """Returns a random variation of samples, with shape (B, *), from one uniform number each, with shape (B,).

        Raises:
            UsageError: A setting of `train.augment` is unknown here.
        """
        if config:
            raise UsageError(
                f"train.augment={dict(config)} is not possible: the modality '{self.name}' varies no samples."
            )
        return x


def register_modality(name: str, adapter: type[Modality]) -> None:
    """Makes a modality known under a name."""
    _registered[name] = adapter


def find_modality(name: str) -> type[Modality]:
    """Returns the adapter of a name: registered, built in, or from an installed package's entry point.

    Raises:
        UsageError: There is no such modality.
    """
    if name in _registered:
        return _registered[name]
    if name.isidentifier() and importlib.util.find_spec(f"{BUILT_IN}.{name}"):
        return importlib.import_module(f"{BUILT_IN}.{name}").ADAPTER
    plugins = {entry.name: entry for entry in entry_points(group="cm_multimodal.modalities")}
    if name in plugins:
        return plugins[name].load()
    raise UsageError(f"There is no modality '{name}'; {nearest(name, {*_registered, *plugins, 'image'})}")
