r"""The grammar is what it says: closed, unambiguous, with agreement, and drawn with its own probabilities."""

import math
import pytest
import torch

from cm_multimodal.random import permutation
from collections import Counter
from modalities.text.grammar import CHOICES, RULES, WORDS, _read, derivation, sentences

COUNT = 4000
OTHER_NUMBER = {
    one: other
    for singular, plural in (("I_s", "I_p"), ("V_s", "V_p"))
    for pair in zip(CHOICES[singular], CHOICES[plural], strict=True)
    for one, other in (pair, pair[::-1])
}


@pytest.fixture(scope="module")
def drawn() -> list[list[str]]:
    return [text.split(" ") for text in sentences(0, torch.arange(COUNT))]


def test_sentences_are_a_function_of_seed_and_id() -> None:
    """Not of what they are drawn with; another seed gives others."""
    many = sentences(0, torch.arange(50))
    assert sentences(0, torch.tensor([7, 3])) == [many[7], many[3]]
    assert sentences(1, torch.arange(50)) != many


def test_the_language_is_small_and_varied(drawn: list[list[str]]) -> None:
    """34 words, all of them in use; from 2 to 11 in a sentence; three in four are distinct."""
    assert len(WORDS) == 34
    assert {word for words in drawn for word in words} == set(WORDS)
    assert {len(words) for words in drawn} == set(range(2, 12))
    assert len({tuple(words) for words in drawn}) > 0.75 * COUNT


def test_every_sentence_has_just_one_derivation(drawn: list[list[str]]) -> None:
    """It is found, it has one word rule for each word, and there is no second one."""
    for words in drawn:
        found = derivation(words)
        assert found is not None
        assert sum(times for (symbol, _), times in found.items() if symbol in CHOICES) == len(words)
        assert [end for _, end in _read("S", tuple(words), 0)].count(len(words)) == 1


def test_a_derivation_gives_the_words_back() -> None:
    """An example by hand: its rules are those that made it."""
    assert derivation(["the", "dogs", "who", "see", "Anna", "sleep"]) is None  # a clause has no name
    assert derivation(["Tom", "sees", "a", "small", "cat"]) == Counter({
        ("S", 0): 1, ("NP_s", 0): 1, ("Name", 1): 1, ("VP_s", 2): 1, ("V_s", 0): 1, ("O", 2): 1, ("D_s", 1): 1, ("A", 0): 1,
        ("N_s", 1): 1,
    })  # fmt: skip


def test_verbs_agree(drawn: list[list[str]]) -> None:
    """With any verb in the other number there is no derivation, whatever stands between it and its subject."""
    changed = 0
    for words in drawn:
        for place, word in enumerate(words):
            if word in OTHER_NUMBER:
                assert derivation([*words[:place], OTHER_NUMBER[word], *words[place + 1 :]]) is None
                changed += 1
    assert changed > COUNT


def test_wrong_orders_are_no_sentences(drawn: list[list[str]]) -> None:
    """None begins with its second word; a random order is hardly ever one; nor is a part, or a foreign word."""
    for words in drawn:
        assert derivation([*words[1:], words[0]]) is None
        assert derivation(words[:1]) is None
        assert derivation([*words, "the"]) is None
    shuffled = [
        [words[i] for i in permutation(row, "words", len(words)).tolist()] for row, words in enumerate(drawn[:1000])
    ]
    assert sum(derivation(words) is not None for words in shuffled if len(words) > 4) < 20
    assert derivation([]) is None
    assert derivation(["the", "dog", "sleeps", "loudly"]) is None


def test_rules_are_drawn_with_their_probabilities(drawn: list[list[str]]) -> None:
    """Each within five standard errors, and the words of a kind evenly."""
    counts: Counter[tuple[str, int]] = Counter()
    for words in drawn:
        counts += derivation(words) or Counter()
    shares = {symbol: [share for share, _ in rules] for symbol, rules in RULES.items()}
    shares |= {symbol: [1 / len(words)] * len(words) for symbol, words in CHOICES.items()}
    for symbol, wanted in shares.items():
        assert math.isclose(sum(wanted), 1.0)
        n = sum(counts[symbol, number] for number in range(len(wanted)))
        assert n > 200
        for number, share in enumerate(wanted):
            error = math.sqrt(share * (1 - share) / n)
            assert abs(counts[symbol, number] / n - share) <= 5 * error, (symbol, number)
