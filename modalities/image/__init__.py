r"""Pictures."""

__all__ = ["ADAPTER"]

from .adapter import ImageModality as ADAPTER
