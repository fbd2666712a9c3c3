r"""Data sets of texts, as rows of UTF-8 bytes of one width, with shape (N, W).

    grammar       sentences of a small grammar, computed (`grammar.py`): they need no file, and are synthetic
    pydoc         the topics of Python's own help, as this Python ships them: real English; by size, every tenth tests
    shakespeare   Karpathy's tinyshakespeare.txt; every tenth of passages of 60 speeches tests, as its end is one play
    wikitext2     WikiText-2, of which the training file is not part: its validation file trains, its test file tests
    sentences     labelled sentences: sst2, sst5 (Stanford Sentiment Treebank), trec (questions), mr (film reviews) or subj
                  (subjective or objective); of the last two, which have no split, every tenth tests
    folder        files of text (`files.py`)

A sample has a fixed number of tokens. Documents are packed: joined, with a line end between them, and cut into windows of
just that many (or a little fewer, where a character would be cut in two), the rest left out; with sub-folders as classes,
each document for itself. Or each line is a sample, of `pydoc` each paragraph: a short one ends earlier, of a long one the
rest is left out. What a vocabulary has no token for is a mark in the samples, too.
"""

__all__ = ["Documents", "Options", "documents", "load", "options_of", "vocabulary"]

import contextlib
import os
import re
import torch
import zipfile
import zlib

from cm_multimodal.errors import DataError, UsageError, nearest
from cm_multimodal.listing import data_root, readable, reason_of
from cm_multimodal.modality import Dataset, Skipped, Splits
from cm_multimodal.values import check_values
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

from .files import Documents, Form, read_folder, read_text
from .grammar import sentences
from .texts import to_raw
from .tokens import KINDS, MOST_TOKENS, Tokens, fit

SHAKESPEARE = "text/tinyshakespeare.txt"
WIKITEXT2 = ("text/wikitext2_valid.txt.gz", "text/wikitext2_test.txt.gz")
LABELLED = "text/sentconv_labelled.zip"
COMPUTED = {"train": 20_000, "test": 4_000}
TEST_EVERY = 10
TEST_TOPIC = 3  # of every ten in order of their size: those have a tenth of the characters
TEST_FRACTION = 0.1
SCENE = 60  # speeches
LAYOUTS = ("pack", "lines")
RANGES = {"length": (4, 4096), "vocabulary": (3, MOST_TOKENS), "embedding": (2, 4096), "limit": (1, 10**9)}
MOST_RAW = 2**32  # bytes of the samples of a split


@dataclass(frozen=True)
class Labelled:
    """A set of labelled sentences: its files, the second of which may be missing, and its classes."""

    train: str
    test: str | None
    classes: tuple[str, ...]


SETS = {
    "mr": Labelled("rt-polarity.all", None, ("negative", "positive")),
    "sst2": Labelled("stsa.binary.train", "stsa.binary.test", ("negative", "positive")),
    "sst5": Labelled("stsa.fine.train", "stsa.fine.test",
                     ("very negative", "negative", "neutral", "positive", "very positive")),
    "subj": Labelled("subj.all", None, ("subjective", "objective")),
    "trec": Labelled("TREC.train.all", "TREC.test.all",
                     ("description", "entity", "abbreviation", "human", "location", "number")),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The `data` group of the configuration.

    Arguments:
        name: Which source: folder, grammar, pydoc, sentences, shakespeare or wikitext2.
        root: Where data sets lie; `$CMM_DATA`, or else `./data`.
        folder: The folder of texts, a .zip of one, or a single file (folder).
        column: The key of JSON lines, or the column of CSV, that holds the text (folder).
        label: The key or the column that holds the class (folder); none: sub-folders are the classes.
        test_fraction: The share of a folder's documents that is held back.
        set: Which labelled sentences: mr, sst2, sst5, subj or trec (sentences).
        tokens: characters, bytes, words, unigram or bpe.
        vocabulary: The most tokens that there may be; unigram and bpe have just as many, and there are always 257 bytes.
        embedding: The dimensions of the tokens' embeddings; none: they are one-hot.
        length: The tokens of a sample.
        layout: Whether documents are joined and cut (pack), or each line is a sample (lines).
        limit: The largest number of training samples; they are taken evenly from all of them.
    """

    name: str = ""
    root: str | None = None
    folder: str | None = None
    column: str = "text"
    label: str | None = None
    test_fraction: float = TEST_FRACTION
    set: str = "sst2"
    tokens: str = "characters"
    vocabulary: int = 512
    embedding: int | None = None
    length: int = 64
    layout: str = "pack"
    limit: int | None = None

    @property
    def lines(self) -> bool:
        """Whether each line is a sample."""
        return self.layout == "lines"

    def __post_init__(self) -> None:
        for key, known in (("tokens", KINDS), ("layout", LAYOUTS), ("set", SETS)):
            if (value := getattr(self, key)) not in known:
                raise UsageError(f"There is no data.{key}={value}; {nearest(value, known)}")
        for key, (least, most) in RANGES.items():
            if (value := getattr(self, key)) is not None and not least <= value <= most:
                raise UsageError(f"data.{key}={value} is not possible; it lies between {least} and {most:,}.")
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"data.test_fraction={self.test_fraction:g} is no share; it is at least 0 and below 1.")
        of_folder = (self.folder, self.column, self.label, self.test_fraction)
        if self.name != "folder" and of_folder != (None, "text", None, TEST_FRACTION):
            raise UsageError(
                f"data.name={self.name} reads no folder; type data=texts data.folder=PATH to learn from one."
            )
        if self.name != "sentences" and self.set != "sst2":
            raise UsageError(f"data.set={self.set} belongs to labelled sentences; type data=sentences.")
        if not self.lines and (self.label or self.name == "sentences"):
            raise UsageError("Rows that have a class cannot be joined and cut; type data.layout=lines.")


USUAL: dict[str, dict[str, Any]] = {
    "grammar": {"layout": "lines", "tokens": "words", "length": 12},
    "sentences": {"layout": "lines"},
}


def options_of(config: Mapping[str, Any]) -> Options:
    """Reads the `data` group.

    Raises:
        UsageError: An option is unknown or does not fit.
    """
    kinds = get_type_hints(Options)
    for key in config:
        if key not in kinds:
            raise UsageError(f"There is no option data.{key}; {nearest(str(key), kinds)}")
    given = {key: value for key, value in config.items() if value is not None}
    check_values("data", given, kinds)
    name = given.get("name", "")
    if name not in SOURCES:
        raise UsageError(f"There is no data set data.name='{name}'; {nearest(name, SOURCES)}")
    return Options(**{**USUAL.get(name, {}), **given})


def load(config: Mapping[str, Any]) -> Splits:
    """Reads a data set of texts.

    Raises:
        UsageError: An option is wrong, or a path does not exist.
        DataError: What lies there is damaged, or nothing of it can be used.
    """
    options = options_of(config)
    found, tokens = documents(options), vocabulary(options)
    make = _from_lines if options.lines else _packed
    train = make(tokens, found.train, found.train_label, options, options.limit)
    if not len(train):
        raise DataError(
            f"data.name={options.name} has no {options.length} tokens in a row to learn from; type a smaller data.length, "
            "or data.layout=lines where texts are short."
        )
    test = make(tokens, found.test, found.test_label, options, None)
    skipped = (*found.skipped, *train.skipped)
    return Splits(
        replace(train, classes=found.classes, skipped=skipped), replace(test, classes=found.classes, skipped=())
    )


def vocabulary(options: Options) -> Tokens:
    """Returns the vocabulary of a data set, fitted to the documents to learn from.

    Raises:
        UsageError: It cannot have so many tokens, or so few.
    """
    return _vocabulary(replace(options, **_no_samples(Options())), _stamp(options))


def documents(options: Options) -> Documents:
    """Returns the texts of a data set: whole ones to be packed, or lines."""
    usual = Options()
    read = replace(options, tokens=usual.tokens, vocabulary=usual.vocabulary, **_no_samples(usual))
    return _documents(read, _stamp(options))


def _no_samples(usual: Options) -> dict[str, Any]:
    """Returns the options that neither documents nor vocabularies depend on, as they are by default."""
    return {"embedding": None, "length": usual.length, "limit": None}


@lru_cache(maxsize=8)
def _vocabulary(options: Options, stamp: str) -> Tokens:
    texts = documents(options).train
    try:
        return fit(options.tokens, texts, options.vocabulary)
    except ValueError as error:
        raise UsageError(f"data.tokens={options.tokens}, data.vocabulary={options.vocabulary}: {error}") from error


@lru_cache(maxsize=4)
def _documents(options: Options, stamp: str) -> Documents:
    return SOURCES[options.name](options)


def _stamp(options: Options) -> str:
    """Returns what changes when the files of a data set do, so that none is taken for what it was."""
    place = Path(options.folder).expanduser() if options.folder else data_root(options.root)
    known = blake2b(os.fsencode(place.absolute()), digest_size=16)
    inside = os.walk(place) if options.folder else ()
    for name in sorted([place] if place.is_file() else (Path(at, name) for at, _, names in inside for name in names)):
        with contextlib.suppress(OSError):  # it went away meanwhile
            status = name.lstat()
            known.update(os.fsencode(name) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
    return known.hexdigest()


Labels = Sequence[int] | None


def _from_lines(tokens: Tokens, texts: Sequence[str], label: Labels, options: Options, limit: int | None) -> Dataset:
    rows = _spread(len(texts), limit)
    short = [tokens.decode(tokens.cut(tokens.encode(texts[row]), options.length)) for row in rows]
    return _dataset(tokens, short, [label[row] for row in rows] if label is not None else None, options)


def _packed(tokens: Tokens, texts: Sequence[str], label: Labels, options: Options, limit: int | None) -> Dataset:
    groups = [texts] if label is None else [[text] for text in texts]
    cut = [[tokens.decode(window) for window in _windows(tokens, group, options.length)] for group in groups]
    found = [text for windows in cut for text in windows]
    classes = None if label is None else [number for number, windows in zip(label, cut, strict=True) for _ in windows]
    rows = _spread(len(found), limit)
    part = _dataset(tokens, [found[row] for row in rows], classes and [classes[row] for row in rows], options)
    short = 0 if label is None else sum(not windows for windows in cut)
    reason = f"they have fewer than {options.length} tokens each; data.layout=lines reads them"
    return replace(part, skipped=(Skipped(f"{short:,} of {len(texts):,} documents", reason),) if short else ())


def _windows(tokens: Tokens, texts: Sequence[str], length: int) -> Iterator[list[int]]:
    """Yields the numbers of joined texts, window by window; line by line, which no vocabulary can tell from all at once."""
    numbers: list[int] = []
    for row, line in enumerate(line for text in texts for line in text.split("\n")):
        numbers += tokens.encode("\n" * (row > 0) + line)
        start = 0
        while len(numbers) - start > length:
            window = tokens.cut(numbers[start : start + length + 1], length)
            yield window
            start += len(window)
        del numbers[:start]
    if len(numbers) == length:
        yield numbers


def _spread(count: int, limit: int | None) -> list[int]:
    """Returns the rows that are kept: all of them, or `limit` at even distances."""
    kept = min(count, limit or count)
    return [row * count // kept for row in range(kept)]


def _dataset(tokens: Tokens, texts: Sequence[str], label: Labels, options: Options) -> Dataset:
    width = tokens.width(options.length)
    if len(texts) * width > MOST_RAW:
        raise DataError(
            f"{len(texts):,} samples of {options.length} tokens take {len(texts) * width:,} bytes, more than {MOST_RAW:,}; "
            "type a smaller data.length or data.limit."
        )
    return Dataset(to_raw(texts, width), None if label is None else torch.tensor(label, dtype=torch.int64))


def _grammar(options: Options) -> Documents:
    train, test = (tuple(sentences(seed, torch.arange(COMPUTED[part]))) for seed, part in enumerate(("train", "test")))
    return Documents(train, test)


def _pydoc(options: Options) -> Documents:
    from pydoc_data.topics import topics  # half a megabyte that nothing else needs

    texts = sorted({text.strip("\n") for text in topics.values()}, key=lambda text: (-len(text), text))

    def part(test: bool) -> tuple[str, ...]:
        chosen = [text for row, text in enumerate(texts) if (row % TEST_EVERY == TEST_TOPIC) == test]
        return tuple(_split(chosen, r"\n{2,}" if options.lines else None))

    return Documents(part(False), part(True))


def _shakespeare(options: Options) -> Documents:
    speeches = _read(options, SHAKESPEARE).split("\n\n")
    scenes = ["\n\n".join(speeches[begin : begin + SCENE]) for begin in range(0, len(speeches), SCENE)]
    train, test = ([scene for row, scene in enumerate(scenes) if _tests(row) == held] for held in (False, True))
    return _of_two(options, train, test)


def _wikitext2(options: Options) -> Documents:
    train, test = (re.sub(r"^ | $", "", _read(options, path), flags=re.MULTILINE).strip("\n") for path in WIKITEXT2)
    return _of_two(options, [train], [test])


def _of_two(options: Options, train: Sequence[str], test: Sequence[str]) -> Documents:
    pattern = r"\n" if options.lines else None
    return Documents(tuple(_split(train, pattern)), tuple(_split(test, pattern)))


def _split(texts: Sequence[str], pattern: str | None) -> Iterator[str]:
    """Yields the parts of texts that are no mere space, or the texts themselves."""
    parts = (part for text in texts for part in (re.split(pattern, text) if pattern else (text,)))
    return (part for part in parts if part.strip())


def _tests(row: int) -> bool:
    return row % TEST_EVERY == TEST_EVERY - 1


def _file(options: Options, path: str) -> Path:
    file = data_root(options.root) / path
    if not file.is_file():
        raise UsageError(f"There is no file '{file}'; set data.root= or CMM_DATA to the folder that holds {path}.")
    return file


def _read(options: Options, path: str) -> str:
    file = _file(options, path)
    try:
        return read_text(PurePosixPath(path), lambda: file.open("rb"))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(f"'{readable(file)}' is damaged: {reason_of(error)}. Copy or download it again.")


def _sentences(options: Options) -> Documents:
    wanted = SETS[options.set]
    file = _file(options, LABELLED)
    try:
        with zipfile.ZipFile(file) as archive:
            first, second = (_labelled(archive, name, len(wanted.classes)) for name in (wanted.train, wanted.test))
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(file, error) from error
    if wanted.test is None:
        second = [one for row, one in enumerate(first) if _tests(row)]
        first = [one for row, one in enumerate(first) if not _tests(row)]
    (train, train_label), (test, test_label) = (zip(*part, strict=True) for part in (first, second))
    return Documents(train, test, train_label, test_label, wanted.classes)


def _labelled(archive: zipfile.ZipFile, name: str | None, count: int) -> list[tuple[str, int]]:
    """Reads lines of a class and a sentence."""
    if name is None:
        return []
    found = [line.split(" ", 1) for line in _decoded(archive.read(name)).split("\n") if line.strip()]
    rows = [(text.strip(), int(number)) for number, *texts in found for text in texts if text.strip()]
    if len(rows) < len(found) or not rows or not all(0 <= number < count for _, number in rows):
        raise ValueError(f"a line of {name} is no class and sentence")
    return rows


def _decoded(raw: bytes) -> str:
    """Decodes a text of these sets: some are UTF-8, others are Windows' Western encoding or Latin-1."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def _folder(options: Options) -> Documents:
    return read_folder(options.folder, Form(options.column, options.label, options.lines, options.test_fraction))


SOURCES: dict[str, Callable[[Options], Documents]] = {
    "folder": _folder,
    "grammar": _grammar,
    "pydoc": _pydoc,
    "sentences": _sentences,
    "shakespeare": _shakespeare,
    "wikitext2": _wikitext2,
}
