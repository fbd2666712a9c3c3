r"""Objectives: ways of learning the solution map, one file and one class each, known by the name of their file."""

__all__ = ["OBJECTIVES", "Objective"]

from ..registry import discover
from .base import Objective

OBJECTIVES: dict[str, type[Objective]] = discover(__name__, __path__, Objective)
