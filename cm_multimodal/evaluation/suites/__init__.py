r"""Benchmark suites, one file and one class each, known by the name of their file."""

__all__ = ["SUITES"]

from ...registry import discover
from ..benchmark import Suite

SUITES: dict[str, type[Suite]] = discover(__name__, __path__, Suite)
