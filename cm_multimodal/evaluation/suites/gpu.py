r"""GPU: all modalities on one GPU; resumable, case by case."""

__all__ = ["Gpu"]

from ..across import Across


class Gpu(Across):
    """The suite's name, under which its settings lie in configs/benchmark."""

    name = "gpu"
