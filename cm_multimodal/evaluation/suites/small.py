r"""Small: all modalities on two CPU cores."""

__all__ = ["Small"]

from ..across import Across


class Small(Across):
    """The suite's name, under which its settings lie in configs/benchmark."""

    name = "small"
