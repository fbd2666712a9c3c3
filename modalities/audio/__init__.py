r"""Sounds."""

__all__ = ["ADAPTER"]

from .adapter import AudioModality as ADAPTER
