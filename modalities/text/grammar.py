r"""Sentences of a small closed grammar: synthetic text, of which it can be said exactly whether it is right.

The grammar is context-free, without recursion and unambiguous: each sentence has one derivation or none, whose rules can be
counted. Subjects and verbs agree in number, also across what stands between them. It has 34 words, and no sentence has more
than 11 of them.

    S -> NP_s VP_s | NP_p VP_p           a sentence, of one or of many
    NP -> name | D N | D A N | D N P | D N R
    P -> near/with D N                   a place
    R -> who V D N                       a clause
    VP -> I | I B | V O | V O B          what is done, and when or where
    O -> name | D N | D A N              to whom
"""

__all__ = ["RULES", "WORDS", "derivation", "sentences"]

from cm_multimodal.random import Draws
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from torch import Tensor

Rule = tuple[str, int]  # a symbol, and which of its expansions

NUMBERS = ("s", "p")
RULES: dict[str, tuple[tuple[float, tuple[str, ...]], ...]] = {
    "S": ((0.6, ("NP_s", "VP_s")), (0.4, ("NP_p", "VP_p"))),
    "NP_s": (
        (0.2, ("Name",)), (0.3, ("D_s", "N_s")), (0.2, ("D_s", "A", "N_s")), (0.15, ("D_s", "N_s", "P")),
        (0.15, ("D_s", "N_s", "R_s")),
    ),
    "NP_p": (
        (0.4, ("D_p", "N_p")), (0.25, ("D_p", "A", "N_p")), (0.2, ("D_p", "N_p", "P")), (0.15, ("D_p", "N_p", "R_p")),
    ),
    "P": ((0.6, ("At", "D_s", "N_s")), (0.4, ("At", "D_p", "N_p"))),
    "R_s": ((0.5, ("who", "V_s", "D_s", "N_s")), (0.5, ("who", "V_s", "D_p", "N_p"))),
    "R_p": ((0.5, ("who", "V_p", "D_s", "N_s")), (0.5, ("who", "V_p", "D_p", "N_p"))),
    **{
        f"VP_{n}": (
            (0.2, (f"I_{n}",)), (0.2, (f"I_{n}", "B")), (0.4, (f"V_{n}", "O")), (0.2, (f"V_{n}", "O", "B")),
        )
        for n in NUMBERS
    },
    "O": (
        (0.2, ("Name",)), (0.25, ("D_s", "N_s")), (0.15, ("D_s", "A", "N_s")), (0.25, ("D_p", "N_p")),
        (0.15, ("D_p", "A", "N_p")),
    ),
}  # fmt: skip
LEXICON = {
    "Name": "Anna Tom", "D_s": "the a every", "D_p": "the some many", "N_s": "dog cat bird child",
    "N_p": "dogs cats birds children", "A": "small old happy quiet", "At": "near with", "who": "who",
    "I_s": "sleeps sings", "I_p": "sleep sing", "V_s": "sees likes chases", "V_p": "see like chase", "B": "today here",
}  # fmt: skip
CHOICES: Mapping[str, tuple[str, ...]] = {symbol: tuple(words.split()) for symbol, words in LEXICON.items()}
WORDS = tuple(sorted({word for words in CHOICES.values() for word in words}))
MOST_CHOICES = 32  # of one derivation


def sentences(seed: int, ids: Tensor) -> list[str]:
    """Returns the sentences of sample ids, with shape (N,), each a function of the seed and its id."""
    numbers = Draws(seed, ids).uniform("sentence", (MOST_CHOICES,)).tolist()
    return [" ".join(_grown("S", iter(row))) for row in numbers]


def _grown(symbol: str, numbers: Iterator[float]) -> Iterator[str]:
    u = next(numbers)
    if symbol in CHOICES:
        yield CHOICES[symbol][int(u * len(CHOICES[symbol]))]
        return
    ends = accumulate(share for share, _ in RULES[symbol])
    chosen = sum(u >= end for end in ends)
    for part in RULES[symbol][min(chosen, len(RULES[symbol]) - 1)][1]:
        yield from _grown(part, numbers)


def derivation(words: Sequence[str]) -> Counter[Rule] | None:
    """Returns how often each rule makes a sentence, words included; none where it is no sentence of the grammar."""
    found = [rules for rules, end in _read("S", tuple(words), 0) if end == len(words)]
    return Counter(found[0]) if found else None


@lru_cache(maxsize=1 << 16)
def _read(symbol: str, words: tuple[str, ...], start: int) -> tuple[tuple[tuple[Rule, ...], int], ...]:
    """Returns the ways to read a symbol from a place on: the rules of each, and where it ends."""
    if symbol in CHOICES:
        fits = start < len(words) and words[start] in CHOICES[symbol]
        return ((((symbol, CHOICES[symbol].index(words[start])),), start + 1),) if fits else ()
    ways: list[tuple[tuple[Rule, ...], int]] = []
    for number, (_, parts) in enumerate(RULES[symbol]):
        open_ways: list[tuple[tuple[Rule, ...], int]] = [(((symbol, number),), start)]
        for part in parts:
            open_ways = [(rules + more, end) for rules, at in open_ways for more, end in _read(part, words, at)]
        ways += open_ways
    return tuple(ways)
