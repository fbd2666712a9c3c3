r"""Texts."""

__all__ = ["ADAPTER"]

from .adapter import TextModality as ADAPTER
