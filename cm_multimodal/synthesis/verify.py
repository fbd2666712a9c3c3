r"""Verifying a synthetic data set: every file against its checksum."""

__all__ = ["Fault", "verify"]

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import signals
from ..errors import DataError
from ..files import open_regular
from .record import SetFolder, Shard, checksum_of


@dataclass(frozen=True)
class Fault:
    """A file of a set, and what is wrong with it."""

    file: str
    what: str


def verify(out: Path) -> Iterator[Fault]:
    """Yields every file of a set that is missing, truncated or changed, and what does not belong there.

    Arguments:
        out: The folder of the set.

    Raises:
        UsageError: There is no set.
        DataError: Its plan cannot be read.
    """
    folder = SetFolder(out)
    plan = folder.plan()
    count = -(-plan["n"] // plan["shard"])
    shards = [folder.shard(number) for number in range(count)]
    missing = [number for number, shard in enumerate(shards) if shard is None]
    if not folder.sums.exists():
        yield Fault(folder.sums.name, f"the set is not finished: {count - len(missing)} of {count} shards are there")
    else:
        yield from (Fault(_record(number), "missing, or it cannot be read") for number in missing)
    yield from _faults(
        folder, [shard for shard in shards if shard is not None], [_record(number) for number in missing]
    )


def _record(number: int) -> str:
    return f"records/{number:05d}.json"


def _faults(folder: SetFolder, shards: list[Shard], known: list[str]) -> Iterator[Fault]:
    sizes = {name: size for shard in shards for name, (size, _) in shard.files.items()}
    sums = {name: digest for shard in shards for name, (_, digest) in shard.files.items()}
    listed = _listed(folder.sums) if folder.sums.exists() else {}
    there = (path for path in (folder.folder / "data").rglob("*") if path.is_file() and not path.name.startswith("."))
    strange = {path.relative_to(folder.folder).as_posix() for path in there} - sums.keys() - listed.keys()
    yield from (Fault(name, "it is not of this set") for name in sorted(strange))
    own = [path.as_posix() for path in folder.others()] if folder.sums.exists() else []
    for name in sorted({*sums, *listed, *own} - {*known}):
        signals.check()
        if folder.sums.exists() and name not in listed:
            yield Fault(name, f"{folder.sums.name} does not list it")
        elif name in sums and name in listed and sums[name] != listed[name]:
            yield Fault(name, f"{folder.sums.name} and the record of its shard disagree")
        digest = sums.get(name, listed.get(name))
        if digest is not None and (fault := _fault(folder.folder / name, digest, sizes.get(name))):
            yield Fault(name, fault)


def _fault(file: Path, digest: str, size: int | None) -> str:
    if not file.is_file():
        return "missing"
    there = file.stat().st_size
    if size is not None and there < size:
        return f"truncated: {there:,} of {size:,} bytes"
    return "" if checksum_of(file) == digest else "changed"


def _listed(file: Path) -> dict[str, str]:
    try:
        with open_regular(file) as stream:
            pairs = (line.decode().rstrip("\n").split("  ", 1) for line in stream)
            return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{file}' cannot be read: {error}. Remove it; the command that made the set writes it anew."
        ) from error
