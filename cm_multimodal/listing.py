r"""Finding files of a kind: in a folder or in a .zip of one, which class each belongs to, and which are held back.

Sub-folders are the classes; a single folder around all of them is looked through. Where files lie both directly in
the folder and in sub-folders, the larger part decides: mostly inside, those beside the class folders are left out;
mostly beside, there are no classes. The share held back to test is chosen by a hash of each file's relative path, so
that a file stays on its side whatever else is added.

A link to a folder is followed once, hidden files are left out, and an archive is never unpacked to the disk.
"""

__all__ = [
    "BESIDE",
    "Kind",
    "Listing",
    "Opener",
    "attempt_all",
    "class_of",
    "data_root",
    "feature_file",
    "find_files",
    "hold_out",
    "list_archive",
    "list_folder",
    "readable",
    "reason_of",
]

import io
import os
import stat
import struct
import zipfile

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from .errors import DataError, UsageError
from .modality import Skipped

BESIDE = "it lies beside the class folders"
BLOCK = 64  # files that a thread takes at a time
MAX_DIRECTORY_BYTES = 4 * 2**20  # of an archive's table of contents: fifty thousand pictures, about

T = TypeVar("T")
S = TypeVar("S")
Opener = Callable[[], BinaryIO]


@dataclass(frozen=True)
class Kind:
    """What files are looked for.

    Arguments:
        noun: What one of them is, such as "picture".
        extensions: What their names end with, in small letters.
        heads: What they begin with.
        most_bytes: The largest size of one in an archive.
    """

    noun: str
    extensions: tuple[str, ...]
    heads: tuple[bytes, ...]
    most_bytes: int = 2**26

    def has(self, path: PurePosixPath) -> bool:
        """Says whether a file's name is one of these, and not hidden."""
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        return not hidden and path.suffix.lower() in self.extensions


@dataclass(frozen=True)
class Listing:
    """The files that were found, in order of their relative paths, and the folders that could not be looked into."""

    openers: dict[PurePosixPath, Opener]
    skipped: tuple[Skipped, ...] = ()


def data_root(root: str | Path | None) -> Path:
    """Returns the folder that holds the data sets: the option `data.root`, or else `$CMM_DATA`, or else `./data`."""
    return Path(root or os.environ.get("CMM_DATA") or "data").expanduser()


def feature_file(config: Mapping[str, Any], features: str, name: str) -> Path:
    """Returns the file that features need and nobody fetches: `feature_weights`, or `features/NAME` under the data root.

    Raises:
        UsageError: There is none.
    """
    given = config.get("feature_weights")
    file = Path(str(given)).expanduser() if given else data_root(config.get("root")) / "features" / name
    if not file.is_file():
        raise UsageError(
            f"The features '{features}' need their weights, and there is no file '{file}': type feature_weights=PATH."
        )
    return file


def reason_of(error: Exception) -> str:
    """Says in a few words why something could not be read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def attempt_all(
    work: Callable[[T], S], items: Sequence[T], reason: Callable[[Exception], str] = reason_of
) -> list[tuple[S | None, str]]:
    """Returns, in the order of the items, what the work gives for each of them, or why it failed; by several threads."""

    def attempt(item: T) -> tuple[S | None, str]:
        try:
            return work(item), ""
        except Exception as error:  # a decoder fed with foreign bytes may raise anything
            return None, reason(error)

    blocks = [items[start : start + BLOCK] for start in range(0, len(items), BLOCK)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return [result for done in pool.map(lambda block: [attempt(item) for item in block], blocks) for result in done]


def readable(name: object) -> str:
    """Returns a file name that can be printed and written, whatever bytes it is made of."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _in_order(openers: Mapping[PurePosixPath, Opener]) -> dict[PurePosixPath, Opener]:
    return {path: openers[path] for path in sorted(openers)}


def _open_file(path: str) -> BinaryIO:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")  # opening a pipe would wait for ever
    if not status.st_size:
        raise ValueError("the file is empty (0 bytes)")
    return open(path, "rb")


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, kind: Kind) -> BinaryIO:
    if not 0 < info.file_size <= kind.most_bytes:
        raise ValueError(f"{info.file_size:,} bytes are none, or more than {kind.most_bytes:,}")
    with archive.open(info) as member:
        head = member.read(4)
        if not head.startswith(kind.heads):
            raise ValueError(f"not a {kind.noun}, whatever its name says")
        return io.BytesIO(
            head + member.read(info.file_size)
        )  # asked for less, it unpacks less: a stated size may be a lie


def _enter(folder: Path, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        raise ValueError("a link to a folder that was read already")
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def find_files(kind: Kind, folder: str | Path | None) -> Listing:
    """Finds what the option `data.folder` names.

    Raises:
        UsageError: It is not given, or there is no such folder.
        DataError: There is no file of the kind in it.
    """
    if folder is None:
        raise UsageError(
            f"Which folder? Type data.folder=PATH, a folder of {kind.noun}s with a sub-folder for each class."
        )
    place = Path(folder).expanduser()
    if not place.exists():
        raise UsageError(f"There is no folder '{place}'; type data.folder=PATH, the path of a folder of {kind.noun}s.")
    if not place.is_dir() and place.suffix.lower() != ".zip":
        raise UsageError(
            f"'{place}' is a file; type data.folder=PATH, the path of a folder of {kind.noun}s or of a .zip."
        )
    listing = list_folder(place, kind) if place.is_dir() else list_archive(place, kind)
    if not listing.openers:
        closed = "".join(f" '{one.path}': {one.reason}." for one in listing.skipped[:3])
        looked = ", ".join(kind.extensions)
        raise DataError(f"'{place}' holds no {kind.noun}: looked for {looked} in it and in its sub-folders.{closed}")
    return listing


def list_folder(folder: Path, kind: Kind) -> Listing:
    """Finds the files of a kind below a folder that exists."""
    openers: dict[PurePosixPath, Opener] = {}
    skipped: list[Skipped] = []
    seen: set[tuple[int, int]] = set()
    todo = deque([folder])
    while todo:
        here = todo.pop()
        try:
            entries = _enter(here, seen)
        except (OSError, ValueError) as error:
            skipped.append(Skipped(readable(here.relative_to(folder)), reason_of(error)))
            continue
        for entry in entries:
            path = PurePosixPath(Path(entry.path).relative_to(folder))
            if os.path.isdir(entry.path) and not entry.name.startswith("."):
                add = todo.appendleft if entry.is_symlink() else todo.append  # real folders go before links to them
                add(folder / path)
            elif kind.has(path):
                openers[path] = partial(_open_file, entry.path)
    return Listing(_in_order(openers), tuple(skipped))


def list_archive(file: Path, kind: Kind) -> Listing:
    """Finds the files of a kind in a .zip of a folder.

    Raises:
        DataError: It is no archive, a damaged one, or one with too many members.
    """
    try:
        archive = _open_archive(file)
    except (OSError, ValueError, zipfile.BadZipFile, struct.error) as error:
        raise DataError(f"'{file}' cannot be read as a .zip archive: {reason_of(error)}.") from error
    openers: dict[PurePosixPath, Opener] = {}
    skipped: list[Skipped] = []
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if reason := _suspicious(info, path, openers):
            skipped.append(Skipped(readable(path), reason))
        elif kind.has(path) and not info.is_dir():
            openers[path] = partial(_open_member, archive, info, kind)
    return Listing(_in_order(openers), tuple(skipped))


def _open_archive(file: Path) -> zipfile.ZipFile:
    """Opens an archive after its size was looked at: opening reads the whole table of contents."""
    with file.open("rb") as stream:
        end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]
    if end and end[zipfile._ECD_SIZE] > MAX_DIRECTORY_BYTES:  # type: ignore[attr-defined]
        raise ValueError("it has too many members; unpack it, and name the folder instead")
    return zipfile.ZipFile(file)


def _suspicious(info: zipfile.ZipInfo, path: PurePosixPath, known: Mapping[PurePosixPath, Opener]) -> str:
    """Says what is wrong with a member that no honest archive has; nothing otherwise."""
    if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in path.parts[0]:
        return "its name points outside the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "it is a link"
    return "the archive holds it twice" if path in known else ""


def class_of(paths: Sequence[PurePosixPath]) -> dict[PurePosixPath, str | None]:
    """Returns the class of every file that counts: the name of its sub-folder, or none without classes."""
    depth = 0
    while len({path.parts[depth] for path in paths}) == 1 and all(len(path.parts) > depth + 2 for path in paths):
        depth += 1
    inside = [path for path in paths if len(path.parts) > depth + 1]
    if 2 * len(inside) < len(paths):
        return dict.fromkeys(paths)
    return {path: readable(path.parts[depth]) for path in inside}


def _share(path: PurePosixPath) -> float:
    return int.from_bytes(blake2b(os.fsencode(path), digest_size=8).digest()) / 2**64


def hold_out(
    classes: Mapping[PurePosixPath, str | None], fraction: float, limit: int | None
) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """Returns the files to learn from and those held back, each in order of their paths.

    Of every class one file at least is learned from; if any are to be held back and can be, at least one is.

    Arguments:
        classes: The class of each file.
        fraction: The share to hold back.
        limit: The largest number to learn from; they are taken evenly from all of them.
    """
    ranked = sorted(classes, key=_share)
    kept = set({classes[path]: path for path in ranked}.values())
    spare = [path for path in ranked if path not in kept]
    held = {path for path in spare if _share(path) < fraction} or set(spare[:1] if fraction else [])
    return sorted([path for path in ranked if path not in held][:limit]), sorted(held)
