r"""Files of text, in a folder, in a .zip of one, or one alone: documents to learn from and documents held back.

    .txt .md .rst                a document; or each of its lines is one
    .jsonl .json-lines .ndjson   an object a line: a document is what it has under the key `column`
    .csv                         a document is the cell of a row in the column `column`; commas or semicolons divide cells
    .tsv                         likewise, but tabs do; quotation marks around a cell are taken off

Each may be compressed (.gz). The encoding is UTF-8; a byte order mark and NUL characters are dropped, the line ends of
Windows become those of others, and all else stays. Rows are held back by a hash of their text, so that equal ones are on one
side. Text files are held back whole, by a hash of their path; where they are too few for that, each is divided: its lines by
a hash as well, or its last part is held back.
"""

__all__ = ["Documents", "Form", "read_folder", "read_text"]

import contextlib
import csv
import gzip
import io
import json
import re

from cm_multimodal import signals
from cm_multimodal.errors import DataError, UsageError, UserError
from cm_multimodal.listing import BESIDE, Kind, Listing, Opener, class_of, find_files, hold_out, readable, reason_of
from cm_multimodal.modality import Skipped
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

PLAIN = (".txt", ".md", ".rst")
MOST_BYTES = 2**28  # of all files together, unpacked
MOST_CLASSES = 1000
CONTAINED = (".jsonl", ".json-lines", ".ndjson", ".csv", ".tsv")
TEXT = Kind("text", (*PLAIN, *CONTAINED, ".gz"), (b"",), MOST_BYTES)
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Documents:
    """The texts of a data set.

    Arguments:
        train: Those to learn from.
        test: Those held back.
        train_label: The class of each to learn from; none without classes.
        test_label: The class of each that is held back; none without classes.
        classes: The names of the classes.
        skipped: What could not be used.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    train_label: tuple[int, ...] | None = None
    test_label: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Form:
    """How the files of a folder are read.

    Arguments:
        column: The key or the column of the text.
        label: The key or the column of the class; none: sub-folders are the classes.
        lines: Whether each line of a text file is a document.
        test_fraction: The share of the documents that is held back.
    """

    column: str = "text"
    label: str | None = None
    lines: bool = False
    test_fraction: float = 0.1


@dataclass(frozen=True)
class Row:
    """A text and its class, if it tells one."""

    text: str
    label: str | None = None


@dataclass(frozen=True)
class Content:
    """The rows of a file, and why others of them cannot be used; one row for a file that has none."""

    rows: tuple[Row, ...]
    wrong: str = ""


@dataclass(frozen=True)
class Unit:
    """A document, and what decides whether it is held back: its key, or that it is known already."""

    row: Row
    key: PurePosixPath
    held: bool | None = None


@dataclass
class Budget:
    """The bytes that may still be read.

    Arguments:
        place: What is read.
        left: How many bytes of it.
    """

    place: str
    left: int = field(default_factory=lambda: MOST_BYTES)

    def spend(self, count: int) -> None:
        """Takes bytes off.

        Raises:
            DataError: They are too many.
        """
        signals.check()
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"'{self.place}' holds more than {MOST_BYTES:,} bytes of text, which is the most that is read into memory: "
                "type data.folder=PATH of a part of it."
            )


class Metered(io.RawIOBase):
    """A stream whose bytes are counted, so that none is read that memory has no room for."""

    def __init__(self, stream: Any, budget: Budget) -> None:
        self.stream, self.budget = stream, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        self.budget.spend(len(data))
        buffer[: len(data)] = data
        return len(data)


def _clean(text: str) -> str:
    """Returns a text without NUL characters, Windows' line ends and halves of characters."""
    return SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\0", "").replace("\r\n", "\n"))


@contextlib.contextmanager
def _opened(path: PurePosixPath, opener: Opener, budget: Budget) -> Iterator[TextIO]:
    with contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(opener())
        if path.suffix.lower() == ".gz":
            stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
        metered = io.BufferedReader(Metered(stream, budget), 1 << 20)
        yield stack.enter_context(io.TextIOWrapper(metered, "utf-8-sig", newline="\n"))


def read_text(path: PurePosixPath, opener: Opener, budget: Budget | None = None) -> str:
    """Reads a text file, compressed or not.

    Raises:
        OSError, EOFError, ValueError: It is damaged, no UTF-8, or empty.
        DataError: It is too long.
    """
    with _opened(path, opener, budget or Budget(readable(path))) as file:
        text = _clean(file.read()).strip("\n")
    if not text.strip():
        raise ValueError("it holds no text")
    return text


Reader = Callable[[TextIO, Form], Iterator[Row | str]]


def _row(values: Mapping[str, Any], form: Form, where: str) -> Row | str:
    """Returns a row, or what is wrong with it."""
    text = values.get(form.column)
    if not isinstance(text, str):
        return f"{where} has no text '{form.column}'"
    if form.label is None:
        return Row(_clean(text))
    label = values.get(form.label)
    name = _clean(str(label)).strip() if isinstance(label, str | int | float) else ""
    return Row(_clean(text), name) if name else f"{where} has no class '{form.label}'"


def _objects(file: TextIO, form: Form) -> Iterator[Row | str]:
    for number, line in enumerate(file, start=1):
        try:
            values = json.loads(line.replace("\0", "")) if line.strip() else None
        except (ValueError, RecursionError):
            yield f"line {number} is no JSON"
            continue
        if isinstance(values, dict):
            yield _row(values, form, f"line {number}")
        elif line.strip():
            yield f"line {number} is no JSON object"


def _cells(file: TextIO, form: Form, tabs: bool = False) -> Iterator[Row | str]:
    csv.field_size_limit(MOST_BYTES)
    head = file.readline().replace("\0", "")
    lines = chain([head], (line.replace("\0", "") for line in file))
    if tabs:
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines, delimiter=";" if head.count(";") > head.count(",") else ",", strict=True)
    names = [_bare(name).strip() for name in next(rows, [])]
    for option, key in (("column", form.column), ("label", form.label)):
        if key is not None and key not in names:
            known = ", ".join(name[:20] for name in names[:8])
            raise ValueError(f"it has no column '{key}', only: {known}; type data.{option}=NAME of one of them")
    while True:
        where = f"line {rows.line_num + 1}"
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            end = "a quotation mark opens and never closes: all after it is lost"
            yield f"{where}: {end if 'end of data' in str(error) else error}"
            continue
        if len(cells) == len(names):
            yield _row(dict(zip(names, map(_bare, cells) if tabs else cells, strict=True)), form, where)
        elif cells:
            yield f"{where} has {len(cells)} cells, not {len(names)}"


def _bare(cell: str) -> str:
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if quoted else cell


READERS: dict[str, Reader] = {
    **dict.fromkeys((".jsonl", ".json-lines", ".ndjson"), _objects),
    ".csv": _cells,
    ".tsv": partial(_cells, tabs=True),
}


def _kind(path: PurePosixPath) -> str:
    return PurePosixPath(path.name.lower().removesuffix(".gz")).suffix


def _content(path: PurePosixPath, opener: Opener, form: Form, budget: Budget) -> Content:
    """Reads a file; empty rows are left out.

    Raises:
        Exception: There is nothing in it that can be used; the message says why.
    """
    if _kind(path) in PLAIN:
        if form.label is not None:
            raise ValueError(f"it has no data.label={form.label}, as rows of JSON lines or CSV have")
        return Content((Row(read_text(path, opener, budget)),))
    rows, wrong, first = [], 0, ""
    with _opened(path, opener, budget) as file:
        for row in READERS[_kind(path)](file, form):
            if isinstance(row, str):
                wrong, first = wrong + 1, first or row
            elif row.text.strip():
                rows.append(row)
    if not rows:
        raise ValueError(first or "it holds no text")
    return Content(tuple(rows), f"{wrong:,} of its rows cannot be used, the first: {first}" if wrong else "")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text; if it is text, save it as UTF-8"
    return reason_of(error)


def _found(folder: str | None) -> Listing:
    """Lists the files that `data.folder` names, which may be one."""
    place = Path(folder or "").expanduser()
    if folder is None or not place.is_file() or place.suffix.lower() == ".zip":
        return find_files(TEXT, folder)
    path = PurePosixPath(place.name)
    if _kind(path) not in (*PLAIN, *CONTAINED):
        known = ", ".join((*PLAIN, *CONTAINED))
        raise UsageError(
            f"'{place}' is no text as far as its name says; rename it to one of: {known} (and .gz after it)."
        )
    return Listing({path: partial(_open, place)})


def _open(file: Path) -> BinaryIO:
    return file.open("rb")


def read_folder(folder: str | None, form: Form) -> Documents:
    """Reads the text files of a folder, of a .zip of one, or a single one.

    Raises:
        UsageError: There is no such place.
        DataError: There is no text that can be used, or too much of it.
    """
    listing = _found(folder)
    paths = list(listing.openers)
    classes = class_of(paths) if form.label is None else dict.fromkeys(paths)
    skipped = [*listing.skipped, *(Skipped(readable(path), BESIDE) for path in paths if path not in classes)]
    contents: dict[PurePosixPath, Content] = {}
    budget = Budget(readable(folder))
    for path in classes:
        try:
            if _kind(path) not in (*PLAIN, *CONTAINED):
                raise ValueError("not a text, as far as its name says")
            contents[path] = _content(path, listing.openers[path], form, budget)
        except UserError:
            raise
        except Exception as error:  # a decoder fed with foreign bytes may raise anything
            skipped.append(Skipped(readable(path), _reason(error)))
    skipped += [Skipped(readable(path), content.wrong) for path, content in contents.items() if content.wrong]
    if not contents:
        first = "; ".join(f"'{one.path}': {one.reason}" for one in skipped[:3])
        raise DataError(f"'{readable(folder)}': none of {len(paths)} files has text to learn from. {first}.")
    return _sorted(_units(contents, classes, form), form, skipped)


def _units(
    contents: Mapping[PurePosixPath, Content], classes: Mapping[PurePosixPath, str | None], form: Form
) -> Iterator[Unit]:
    few = form.test_fraction * sum(_kind(path) in PLAIN for path in contents) < 1
    for path, content in contents.items():
        rows = [Row(row.text, row.label or classes[path]) for row in content.rows]
        if _kind(path) not in PLAIN:
            yield from (Unit(row, _key(row)) for row in rows)
        elif form.lines:
            lines = [Row(line, rows[0].label) for line in rows[0].text.split("\n") if line.strip()]
            yield from (Unit(line, _key(line) if few else path) for line in lines)
        elif few:
            yield from _halves(rows[0], path, form.test_fraction)
        else:
            yield Unit(rows[0], path)


def _key(row: Row) -> PurePosixPath:
    return PurePosixPath(blake2b(f"{row.label}\n{row.text}".encode(), digest_size=16).hexdigest())


def _halves(row: Row, path: PurePosixPath, fraction: float) -> Iterator[Unit]:
    """Divides a text at the end of a line, or where none is near, in the midst of it; not at all for no share."""
    middle = round(len(row.text) * (1 - fraction))
    if fraction:
        middle = 1 + row.text.rfind("\n", middle // 2, middle) or middle
    for held, part in ((False, row.text[:middle]), (True, row.text[middle:])):
        if part.strip():
            yield Unit(Row(part.strip("\n"), row.label), path / str(held), held)


def _sorted(units: Iterator[Unit], form: Form, skipped: Sequence[Skipped]) -> Documents:
    """Puts documents on the two sides, in their order."""
    units_known = list(units)
    open_keys = {unit.key: unit.row.label for unit in units_known if unit.held is None}
    held = set(hold_out(open_keys, form.test_fraction, None)[1])
    names = tuple(sorted({unit.row.label for unit in units_known if unit.row.label is not None}))
    if len(names) > MOST_CLASSES:
        raise UsageError(f"data.label={form.label} has {len(names):,} classes; {MOST_CLASSES:,} are possible.")
    numbers = {name: number for number, name in enumerate(names)}

    def side(test: bool) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
        rows = [unit.row for unit in units_known if (unit.key in held if unit.held is None else unit.held) == test]
        labels = tuple(numbers[str(row.label)] for row in rows) if names else None
        return tuple(row.text for row in rows), labels

    (train, train_label), (test, test_label) = side(False), side(True)
    return Documents(train, test, train_label, test_label, names, tuple(skipped))
