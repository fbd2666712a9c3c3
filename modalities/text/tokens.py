r"""Tokens: texts as sequences of small numbers, and back.

    characters   each character of the training texts; others become a mark
    bytes        the 256 bytes of UTF-8: any text, nothing to fit
    words        what stands between spaces; words that the training texts do not have become a mark
    unigram, bpe sentencepiece, trained on the training texts, with all bytes to fall back on

Number 0 is always the end of a text, and never part of one. All but marks, and what words stand between, is exact: the way
back is the inverse. Where a text is cut, it is cut between two characters, though some of them take several tokens.

References:
    | SentencePiece: A simple and language independent subword tokenizer (Kudo & Richardson, 2018)
"""

__all__ = [
    "END",
    "KINDS",
    "MOST_TOKENS",
    "TOKENS",
    "UNKNOWN",
    "Bytes",
    "Characters",
    "Pieces",
    "Tokens",
    "Words",
    "build",
    "fit",
]

import base64
import dataclasses
import hashlib
import io
import numpy as np
import re
import sentencepiece
import torch

from abc import ABC, abstractmethod
from cm_multimodal.errors import nearest
from cm_multimodal.values import fits
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from torch import Tensor
from typing import Any, ClassVar

END = 0
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
MARK_BYTES = len(UNKNOWN.encode())
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what sentencepiece writes for a space
MOST_TOKENS = 1 << 16
MOST_FITTED = 10_000_000  # characters that sentencepiece is trained on
MOST_LINE = 4096  # characters of a line that it is trained on


@dataclass(frozen=True)
class Tokens(ABC):
    """A vocabulary and a pair of maps."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of tokens, the end included."""

    @property
    @abstractmethod
    def most_bytes(self) -> int:
        """The most bytes that one token takes as text."""

    @property
    def mark(self) -> int:
        """The token that stands for what is not known, where it is shown."""
        return 1

    @property
    def inner(self) -> frozenset[int]:
        """The tokens that go on with a character that another token began."""
        return frozenset()

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the numbers of a text, without its end."""

    @abstractmethod
    def decode(self, numbers: Sequence[int]) -> str:
        """Returns the text of numbers; ends are left out."""

    def cut(self, numbers: Sequence[int], length: int) -> list[int]:
        """Returns the first numbers, `length` at most: fewer where a character would be cut in two."""
        end = min(length, len(numbers))
        while 0 < end < len(numbers) and numbers[end] in self.inner:
            end -= 1
        return list(numbers[:end])

    def numbers(self, texts: Sequence[str], length: int) -> Tensor:
        """Returns the numbers of texts, with shape (N, length), in int64: cut there, or filled up with ends."""
        table = np.zeros((len(texts), length), np.int64)
        for row, text in zip(table, texts, strict=True):
            found = self.cut(self.encode(text), length)
            row[: len(found)] = found
        return torch.from_numpy(table)

    def texts(self, numbers: Tensor) -> list[str]:
        """Returns the texts of numbers, with shape (N, L); what follows an end is dropped."""
        return [self.decode(row[: row.index(END)] if END in row else row) for row in numbers.tolist()]

    def width(self, length: int) -> int:
        """Returns the most bytes that `length` tokens take as text."""
        return self.most_bytes * length

    def settings(self) -> dict[str, Any]:
        """Returns all that `build` needs, as plain data."""
        given = {"name": self.name, **dataclasses.asdict(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


class Listed(Tokens):
    """Tokens that are listed: number 1 is what is not on the list, the others follow."""

    listed: tuple[str, ...]
    joint: ClassVar[str]

    def __post_init__(self) -> None:
        if len(set(self.listed)) < len(self.listed) or not all(map(self.is_token, self.listed)):
            raise ValueError(f"a list of {self.name} has each of them once, and nothing else")

    @staticmethod
    @abstractmethod
    def is_token(text: str) -> bool:
        """Says whether a text may be on the list."""

    @property
    def count(self) -> int:
        return len(self.listed) + 2

    @property
    def most_bytes(self) -> int:
        return max([MARK_BYTES, *(len(token.encode()) for token in self.listed)]) + len(self.joint)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.listed, start=2)}

    def _number(self, tokens: Iterable[str]) -> list[int]:
        return [self._numbers.get(token, 1) for token in tokens]

    def decode(self, numbers: Sequence[int]) -> str:
        return self.joint.join(
            UNKNOWN if number == 1 else self.listed[number - 2] for number in numbers if number != END
        )


@dataclass(frozen=True)
class Characters(Listed):
    """The characters of the training texts."""

    listed: tuple[str, ...]
    name = "characters"
    joint = ""

    @staticmethod
    def is_token(text: str) -> bool:
        return len(text) == 1 and text not in ("\0", UNKNOWN) and not "\ud800" <= text <= "\udfff"

    def encode(self, text: str) -> list[int]:
        return self._number(text)


@dataclass(frozen=True)
class Words(Listed):
    """What stands between spaces in the training texts; spaces are one each on the way back."""

    listed: tuple[str, ...]
    name = "words"
    joint = " "

    @staticmethod
    def is_token(text: str) -> bool:
        return text.split() == [text] and text != UNKNOWN and not re.search("[\0\ud800-\udfff]", text)

    def encode(self, text: str) -> list[int]:
        return self._number(text.split())


@dataclass(frozen=True)
class Bytes(Tokens):
    """The bytes of UTF-8, from number 1 on; what is no UTF-8 on the way back becomes a mark."""

    name = "bytes"

    @property
    def count(self) -> int:
        return 257

    @property
    def most_bytes(self) -> int:
        return MARK_BYTES

    @property
    def mark(self) -> int:
        return ord("_") + 1

    @property
    def inner(self) -> frozenset[int]:
        return frozenset(range(0x80 + 1, 0xC0 + 1))

    def encode(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode("utf-8", errors="replace")]

    def decode(self, numbers: Sequence[int]) -> str:
        return bytes(number - 1 for number in numbers if number != END).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Pieces(Tokens):
    """The pieces of a sentencepiece model.

    Arguments:
        model: The model, in base 64.
        digest: The first 12 digits of its SHA-256, so that a run says which one it is.
    """

    model: str
    digest: str
    name = "pieces"

    def __post_init__(self) -> None:
        if not self._raw:
            raise ValueError("the sentencepiece model is empty")
        if hashlib.sha256(self._raw).hexdigest()[:12] != self.digest:
            raise ValueError("the sentencepiece model does not have the checksum that is kept beside it")
        if not self._pieces.is_control(END) or not all(map(self._pieces.is_byte, self._bytes)):
            raise ValueError("the sentencepiece model has no end, or lacks bytes to fall back on")

    @property
    def _raw(self) -> bytes:
        return base64.b64decode(self.model, validate=True)

    @cached_property
    def _pieces(self) -> Any:
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self._raw)
        except RuntimeError as error:
            raise ValueError("the sentencepiece model cannot be read") from error

    @cached_property
    def _bytes(self) -> list[int]:
        """The pieces of all bytes, in their order."""
        return [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]

    @property
    def count(self) -> int:
        return int(self._pieces.get_piece_size())

    @cached_property
    def most_bytes(self) -> int:
        pieces = (self._pieces.id_to_piece(number).replace(SPACE, " ") for number in range(self.count))
        return max(len(piece.encode()) for number, piece in enumerate(pieces) if self._is_text(number))

    def _is_text(self, number: int) -> bool:
        return not (self._pieces.is_byte(number) or self._pieces.is_control(number) or self._pieces.is_unknown(number))

    @cached_property
    def inner(self) -> frozenset[int]:
        return frozenset(self._bytes[0x80:0xC0])

    def encode(self, text: str) -> list[int]:
        first, *rest = (list(self._pieces.encode(part)) for part in text.split(SPACE))
        mark = [self._bytes[byte] for byte in SPACE.encode()]
        return first + [number for part in rest for number in (*mark, *part)]

    def decode(self, numbers: Sequence[int]) -> str:
        return str(self._pieces.decode([number for number in numbers if number != END]))


TOKENS: dict[str, Any] = {kind.name: kind for kind in (Characters, Bytes, Words, Pieces)}
MODELS = ("unigram", "bpe")
KINDS = (Characters.name, Bytes.name, Words.name, *MODELS)


def build(settings: Mapping[str, Any]) -> Tokens:
    """Builds a vocabulary from plain data: its name, and its arguments.

    Raises:
        ValueError: They are not those of a vocabulary; the message says which.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"a vocabulary has a name and settings; {str(settings)[:40]!r} is none")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in TOKENS:
        raise ValueError(f"There is no vocabulary '{name}'; {nearest(str(name), TOKENS)}")
    known = {field.name: field.type for field in dataclasses.fields(TOKENS[name])}
    for key, value in given.items():
        if key not in known or not fits(value, known[key]):
            raise ValueError(f"The vocabulary '{name}' cannot have {key}={str(value)[:40]}.")
    try:
        tokens: Tokens = TOKENS[name](**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The vocabulary '{name}' cannot be made: {error}.") from error
    if tokens.count > MOST_TOKENS:
        raise ValueError(f"The vocabulary '{name}' has {tokens.count:,} tokens; {MOST_TOKENS:,} are possible.")
    return tokens


def fit(name: str, texts: Sequence[str], most: int) -> Tokens:
    """Fits a vocabulary to texts.

    Arguments:
        name: characters, bytes, words, unigram or bpe.
        texts: The training texts.
        most: The largest number of tokens, the end and what is unknown included; sentencepiece takes all of them.

    Raises:
        ValueError: There is no such vocabulary, or sentencepiece cannot find so many or so few pieces in the texts.
    """
    if name == Bytes.name:
        return Bytes()
    if name in MODELS:
        return _trained(name, texts, most)
    if name not in KINDS:
        raise ValueError(f"There is no vocabulary '{name}'; {nearest(name, KINDS)}")
    kind: Any = TOKENS[name]
    parts: Counter[str] = Counter()
    for text in texts:
        parts.update(text if name == Characters.name else text.split())
    return kind(tuple(sorted([part for part, _ in parts.most_common() if kind.is_token(part)][: most - 2])))


def _trained(model_type: str, texts: Sequence[str], most: int) -> Pieces:
    """Trains a sentencepiece model; the same texts give the same bytes, in one thread."""
    raw = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts), model_writer=raw, model_type=model_type, vocab_size=most, byte_fallback=True,
            character_coverage=1.0, num_threads=1, normalization_rule_name="identity", remove_extra_whitespaces=False,
            add_dummy_prefix=False, eos_id=END, unk_id=1, bos_id=-1, pad_id=-1, unk_surface=UNKNOWN,
            user_defined_symbols=["\n"], minloglevel=2, max_sentence_length=8 * MOST_LINE,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise ValueError(_advice(str(error), most)) from error
    model = raw.getvalue()
    return Pieces(base64.b64encode(model).decode(), hashlib.sha256(model).hexdigest()[:12])


def _lines(texts: Sequence[str]) -> Iterator[str]:
    """Yields lines for sentencepiece to be trained on: all of them, or every second, third, … where they are too many."""
    step = -(-sum(map(len, texts)) // MOST_FITTED)
    for number, line in enumerate(line for text in texts for line in text.split("\n") if line):
        if number % step == 0:
            yield from (line[start : start + MOST_LINE] for start in range(0, len(line), MOST_LINE))


def _advice(message: str, most: int) -> str:
    """Says in a sentence why sentencepiece could not be trained."""
    for pattern, bound in ((r"to a value <= (\d+)", "at most"), (r"\d+ vs (\d+)\. Increase", "at least")):
        if found := re.search(pattern, message):
            return f"sentencepiece needs {bound} {int(found[1]):,} tokens for these texts, not {most:,}."
    return f"sentencepiece cannot learn {most:,} pieces from these texts: {message.splitlines()[0].rstrip('. ')}."
