r"""Wishes to stop: SIGTERM and Ctrl-C.

A signal ends the program at once and with a sentence; files are written whole or not at all, so that nothing is left half
done. Where something would be lost, it is deferred: noted, asked for by the loops, granted when the state is saved.
Whatever signal follows is noted too, and changes nothing.
"""

__all__ = ["CODES", "check", "deferred", "listening", "received"]

import contextlib
import signal

from collections.abc import Callable, Iterator
from types import FrameType

from .errors import Interrupted

CODES: dict[int, int] = {signal.SIGTERM: 75, signal.SIGINT: 130}
_noted: list[int] = []


def listening() -> contextlib.AbstractContextManager[None]:
    """Turns a signal into an error with a sentence, as long as the context lasts."""
    return _handled_by(_leave)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Notes signals instead of obeying them, as long as the context lasts."""
    _noted.clear()
    with _handled_by(lambda number, frame: _noted.append(number)):
        yield


def received() -> int:
    """Returns the number of the first signal that was noted, or 0."""
    return _noted[0] if _noted else 0


def check() -> None:
    """Ends a loop that may be left at any turn.

    Raises:
        Interrupted: A signal was noted.
    """
    if _noted:
        _leave(_noted[0], None)


def _leave(number: int, frame: FrameType | None) -> None:
    raise Interrupted("Stopped.", CODES[number])


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
