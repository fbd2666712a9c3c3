r"""The folder of a synthetic data set.

    plan.json             all that its bytes depend on; another plan is refused
    data/                 the samples
    samples.csv           a line for each: number, class, file
    records/00000.json    what a shard holds, written when all of it is on the disk
    report/               what the look for copies found
    README.md             the card: what this is, and how it was made
    manifest.json         the same for programs
    SHA256SUMS            a checksum of every file, as `sha256sum -c` reads them; written last

A shard without its record does not exist. What is begun has a name that starts with a dot, and goes at the end, as do the
locks, which are the kernel's: they end with the process that holds them, however that ends.
"""

__all__ = ["OWN", "Row", "SetFolder", "Shard", "checksum_of"]

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from ..files import read_text, write_text

LARGEST = 1 << 28  # bytes of a record
DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
OWN = ("plan.json", "samples.csv", "manifest.json", "README.md")


@dataclass(frozen=True)
class Row:
    """A sample: its number, its class (-1 without any), its file, and how sure the judge is of its class."""

    sample_id: int
    label: int
    file: str
    confidence: float | None = None


@dataclass(frozen=True)
class Shard:
    """What a shard holds.

    Arguments:
        number: Its number.
        calls: The network calls that a sample cost.
        rows: Its samples.
        left_out: The numbers of those that are not there, by the reason.
        files: The size and the checksum of each file.
    """

    number: int
    calls: int
    rows: tuple[Row, ...]
    left_out: Mapping[str, tuple[int, ...]]
    files: Mapping[str, tuple[int, str]]


@dataclass(frozen=True)
class SetFolder:
    """A synthetic data set on the disk.

    Arguments:
        folder: Where it lies.
    """

    folder: Path

    @property
    def sums(self) -> Path:
        """The file of all checksums; it is there when the set is whole."""
        return self.folder / "SHA256SUMS"

    @property
    def looked_at(self) -> Path:
        """Where the samples wait that are looked at for copies, until all are there."""
        return self.folder / ".audit"

    def claim(self, words: Mapping[str, Any]) -> None:
        """Writes the plan of the set, or holds it against the one that is there.

        Raises:
            UsageError: The folder holds another plan, or something else.
            DataError: The plan that is there cannot be read.
        """
        file = self.folder / "plan.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"'{self.folder}' is a file, not a folder; choose another with out=.") from error
        if file.exists():
            _compare(self.folder, self.plan(), words)
            return
        strange = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith(f".{file.name}."))
        if strange and not file.exists():
            raise UsageError(
                f"'{self.folder}' holds '{strange[0]}' and is no data set of cmm synth; choose another folder with out=."
            )
        write_text(file, json.dumps(words, indent=1, ensure_ascii=False) + "\n")

    @contextlib.contextmanager
    def held(self, what: str, wait: bool = False) -> Iterator[None]:
        """Keeps other processes from the same piece of work, as long as the context lasts.

        Arguments:
            what: A name for it.
            wait: Whether to wait for another process that is at it.

        Raises:
            UsageError: Another process is at it.
        """
        file = self.folder / f".{what}.lock"
        while True:
            with file.open("w") as stream:
                try:
                    fcntl.lockf(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (BlockingIOError, PermissionError) as error:
                    raise UsageError(
                        f"Another process makes this part of '{self.folder}' already. Wait for it, or stop it."
                    ) from error
                if not os.fstat(stream.fileno()).st_nlink:
                    continue  # the one that held it has finished, and removed it
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return

    def plan(self) -> dict[str, Any]:
        """Returns the plan.

        Raises:
            UsageError: There is none.
            DataError: It cannot be read.
        """
        file = self.folder / "plan.json"
        if not file.exists():
            raise UsageError(f"There is no data set in '{self.folder}': plan.json is missing.")
        try:
            plan = dict(json.loads(read_text(file)))
            if not all(type(plan[key]) is int and 1 <= plan[key] <= LARGEST for key in ("n", "shard")):
                raise ValueError("it does not say how many samples there are")
            return plan
        except DAMAGE as error:
            raise DataError(
                f"'{file}' cannot be read: {error}. Remove it, and synthesise into an empty folder."
            ) from error

    def shard(self, number: int) -> Shard | None:
        """Returns the record of a shard, or nothing where it is not whole."""
        file = self._record(number)
        try:
            raw = json.loads(read_text(file, LARGEST))
            rows = tuple(Row(*row) for row in raw.pop("rows"))
            files = {name: (int(size), str(digest)) for name, (size, digest) in raw.pop("files").items()}
            if raw["number"] != number:
                return None
            return Shard(rows=rows, files=files, **raw)
        except DAMAGE:
            return None

    def whole(self, number: int) -> bool:
        """Says whether a shard is there with all its files, by their sizes."""
        shard = self.shard(number)
        if shard is None:
            return False
        places = {name: self.folder / name for name in shard.files}
        return all(
            places[name].is_file() and places[name].stat().st_size == size for name, (size, _) in shard.files.items()
        )

    def write_shard(self, shard: Shard) -> None:
        """Writes the record of a shard; its files are on the disk."""
        file = self._record(shard.number)
        file.parent.mkdir(exist_ok=True)
        plain = {**dataclasses.asdict(shard), "rows": [dataclasses.astuple(row) for row in shard.rows]}
        write_text(file, json.dumps(plain, ensure_ascii=False, separators=(",", ":")) + "\n")

    def others(self) -> list[Path]:
        """Returns the set's own files, but for the samples and the list of checksums."""
        own = [self.folder / name for name in OWN]
        for part in ("records", "report"):
            own += [path for path in (self.folder / part).rglob("*") if not path.name.startswith(".")]
        return sorted(path.relative_to(self.folder) for path in own if path.is_file())

    def write_sums(self, shards: Iterable[Shard]) -> None:
        """Writes the checksums of all files, which says that the set is whole."""
        sums = {name: digest for shard in shards for name, (_, digest) in shard.files.items()}
        sums |= {path.as_posix(): checksum_of(self.folder / path) for path in self.others()}
        write_text(self.sums, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))

    def tidy(self) -> None:
        """Removes what was left behind half done."""
        parts = [path for part in ("data", "records", "report") for path in (self.folder / part).rglob(".*.tmp")]
        names = [*OWN, self.sums.name]
        for path in [*parts, *(path for name in names for path in self.folder.glob(f".{name}.*.tmp"))]:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.looked_at, ignore_errors=True)

    def _record(self, number: int) -> Path:
        return self.folder / "records" / f"{number:05d}.json"


def checksum_of(file: Path) -> str:
    """Returns the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _compare(folder: Path, there: Mapping[str, Any], words: Mapping[str, Any]) -> None:
    keys = [key for key in sorted({*there, *words}) if there.get(key) != words.get(key)]
    if keys:
        differs = "; ".join(f"{key}={there.get(key)} there and {words.get(key)} here" for key in keys)
        raise UsageError(f"'{folder}' holds another plan: {differs}. Choose another folder with out=.")
