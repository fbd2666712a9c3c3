r"""Video."""

__all__ = ["ADAPTER"]

from .adapter import VideoModality as ADAPTER
