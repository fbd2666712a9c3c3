r"""Networks of others whose features distances are measured on, each a TorchScript file that a person brings.

Such a file is a program, not numbers alone: it is run. Only give one that you trust.
"""

__all__ = ["Scripted", "read_scripted"]

import functools
import torch

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor
from typing import Any

from .errors import DataError, Interrupted
from .files import digest
from .listing import feature_file
from .machine import choose_device


@dataclass(frozen=True)
class Scripted:
    """A network from a file.

    Arguments:
        run: The network.
        features: What its features are called.
        file: The usual name of its file.
        digest: The first 12 digits of the file's SHA-256.
        device: Where it is run.
    """

    run: Callable[..., Tensor]
    features: str
    file: str
    digest: str = ""
    device: torch.device = torch.device("cpu")

    @torch.no_grad()
    def rows(self, x: Tensor, **switches: bool) -> Tensor:
        """Returns its features of a batch, with shape (B, D), on the CPU.

        Raises:
            DataError: The file holds another network.
        """
        try:
            out = self.run(x.to(self.device), **switches)
        except Interrupted:
            raise
        except Exception as error:  # a foreign program may raise anything
            raise DataError(
                f"The file {self.file} of features={self.features} could not be run: it holds another network."
            ) from error
        if not (isinstance(out, Tensor) and out.ndim == 2 and len(out) == len(x)):
            raise DataError(
                f"The file {self.file} of features={self.features} gives no row a sample: it holds another network."
            )
        return out.cpu()


def read_scripted(config: Mapping[str, Any], features: str, file: str) -> Scripted:
    """Reads a network.

    Arguments:
        config: `feature_weights`, the file; unless given, `features/FILE` under the data root.
        features: What its features are called.
        file: The usual name of its file.

    Raises:
        UsageError: There is no such file.
        DataError: It holds something else.
    """
    return _read(feature_file(config, features, file), features, file)


@functools.lru_cache(maxsize=1)
def _read(path: Path, features: str, file: str) -> Scripted:
    device = choose_device("auto")
    try:
        return Scripted(torch.jit.load(path, device).eval(), features, file, digest(path), device)
    except Interrupted:
        raise
    except Exception as error:  # what a foreign file makes of a reader is open
        raise DataError(f"'{path}' cannot be read as a TorchScript file, such as {file} is.") from error
