r"""Solvers: training-free roads to the solution map, one file and one class each, known by the name of their file."""

__all__ = ["SOLVERS", "Solver"]

from ..registry import discover
from .base import Solver

SOLVERS: dict[str, type[Solver]] = discover(__name__, __path__, Solver)
