r"""Wishes to stop: SIGTERM and Ctrl-C.

A signal ends the program at once and with a sentence; files are written whole or not at all, so that nothing is left half
done. Where something would be lost, it is deferred: noted, asked for by the loops, granted when the state is saved.
Whatever signal follows is noted too, and changes nothing. A wish is granted once: what the same program does next, in a
notebook, is not stopped by it. One that comes when hardly anything is left to do outlasts that, and stops what comes next.
"""

__all__ = ["CODES", "check", "deferred", "grant", "listening", "received"]

import contextlib
import signal

from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from .errors import Interrupted

STOPPED = "Stopped."
CODES: dict[int, int] = {signal.SIGTERM: 75, signal.SIGINT: 130}
_noted: list[int] = []
_deferring: list[None] = []


def listening() -> contextlib.AbstractContextManager[None]:
    """Turns a signal into an error with a sentence, as long as the context lasts."""
    return _handled_by(lambda number, frame: grant(number))


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Notes signals instead of obeying them, as long as the context lasts."""
    _deferring.append(None)
    try:
        with _handled_by(lambda number, frame: _noted.append(number)):
            yield
    except Interrupted:
        _noted.clear()
        raise
    finally:
        _deferring.pop()


def received() -> int:
    """Returns the number of the first signal that was noted, or 0."""
    return _noted[0] if _noted else 0


def check() -> None:
    """Ends a loop that may be left at any turn; who defers signals still has to grant the wish.

    Raises:
        Interrupted: A signal was noted.
    """
    if _noted and _deferring:
        raise Interrupted(STOPPED, CODES[_noted[0]])
    if _noted:
        grant(_noted[0])


def grant(number: int, sentence: str = STOPPED) -> NoReturn:
    """Ends what runs, as a signal wishes.

    Raises:
        Interrupted: With the sentence.
    """
    _noted.clear()
    raise Interrupted(sentence, CODES[number])


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handler) for number in CODES}
    except ValueError:  # not in the main thread: whoever runs this thread sees to signals
        before = {}
    try:
        yield
    finally:
        for number, other in before.items():
            signal.signal(number, other)
