r"""Inception: the features of the Fréchet inception distance (FID), for whoever has the published network as a file.

It is the TorchScript file of StyleGAN2's authors (`inception-2015-12-05.pt`): the network of the distance's authors, with
its weights and its resizing, whose 2,048 features before the last layer are used. Numbers of others were made alike only if
all of this is the same:

pictures   50,000 generated ones, against the whole training split, each rounded to whole numbers from 0 to 255
colours    three; grey pictures are grey in all of them
resizing   to 299x299, as TensorFlow 1 did, by the file itself

A TorchScript file is a program, not numbers alone: it is run. Only give one that you trust.

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al., 2017)
    | On Aliased Resizing and Surprising Subtleties in GAN Evaluation (Parmar et al., 2021): what resizing does
"""

__all__ = ["PICTURES", "embeddings", "network_of"]

import torch

from cm_multimodal.scripted import Scripted, read_scripted
from collections.abc import Mapping
from torch import Tensor
from typing import Any

FILE, BATCH = "inception-2015-12-05.pt", 64
PICTURES = 50_000


def embeddings(raw: Tensor, network: Scripted) -> Tensor:
    """Returns the features, with shape (N, 2048), in float64, of pictures with shape (N, C, H, W), in uint8.

    Raises:
        DataError: The file holds another network.
    """
    parts = (part.expand(-1, 3, -1, -1).contiguous() for part in raw.split(BATCH))
    return torch.cat([network.rows(part, return_features=True) for part in parts]).double()


def network_of(config: Mapping[str, Any]) -> Scripted:
    """Reads the network.

    Arguments:
        config: `feature_weights`, the file; unless given, `features/inception-2015-12-05.pt` under the data root.

    Raises:
        UsageError: There is no such file.
        DataError: It holds something else.
    """
    return read_scripted(config, "inception", FILE)
