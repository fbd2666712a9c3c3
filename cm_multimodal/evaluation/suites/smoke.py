r"""Smoke: every modality from training to its scores, on reduced presets, in minutes."""

__all__ = ["Smoke"]

from ..across import Across


class Smoke(Across):
    """The suite's name, under which its settings lie in configs/benchmark."""

    name = "smoke"
