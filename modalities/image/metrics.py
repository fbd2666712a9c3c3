r"""Features for distances between sets of pictures, and what a classifier sees of them."""

__all__ = ["extractor", "features", "vectors"]

import functools
import numpy as np
import torch

from cm_multimodal.errors import DataError, UsageError, nearest
from cm_multimodal.listing import data_root
from collections.abc import Mapping
from pathlib import Path
from torch import Tensor
from torch.nn import functional as F
from typing import Any

from . import inception
from .packed import DAMAGE

EXTRACTORS = ("pixels", "resnet20", "inception")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def features(raw: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Returns features, with shape (N, D), in float64.

    Arguments:
        raw: Pictures in uint8, with shape (N, C, H, W).
        config: `features`: 'pixels' (flattened, in 0-2 units) or 'resnet20' (the 64 penultimate features of a CIFAR-10
            classifier in `features/cifar10_resnet20.npz` under the data root) or 'inception', of which `feature_weights` is
            the file of its network.

    Raises:
        UsageError: There are no such features, or not of such pictures.
    """
    name = _name(config)
    if name == "inception":
        return inception.embeddings(raw, inception.network_of(config))
    return raw.flatten(1).double() / 127.5 if name == "pixels" else _resnet20_features(raw, config)


def extractor(config: Mapping[str, Any]) -> str:
    """Returns the name of the features, with a checksum of the file that they come from."""
    name = _name(config)
    return f"{name}, network {inception.network_of(config).digest}" if name == "inception" else name


def _name(config: Mapping[str, Any]) -> str:
    name = str(config.get("features") or "pixels")
    if name not in EXTRACTORS:
        raise UsageError(f"There are no features '{name}'; {nearest(name, EXTRACTORS)}")
    return name


def vectors(raw: Tensor) -> np.ndarray:
    """Returns the pixels, in [0, 1], with shape (N, C * H * W)."""
    return raw.flatten(1).numpy() / 255.0


@torch.no_grad()
def _resnet20_features(raw: Tensor, config: Mapping[str, Any]) -> Tensor:
    if raw.shape[1:] != (3, 32, 32):
        raise UsageError(f"The features 'resnet20' are for 32x32 colour pictures, not {tuple(raw.shape[1:])}.")
    weights = _resnet20(data_root(config.get("root")) / "features" / "cifar10_resnet20.npz")
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    parts = [_resnet20_forward((part.float() / 255 - mean) / std, weights) for part in raw.split(250)]
    return torch.cat(parts).double()


@functools.lru_cache(maxsize=1)
def _resnet20(file: Path) -> dict[str, Tensor]:
    if not file.exists():
        raise UsageError(f"The features 'resnet20' need '{file}'; set data.root= or CMM_DATA, or use features=pixels.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name.removeprefix("module."): torch.from_numpy(archive[name]) for name in archive.files}
    except DAMAGE as error:
        raise DataError(f"The weights '{file}' cannot be read: {error}.") from error


def _resnet20_forward(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """The residual network of He et al. (2015), section 4.2, with n = 3: returns its averaged last state, (N, 64)."""

    def norm(h: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (w[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(h, mean, variance, weight, bias)

    h = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = F.relu(norm(F.conv2d(h, w[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            out = norm(F.conv2d(out, w[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                quarter = h.shape[1] // 2
                h = F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            h = F.relu(out + h)
    return h.mean(dim=(2, 3))
