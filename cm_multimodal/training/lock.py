r"""One training at a time in a run's folder.

The lock is the kernel's: it ends with the process that holds it, however that ends. The file says who held it last.
"""

__all__ = ["locked"]

import contextlib
import fcntl
import json
import os
import platform

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from ..errors import UsageError

LOCK = "lock"


@contextlib.contextmanager
def locked(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Keeps other trainings out of a folder, as long as the context lasts.

    Raises:
        UsageError: Another process trains there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"The run folder '{folder}' cannot be written: {error}. Choose another with runs=.") from error
    with open(handle, "r+") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UsageError(
                f"The run '{folder}' is being trained already, by {_holder(stream.read())}. Wait for it, stop it, or "
                "give this one another name=."
            ) from error
        except OSError as error:
            report(f"'{folder}' cannot be locked ({error}): see to it that only one training uses it.")
        if left := stream.read():
            report(f"The run was left unfinished by {_holder(left)}, which is gone; this one takes over.")
        _write(stream, json.dumps({"process": os.getpid(), "host": platform.node()}))
        try:
            yield
        finally:
            _write(stream, "")


def _write(stream: TextIO, text: str) -> None:
    stream.seek(0)
    stream.truncate()
    stream.write(text)
    stream.flush()


def _holder(text: str) -> str:
    try:
        who = json.loads(text)
        return f"process {who['process']} on {who['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
