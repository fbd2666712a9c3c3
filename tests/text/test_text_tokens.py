r"""Vocabularies are exact both ways, bounded, plain data, and refuse with sentences what they cannot be."""

import json
import pytest
import subprocess
import sys
import torch
import yaml

from modalities.text.texts import to_raw, to_texts
from modalities.text.tokens import END, KINDS, UNKNOWN, Bytes, Characters, Tokens, Words, build, fit
from typing import Any

PROSE = [f"The {one} dog {two} near the cat.\nAnna said: “{one}, {two}!”" for one in ("old", "small", "happy", "very quiet")
         for two in ("sleeps", "sings all day", "runs")]  # fmt: skip
HARD = (
    "", " ", "  two  spaces  ", "tab\there", "\n\nlines\n\n\n", "\r\n", "é中😀", "e\u0301 ﬁ", "</s>", "<unk>", "<0x0A>", "▁",
    " ▁▁ a▁b", "▅", "⁇", "\ufeffx", "\u2028\x85\x1c\x0b", "\x00", UNKNOWN, "\u3000 \xa0", "a" * 500,
)  # fmt: skip
SIZES = {"characters": 512, "bytes": 257, "words": 512, "unigram": 296, "bpe": 320}


@pytest.fixture(scope="module")
def fitted() -> dict[str, Tokens]:
    return {kind: fit(kind, PROSE, SIZES[kind]) for kind in KINDS}


@pytest.mark.parametrize("kind", ["bytes", "unigram", "bpe"])
@pytest.mark.parametrize("text", [*HARD, PROSE[0]])
def test_any_text_comes_back(fitted: dict[str, Tokens], kind: str, text: str) -> None:
    """Whatever it is made of, to the letter; and the number of the end is never part of it."""
    numbers = fitted[kind].numbers([text], 4096)
    assert fitted[kind].texts(numbers) == [text]
    assert END not in fitted[kind].encode(text)
    assert 0 <= int(numbers.min()) <= int(numbers.max()) < fitted[kind].count


def test_known_texts_come_back_and_others_are_marked(fitted: dict[str, Tokens]) -> None:
    """Characters are exact, words are with single spaces; what is not listed is one mark, which is number 1 again."""
    characters, words = fitted["characters"], fitted["words"]
    assert characters.texts(characters.numbers(PROSE, 200)) == PROSE
    assert words.texts(words.numbers(PROSE, 200)) == [" ".join(text.split()) for text in PROSE]
    assert characters.texts(characters.numbers(["dogß"], 8)) == [f"dog{UNKNOWN}"]
    assert words.texts(words.numbers(["the unheard-of  dog"], 8)) == [f"the {UNKNOWN} dog"]
    for tokens in (characters, words):
        assert tokens.encode(UNKNOWN) == [1]


def test_numbers_are_cut_filled_and_end(fitted: dict[str, Tokens]) -> None:
    """Rows have one length and int64; a text ends before its first end, whatever follows."""
    for tokens in fitted.values():
        numbers = tokens.numbers(["", *PROSE], 6)
        assert (numbers.shape, numbers.dtype) == ((13, 6), torch.int64)
        assert numbers[0].tolist() == [END] * 6
        assert (numbers[1:] != END).all()
        assert tokens.numbers([], 6).shape == (0, 6)
    assert Bytes().texts(torch.tensor([[98, END, 98, 98], [END] * 4, [98] * 4])) == ["a", "", "aaaa"]


@pytest.mark.parametrize("kind", ["bytes", "unigram", "bpe"])
def test_a_cut_divides_no_character(fitted: dict[str, Tokens], kind: str) -> None:
    """A character of several tokens that does not fit is left out as a whole."""
    for text, whole in (("中" * 9, 3), ("😀" * 9, 4), ("▁" * 9, 3)):
        for length in range(4, 17):
            assert fitted[kind].texts(fitted[kind].numbers([text], length)) == [text[: length // whole]]


def test_a_raw_row_has_room_for_whatever_is_drawn(fitted: dict[str, Tokens]) -> None:
    """Random tokens, which may be broken characters, survive as bytes of the width that is promised."""
    for tokens in fitted.values():
        drawn = torch.randint(1, tokens.count, (200, 16), generator=torch.Generator().manual_seed(0))
        texts = [text.replace("\0", "") for text in tokens.texts(drawn)]
        assert to_texts(to_raw(texts, tokens.width(16))) == texts
    assert Words(("dog", "elephant")).width(10) == 90
    assert Characters(("a", "😀")).width(10) == 40
    assert Characters(("a",)).width(10) == 30  # a mark takes three


def test_a_part_between_tokens_has_the_same_tokens(fitted: dict[str, Tokens]) -> None:
    """So a window of a packed text is read as what it was cut from."""
    text = "\n".join(PROSE)
    for kind in ("bytes", "unigram", "bpe", "characters"):
        numbers = fitted[kind].encode(text)
        windows = [fitted[kind].cut(numbers[start : start + 8], 7) for start in range(0, len(numbers) - 8, 5)]
        whole = [window for window in windows if UNKNOWN not in fitted[kind].decode(window)]
        assert len(whole) > 0.8 * len(windows)
        assert [fitted[kind].encode(fitted[kind].decode(window)) for window in whole] == whole


def test_settings_are_plain_data(fitted: dict[str, Tokens]) -> None:
    """A vocabulary goes through JSON and YAML and is itself."""
    for tokens in fitted.values():
        settings = tokens.settings()
        assert build(json.loads(json.dumps(settings))) == tokens
        again = build(yaml.safe_load(yaml.safe_dump(settings)))
        assert again == tokens
        assert again.encode(PROSE[3]) == tokens.encode(PROSE[3])


PIECES = {"name": "pieces", "model": "AAAA", "digest": "709e80c88487"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("words", "has a name"), ({}, "no vocabulary 'None'"), ({"name": ["words"]}, "no vocabulary"),
        ({"name": "word", "listed": []}, "did you mean 'words'"), ({"name": "words"}, "cannot be made"),
        ({"name": "words", "listed": "abc"}, "cannot have listed"), ({"name": "words", "listed": [1]}, "cannot have"),
        ({"name": "words", "listed": ["a", "a"]}, "each of them once"), ({"name": "words", "listed": ["a b"]}, "once"),
        ({"name": "words", "listed": [""]}, "once"), ({"name": "characters", "listed": ["ab"]}, "once"),
        ({"name": "characters", "listed": ["\0"]}, "once"), ({"name": "characters", "listed": [UNKNOWN]}, "once"),
        ({"name": "characters", "listed": [chr(32 + i) for i in range(55000)] + [chr(65536 + i) for i in range(11000)]},
         "tokens; 65,536"),
        ({"name": "bytes", "listed": []}, "cannot have listed"), ({**PIECES, "digest": "0"}, "checksum"),
        ({**PIECES, "model": "?"}, "cannot be made"), (PIECES, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_vocabulary_is_refused(settings: Any, says: str) -> None:
    """Foreign settings are checked before anything is made of them."""
    with pytest.raises(ValueError, match=says):
        build(settings)


def test_a_list_has_the_most_frequent_and_no_more() -> None:
    """The end and the mark count."""
    assert fit("words", ["a b b c c c"], 4) == Words(("b", "c"))
    assert fit("characters", ["abbccc"], 3) == Characters(("c",))
    assert fit("words", ["a b"], 100).count == 4


def test_the_same_texts_give_the_same_pieces(fitted: dict[str, Tokens]) -> None:
    """To the byte, and just as many as are asked for."""
    for kind in ("unigram", "bpe"):
        assert fit(kind, PROSE, SIZES[kind]) == fitted[kind]
        assert fitted[kind].count == SIZES[kind]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_says_what_is_possible(kind: str) -> None:
    """Too few pieces and too many are refused with a number that works."""
    for most, bound in ((100, "at least "), (60_000, "at most ")):
        with pytest.raises(ValueError, match=f"sentencepiece needs {bound}") as error:
            fit(kind, PROSE, most)
        possible = int(str(error.value).split(bound)[1].split()[0].replace(",", ""))
        assert fit(kind, PROSE, possible).count == possible
    with pytest.raises(ValueError, match="cannot learn 300 pieces from these texts"):
        fit(kind, ["\n"], 300)
    with pytest.raises(ValueError, match="did you mean 'unigram'"):
        fit("unigrams", PROSE, 300)


def test_raw_texts_are_cut_between_characters() -> None:
    """A row is never broken UTF-8; zeros are no text."""
    raw = to_raw(["ab", "a中", "中", "x\0y", ""], 3)
    assert (raw.shape, raw.dtype) == ((5, 3), torch.uint8)
    assert to_texts(raw) == ["ab", "a", "中", "xy", ""]
    assert to_texts(to_raw(["\ud800"], 3)) == ["?"]
    assert to_raw([], 3).shape == (0, 3)
    assert to_texts(to_raw(["a"], 0)) == [""]
    assert to_texts(torch.full((1, 2), 255, dtype=torch.uint8)) == [2 * UNKNOWN]


DAMAGE = """
import base64, hashlib, sys
from modalities.text.tokens import build
raw, refused = base64.b64decode(sys.stdin.read()), 0
for n in range(0, len(raw), len(raw) // 60):
    for part in (raw[:n], raw[:n] + bytes([raw[n] ^ 1 << n % 8]) + raw[n + 1 :], raw[:n] + bytes(99) + raw[n + 99 :]):
        given = {"model": base64.b64encode(part).decode(), "digest": hashlib.sha256(part).hexdigest()[:12]}
        try:
            tokens = build({"name": "pieces", **given})
            tokens.decode(tokens.encode("The dog sees."))
        except ValueError as error:
            refused += "The vocabulary 'pieces' cannot be made" in str(error)
print(refused)
"""


def test_a_damaged_model_of_pieces_does_not_end_the_interpreter(fitted: dict[str, Tokens]) -> None:
    """Cut off, with a bit turned or a gap of zeros, and its own checksum: a sentence, or harmless; in another process."""
    model = fitted["unigram"].settings()["model"]
    done = subprocess.run([sys.executable, "-c", DAMAGE], input=model, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 120
