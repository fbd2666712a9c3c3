r"""Errors that are sentences.

A mistake of the person at the keyboard is raised as one of the classes below; the command line prints its text and
leaves with its exit code. Anything else that escapes is a defect of the program (exit code 1).
"""

__all__ = ["DataError", "Diverged", "Interrupted", "UsageError", "UserError", "nearest"]

from collections.abc import Iterable
from difflib import get_close_matches

MANY = 60  # names, of which those in groups are listed by their groups


class UserError(Exception):
    """A sentence for the person who made the mistake: what is wrong, where, what to type next."""

    exit_code = 2


class UsageError(UserError, ValueError):
    """What was typed is wrong: an option, a name, a path that does not exist, another plan (exit code 2)."""

    exit_code = 2


class DataError(UserError):
    """What lies in the files is wrong: empty, broken, damaged (exit code 3)."""

    exit_code = 3


class Diverged(UserError):
    """Training ran into numbers that are not finite (exit code 4)."""

    exit_code = 4


class Interrupted(UserError):
    """A signal asked the run to stop; its state is saved (exit code 75 for SIGTERM, 130 for Ctrl-C)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(name: str, known: Iterable[str]) -> str:
    """Says which of the known names is meant, or lists them all; many of them by their groups, which end in a dot."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    if len(known) > MANY:
        groups = {each.split(".")[0] for each in known if "." in each}
        known = sorted({f"{first}." if first in groups else first for first in (each.split(".")[0] for each in known)})
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}."
