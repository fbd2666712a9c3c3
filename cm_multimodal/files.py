r"""Files that are there whole or not at all: written beside their place, synced to the disk, then renamed."""

__all__ = ["digest", "open_regular", "read_text", "replaced", "sync", "write_tensors", "write_text"]

import contextlib
import errno
import hashlib
import io
import os
import safetensors.torch
import secrets
import stat

from collections.abc import Iterator, Mapping
from pathlib import Path
from safetensors import SafetensorError
from torch import Tensor


@contextlib.contextmanager
def replaced(file: Path, durable: bool = True) -> Iterator[Path]:
    """Gives the place to write to. It takes the file's place at the end; after an error the file is as it was.

    Arguments:
        file: The file.
        durable: Whether to wait for the disk, so that not even a power cut leaves half a file.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield part
        if durable:
            sync(part)
        os.replace(part, file)
        if durable:
            sync(file.parent)
    finally:
        part.unlink(missing_ok=True)


def digest(file: Path) -> str:
    """Returns the first 12 digits of a file's SHA-256."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def open_regular(file: Path) -> io.BufferedReader:
    """Opens a file to read; what is none (a pipe, a device, a folder) would wait or never end, and is refused.

    Raises:
        OSError: It is no regular file, or cannot be opened.
    """
    stream = open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    return stream


def read_text(file: Path, limit: int = 1 << 20) -> str:
    """Reads a text file of at most so many bytes.

    Raises:
        OSError: It cannot be read, or is larger.
        UnicodeDecodeError: It is no text.
    """
    with open_regular(file) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EINVAL, "it is too large", str(file))
    return content.decode()


def write_text(file: Path, text: str) -> None:
    """Writes a text file."""
    with replaced(file) as part:
        part.write_text(text, encoding="utf-8")


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes named tensors, moved to the CPU, as safetensors.

    Raises:
        OSError: There is no place for them, or they cannot be written.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        with replaced(file) as part:
            safetensors.torch.save_file(plain, part)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(file)) from error


def sync(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
