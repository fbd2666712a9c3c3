r"""I3D: the features of the Fréchet video distance (FVD), for whoever has the published network as a file.

It is the TorchScript file that most programs for FVD share (`i3d_torchscript.pt`): the network of the distance's
authors, learned from Kinetics-400, whose 400 logits are the features. Numbers of others were made alike only if
all of this is the same:

frames   all of a clip, as many as it has, from `FRAMES` on, at its own rate; grey ones are grey in all three colours
pixels   brought to 224x224 by linear interpolation of the two nearest each way, without a filter, whatever the frame's sides
values   from -1 to 1; the file's own rescaling and resizing are off
clips    those of the evaluation, as many generated as real ones unless `n=` says otherwise

A TorchScript file is a program, not numbers alone: it is run. Only give one that you trust.

References:
    | Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset (Carreira & Zisserman, 2017)
    | Towards Accurate Generative Models of Video: A New Metric & Challenges (Unterthiner et al., 2018)
"""

__all__ = ["FRAMES", "embeddings", "network_of"]

import torch

from cm_multimodal.errors import UsageError
from cm_multimodal.scripted import Scripted, read_scripted
from collections.abc import Mapping
from torch import Tensor
from torch.nn import functional as F
from typing import Any

FILE = "i3d_torchscript.pt"
SIDE, CLIPS = 224, 8
FRAMES = 10  # what its halvings along time, and a mean over two that are left, ask for


def embeddings(raw: Tensor, network: Scripted) -> Tensor:
    """Returns the features, with shape (N, 400), in float64, of clips with shape (N, T, C, H, W), in uint8.

    Raises:
        UsageError: The clips are too short.
        DataError: The file holds another network.
    """
    if raw.shape[1] < FRAMES:
        raise UsageError(f"The features 'i3d' need clips of at least {FRAMES} frames; these have {raw.shape[1]}.")
    return torch.cat([_embedded(part, network) for part in raw.split(CLIPS)]).double()


def _embedded(raw: Tensor, network: Scripted) -> Tensor:
    frames = raw.expand(-1, -1, 3, -1, -1).flatten(0, 1).float() / 127.5 - 1
    frames = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False)
    clips = frames.unflatten(0, raw.shape[:2]).transpose(1, 2).contiguous()
    return network.rows(clips, rescale=False, resize=False, return_features=True)


def network_of(config: Mapping[str, Any]) -> Scripted:
    """Reads the network.

    Arguments:
        config: `feature_weights`, the file; unless given, `features/i3d_torchscript.pt` under the data root.

    Raises:
        UsageError: There is no such file.
        DataError: It holds something else.
    """
    return read_scripted(config, "i3d", FILE)
