r"""Texts become samples by rule; what cannot be used is skipped, counted and named, or refused with a sentence."""

import gzip
import json
import os
import pytest
import re
import torch
import zipfile

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.modality import Dataset
from modalities.text import files
from modalities.text.data import (
    LABELLED,
    SETS,
    SHAKESPEARE,
    WIKITEXT2,
    Options,
    documents,
    load,
    options_of,
    vocabulary,
)
from modalities.text.grammar import WORDS, derivation
from modalities.text.texts import to_texts
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("CMM_DATA") or "data")
FORM = {"name": "folder", "layout": "lines", "test_fraction": 0.0}


def needs(path: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (ROOT / path).is_file(), reason=f"there is no {path} here")


def save(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def read(folder: Path, **options: Any) -> Dataset:
    return load({**FORM, "folder": str(folder), **options}).train


def texts(part: Dataset) -> list[str]:
    return to_texts(part.raw)


def test_the_grammar_needs_no_file() -> None:
    """Whole sentences of all its words, the same each time; a limit takes them evenly."""
    splits = load({"name": "grammar"})
    assert splits.train.raw.shape == (20_000, 108)
    assert len(splits.test) == 4_000
    assert vocabulary(options_of({"name": "grammar"})).count == len(WORDS) + 2
    few = load({"name": "grammar", "limit": 40}).train
    assert texts(few) == texts(splits.train)[::500]
    assert all(derivation(text.split()) for text in texts(few))
    assert texts(few)[0] != texts(splits.test)[0]


def test_python_brings_real_text() -> None:
    """A tenth of its help is held back by topic; windows are full, and none of one side is on the other."""
    splits = load({"name": "pydoc"})
    tokens = vocabulary(options_of({"name": "pydoc"}))
    assert (tokens.numbers(texts(splits.train), 64) != 0).all()
    assert len(splits.train) > 5000
    assert 0.05 < len(splits.test) / len(splits.train) < 0.2
    assert not set(texts(splits.train)) & set(texts(splits.test))
    paragraphs = documents(options_of({"name": "pydoc", "layout": "lines"}))
    assert not any("\n\n" in text or not text.strip() for text in paragraphs.train + paragraphs.test)
    assert not any("\n\n" in text for text in texts(load({"name": "pydoc", "layout": "lines", "length": 40}).train))


@needs(SHAKESPEARE)
def test_shakespeare_is_cut_into_windows() -> None:
    """Of its passages each tenth tests; joined, windows are the passages, but for the rest; all 65 characters are known."""
    splits = load({"name": "shakespeare"})
    found = documents(options_of({"name": "shakespeare"}))
    text = (ROOT / SHAKESPEARE).read_text().strip("\n")
    assert all(passage in text for passage in found.train + found.test)
    assert sum(map(len, found.test)) / len(text) == pytest.approx(0.1, abs=0.01)
    for part, passages in ((splits.train, found.train), (splits.test, found.test)):
        joined = "\n".join(passages)
        assert "".join(texts(part)) == joined[: len(joined) // 64 * 64]
    assert vocabulary(options_of({"name": "shakespeare"})).count == 2 + 65


@needs(WIKITEXT2[0])
def test_wikitext2_trains_on_one_file_and_tests_on_the_other() -> None:
    """Packed or line by line."""
    packed = documents(options_of({"name": "wikitext2"}))
    lines = documents(options_of({"name": "wikitext2", "layout": "lines"}))
    assert packed.train[0].startswith("= Homarus gammarus =")
    assert packed.test[0].startswith("= Robert <unk> =")
    assert [line for line in packed.train[0].split("\n") if line] == list(lines.train)


@needs(LABELLED)
@pytest.mark.parametrize(
    ("name", "counts", "text", "label"),
    [
        ("mr", (9596, 1066), "clichés just pile up", 0), ("sst2", (6920, 1821), "a stirring , funny", 1),
        ("sst5", (8544, 2210), "a stirring , funny", 4), ("subj", (9000, 1000), "adrien brody – in the title role", 0),
        ("trec", (5452, 500), "What films featured the character Popeye Doyle ?", 1),
    ],
)  # fmt: skip
def test_labelled_sentences_keep_their_classes(name: str, counts: tuple[int, int], text: str, label: int) -> None:
    """In whatever encoding they are; a limit keeps all classes."""
    found = documents(options_of({"name": "sentences", "set": name}))
    assert (len(found.train), len(found.test)) == (len(found.train_label or ()), len(found.test_label or ())) == counts
    assert found.classes == SETS[name].classes
    assert {label for row, label in zip(found.train, found.train_label or (), strict=True) if text in row} == {label}
    few = load({"name": "sentences", "set": name, "limit": 500, "tokens": "bytes"}).train
    assert len(few) == 500
    assert len(set(few.label.tolist())) == len(few.classes)


def test_damaged_packs_are_refused(tmp_path: Path) -> None:
    """What is missing, no archive, lacks a part, or holds other lines; what is compressed and cut short."""
    place = {"root": str(tmp_path)}
    for name in ("sentences", "shakespeare", "wikitext2"):
        with pytest.raises(UsageError, match="CMM_DATA"):
            load({"name": name, **place})
    save(tmp_path / LABELLED, b"PK and no more")
    save(tmp_path / SHAKESPEARE, b"\xff\xfe")
    save(tmp_path / WIKITEXT2[0], gzip.compress(b"abc" * 100)[:-9])
    for name in ("sentences", "shakespeare", "wikitext2"):
        with pytest.raises(DataError, match="is damaged"):
            load({"name": name, **place})
    for lines in ("1 good\n2 bad", "good", "", "1 \n"):
        with zipfile.ZipFile(tmp_path / LABELLED, "w") as archive:
            archive.writestr("subj.all", lines)
        with pytest.raises(DataError, match="is damaged"):
            load({"name": "sentences", "set": "subj", **place})


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
def test_packing_loses_nothing_but_the_rest(tmp_path: Path, tokens: str) -> None:
    """Documents are joined by a line end; characters of several bytes stay whole."""
    parts = ["Ein Wörterbuch – für 中文 und 😀.\n\nZweiter  Absatz\tdanach. " * 9, "Das zweite Dokument." * 9]
    for name, part in zip(("a.txt", "b.md"), parts, strict=True):
        save(tmp_path / name, part + "\n")
    options = {"layout": "pack", "tokens": tokens, "length": 16, "vocabulary": 320}
    joined, whole = "".join(texts(read(tmp_path, **options))), "\n".join(parts)
    assert whole.startswith(joined)
    assert len(whole) - len(joined) < 16 * 4


def test_lines_are_cut_or_end_earlier(tmp_path: Path) -> None:
    """Empty ones are left out; the longest is a sample as well."""
    save(tmp_path / "a.txt", "short\n\n   \n" + "long " * 40_000 + "\n\tlast")
    assert texts(read(tmp_path, length=8)) == ["short", "long lon", "\tlast"]


def test_line_ends_marks_and_control_characters(tmp_path: Path) -> None:
    """Windows' line ends become others', a byte order mark and zeros go, and all other characters stay."""
    save(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntw\0o\x07\x1b[0m\r\n\xe2\x80\xa8three\x0b")
    assert texts(read(tmp_path)) == ["one", "two\x07\x1b[0m", "\u2028three\x0b"]


ROWS = [("good film", "pos"), ("bad, \"very\" bad", "neg"), ("two\nlines", "pos"), ("grün", "neg")]  # fmt: skip
QUOTED = '"good film";pos\n"bad, ""very"" bad";neg\n"two\nlines";pos\ngrün;neg\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "".join(json.dumps({"id": 1, "said": text, "kind": kind}) + "\n\n" for text, kind in ROWS)),
        ("a.ndjson.gz", "".join(json.dumps({"kind": kind, "said": text}, ensure_ascii=False) + "\r\n"
                                for text, kind in ROWS)),
        ("a.csv", "\ufeffsaid,kind\n" + QUOTED.replace(";", ",")), ("a.CSV.GZ", "said;kind\n" + QUOTED),
        ("a.tsv", "kind\tsaid\n" + "".join(f"{kind}\t{text}\n" for text, kind in ROWS).replace("two\nlines", "two lines")),
    ],
)  # fmt: skip
def test_rows_have_texts_and_classes(tmp_path: Path, name: str, content: str) -> None:
    """JSON lines, and tables with commas, semicolons and tabs, compressed or not, in a folder or alone."""
    save(tmp_path / name, gzip.compress(content.encode()) if name.lower().endswith("gz") else content)
    for place in (tmp_path, tmp_path / name):
        train = read(place, column="said", label="kind")
        found = [(text.replace("two lines", "two\nlines"), train.classes[k]) for text, k in
                 zip(texts(train), train.label.tolist(), strict=True)]  # fmt: skip
        assert found == ROWS
        assert train.skipped == ()


def test_an_archive_is_a_folder_and_sub_folders_are_classes(tmp_path: Path) -> None:
    """Line by line, and packed, each document for itself; what is too short for a window is counted."""
    for name, text in (
        ("good/1.txt", "ab" * 10),
        ("bad/1.rst", "cd" * 6),
        ("bad/x/2.md", "ef"),
        ("bad/3.jsonl", '{"text": "gh"}'),
    ):
        save(tmp_path / "mine" / name, text)
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for file in sorted((tmp_path / "mine").rglob("*.*")):
            archive.write(file, file.relative_to(tmp_path / "mine"))
    for place in (tmp_path / "mine", tmp_path / "mine.zip"):
        train = read(place)
        assert (train.classes, train.label.tolist()) == (("bad", "good"), [0, 0, 0, 1])
        packed = read(place, layout="pack", length=5)
        assert texts(packed) == ["cdcdc", "dcdcd", "ababa", "babab", "ababa", "babab"]
        assert packed.label.tolist() == [0, 0, 1, 1, 1, 1]
        assert [one.path for one in packed.skipped] == ["2 of 4 documents"]


@pytest.mark.parametrize("layout", ["lines", "pack"])
@pytest.mark.parametrize("count", [1, 30])
def test_a_tenth_is_held_back(tmp_path: Path, layout: str, count: int) -> None:
    """Of many text files whole ones, of one alone a part of it; nothing is lost, and nothing is on both sides."""
    lines = [f"line {number}" for number in range(600)]
    for file in range(count):
        save(tmp_path / f"{file}.txt", "\n".join(lines[file::count]))
    found = documents(options_of({"name": "folder", "folder": str(tmp_path), "layout": layout}))
    train, test = ({line for text in part for line in text.split("\n")} for part in (found.train, found.test))
    assert not train & test
    assert train | test == set(lines)
    assert 10 < len(test) < 120


def test_equal_rows_are_on_one_side(tmp_path: Path) -> None:
    """A text that comes twice does not test what was learned; of each class one is learned."""
    rows = [{"text": f"row {number % 100}", "kind": str(number % 100 % 7)} for number in range(500)]
    save(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    found = documents(Options("folder", folder=str(tmp_path), label="kind", layout="lines"))
    assert not set(found.train) & set(found.test)
    assert len(found.train) + len(found.test) == 500
    assert found.test
    assert set(found.train_label or ()) == set(range(7))


def test_a_changed_folder_is_read_again(tmp_path: Path) -> None:
    """What is remembered is that of the files as they are."""
    save(tmp_path / "a.txt", "one")
    assert texts(read(tmp_path)) == ["one"]
    save(tmp_path / "b.txt", "two!")
    assert texts(read(tmp_path)) == ["one", "two!"]
    options = options_of({**FORM, "folder": str(tmp_path)})
    assert documents(options) is documents(options)
    assert vocabulary(options) is vocabulary(options)


BAD: dict[str, tuple[str | bytes, str]] = {
    "latin.txt": ("é".encode("latin-1"), "not UTF-8"), "binary.md": (bytes(range(128, 256)), "not UTF-8"),
    "zeros.txt": (bytes(64), "no text"), "none.txt": (b"", "empty"), "blank.rst": ("\n \n", "no text"),
    "cut.txt.gz": (gzip.compress(b"text" * 99)[:-9], "end-of-stream"), "no.txt.gz": (b"text", "gzip"),
    "photos.tar.gz": (b"text", "not a text"), "list.jsonl": ("[1]", "line 1 is no JSON object"),
    "deep.jsonl": ("[" * 100_000, "line 1 is no JSON"), "other.jsonl": ('{"a": "b"}', "line 1 has no text 'text'"),
    "number.jsonl": ('{"text": 1}', "line 1 has no text"), "late.jsonl": (b'{"text": "a"}\n\xff', "not UTF-8"),
    "other.csv": ("a,b\n1,2", "no column 'text', only: a, b"), "head.csv": ("text,b\n", "no text"),
    "latin.csv": ("text\né".encode("latin-1"), "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_skipped_with_a_reason(tmp_path: Path, name: str) -> None:
    """Beside a good one they change nothing; alone they are an error that names them."""
    content, says = BAD[name]
    save(tmp_path / name, content)
    with pytest.raises(DataError, match=f"none of 1 files has text to learn from. '{name}': .*{says}"):
        read(tmp_path)
    save(tmp_path / "good.txt", "good")
    train = read(tmp_path)
    assert texts(train) == ["good"]
    assert [one.path for one in train.skipped] == [name]
    assert says in train.skipped[0].reason


@pytest.mark.parametrize(
    ("name", "content", "good", "says"),
    [
        ("a.jsonl", '{"text": "a"}\nno\n{"text": null}\n{"text": "b"}\n"c"', ["a", "b"],
         "3 of its rows .*: line 2 is no JSON"),
        ("a.jsonl", '{"text": "\\ud800x"}\n{"txt": "a"}', ["�x"], "1 of its rows .*: line 2 has no text"),
        ("a.csv", "text,b\na,1\nb\nc,2\n", ["a", "c"], "1 of its rows .*: line 3 has 1 cells, not 2"),
        ("a.csv", 'text,b\na,1\n"b,2\nc,3\n', ["a"], "line 3: a quotation mark opens and never closes"),
        ("a.csv", 'text,b\n"a"x,1\nb,2\n', ["b"], "line 2: ',' expected"),
        ("a.tsv", 'b\ttext\n1\t"a ""b"""\n2\t"c\n3\td\te\n', ['a "b"', '"c'], "line 4 has 3 cells"),
    ],
)  # fmt: skip
def test_bad_rows_are_counted_and_the_others_used(
    tmp_path: Path, name: str, content: str, good: list[str], says: str
) -> None:
    """The first of them is named."""
    save(tmp_path / name, content)
    train = read(tmp_path, length=4096)
    assert texts(train) == good
    [skipped] = train.skipped
    assert skipped.path == name
    assert re.search(says, skipped.reason)


def test_too_much_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it fills the memory, also where it is unpacked on the way; so are too large samples and too many classes."""
    save(tmp_path / "a.txt.gz", gzip.compress(b"text " * 300_000))
    monkeypatch.setattr(files, "MOST_BYTES", 1_000_000)
    with pytest.raises(DataError, match="more than 1,000,000 bytes of text"):
        read(tmp_path)
    save(tmp_path / "b" / "b.jsonl", "\n".join(f'{{"text": "a", "n": {number}}}' for number in range(1001)))
    with pytest.raises(UsageError, match=r"data.label=n has 1,001 classes"):
        read(tmp_path / "b", label="n")
    monkeypatch.setattr("modalities.text.data.MOST_RAW", 1_000_000)
    with pytest.raises(DataError, match="1,001 samples of 4096 tokens take"):
        read(tmp_path / "b", length=4096)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"name": "gramar"}, "did you mean 'grammar'"), ({"name": "pydoc", "lenght": 4}, "did you mean 'length'"),
        ({"name": "pydoc", "length": 3}, "between 4 and 4,096"), ({"name": "pydoc", "length": 4097}, "between 4 and 4,096"),
        ({"name": "pydoc", "length": "x"}, "a whole number"), ({"name": "pydoc", "vocabulary": 2}, "between 3 and 65,536"),
        ({"name": "pydoc", "limit": 0}, "between 1 and"), ({"name": "pydoc", "embedding": 1}, "between 2 and 4,096"),
        ({"name": "pydoc", "tokens": "word"}, "did you mean 'words'"), ({"name": "pydoc", "layout": "packed"}, "'pack'"),
        ({"name": "sentences", "set": "sst"}, "did you mean 'sst"), ({"name": "pydoc", "set": "mr"}, "data=sentences"),
        ({"name": "sentences", "layout": "pack"}, "data.layout=lines"), ({"name": "pydoc", "folder": "x"}, "data=texts"),
        ({"name": "folder", "label": "x"}, "data.layout=lines"), ({"name": "folder", "test_fraction": 1.0}, "no share"),
        ({"name": "folder"}, "Which folder"), ({"name": "folder", "folder": "nowhere"}, "no folder 'nowhere'"),
        ({"name": "pydoc", "tokens": "bpe", "vocabulary": 300}, "needs at least 3.. tokens for these texts, not 300"),
        ({"name": "grammar", "tokens": "unigram", "vocabulary": 60_000}, "needs at most .* tokens for these texts"),
    ],
)  # fmt: skip
def test_wrong_options_get_sentences(config: dict[str, Any], says: str) -> None:
    """Unknown names, values that do not fit, and what does not go together."""
    with pytest.raises(UsageError, match=says):
        load(config)


def test_a_vocabulary_of_nothing_is_no_matter_of_tokens() -> None:
    """Asked for by itself, it says what is wrong with the folder."""
    with pytest.raises(UsageError, match=r"^Which folder"):
        vocabulary(options_of({"name": "folder"}))


def test_files_that_are_no_texts_and_texts_that_are_too_short(tmp_path: Path) -> None:
    """A single file is judged by its name, and less than one window is nothing to learn from."""
    save(tmp_path / "a.pdf", "text")
    with pytest.raises(UsageError, match=r"no text as far as its name says; rename it to one of: \.txt"):
        read(tmp_path / "a.pdf")
    with pytest.raises(DataError, match=r"holds no text: looked for \.txt"):
        read(tmp_path)
    save(tmp_path / "b.txt", "x" * 64)
    assert texts(read(tmp_path, layout="pack")) == ["x" * 64]
    save(tmp_path / "b.txt", "x" * 63)
    with pytest.raises(DataError, match="no 64 tokens in a row to learn from; type a smaller"):
        read(tmp_path, layout="pack")
    save(tmp_path / "c.csv", "text,kind\na,b\n")
    assert [one.path for one in read(tmp_path, label="kind").skipped] == ["b.txt"]
    empty = load({**FORM, "folder": str(tmp_path)}).test
    assert (empty.raw.shape, empty.raw.dtype) == ((0, 192), torch.uint8)
