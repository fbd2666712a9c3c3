r"""Features for distances between sets of texts, what the classifier of the accuracy score sees, and measures of texts.

unigrams           Jensen-Shannon divergence (base 2) of characters to those of the test split          lower is better
bigrams, trigrams  the same of two and of three characters in a row                                    lower
word_pairs         the same of two words in a row                                                      lower
valid_words        share of words of four letters or more that training texts have                     higher
distinct_1, 2, 4   different word n-grams as a share of all of them, in at most 5,000 words            as real texts
self_bleu          corpus BLEU-4 of 200 texts, each against all others of them                         as real texts
entropy            mean entropy of the characters in a text, in nats                                   as real texts
repeated_4         share of word 4-grams that training texts have                                      as real texts
found              share of texts that are training texts, or of running text a piece of them          as real texts
duplicates         share of texts that another one repeats exactly                                     as real texts
lengths            total variation of the lengths in characters, in 20 bins, to the test split         lower
perplexity_ngrams  of a character under a 5-gram model of the training texts (`ngrams.py`)             as real texts
perplexity_own     of a character under a network trained on the training texts (`language.py`)        as real texts
grammatical        share of texts that are sentences of the grammar (`grammar.py`)                     higher
rules              total variation of the rules in grammatical texts to those of the test split        lower

`judges.py` has two more, by a language model from outside.

A perplexity never stands alone: a text that repeats itself has a lower one than any that a person wrote. `entropy` stands
beside it. The divergence \(\tfrac12 \mathrm{KL}(p \| m) + \tfrac12 \mathrm{KL}(q \| m)\), \(m = (p + q)/2\), is 0 for equal
distributions and 1 for disjoint ones; of samples it has a floor above 0, so both sides have the same number of characters
and real texts are held against real ones beside.

A word is a run of letters and digits, with apostrophes inside, in lower case; n-grams of words have punctuation, too. Where
a text may have been cut, as all windows of running text are, and lines as long as the longest real one, its first and its
last word do not count if they touch the border. N-grams never cross from one text to another. A measure is no number where
nothing is there to be measured. What `BY_TRAIN` names holds texts against the training split: the real texts beside are
those of the test split.

Features are counts of character n-grams, hashed and scaled to length one. They are no learned ones, and our own.

References:
    | Feature Hashing for Large Scale Multitask Learning (Weinberger et al., 2009)
    | Texygen: A Benchmarking Platform for Text Generation Models (Zhu et al., 2018): self-BLEU
    | A Diversity-Promoting Objective Function for Neural Conversation Models (Li et al., 2016): distinct-n
    | BLEU: a Method for Automatic Evaluation of Machine Translation (Papineni et al., 2002)
"""

__all__ = ["BY_TRAIN", "MEASURES", "Real", "divergence", "features", "self_bleu", "vectors"]

import math
import numpy as np
import re
import torch

from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.random import permutation
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor
from typing import Any

from .grammar import Rule, derivation
from .language import Language
from .ngrams import NGrams
from .texts import to_texts

EXTRACTORS = ("ngrams",)
WORD = r"[^\W_]+(?:['’][^\W_]+)*"
TOKEN = rf"{WORD}|[^\w\s]|_"
LETTERS = 4  # of a word that tells something
CHARACTERS, WORDS, SENTENCES, BINS = 20_000, 5_000, 200, 20
FITTED_TO = 2_000_000  # characters
ORDER = 5
LINE_END = "¶"  # the vectoriser takes all white space for one

Texts = tuple[str, ...]


@dataclass(frozen=True)
class Real:
    """Real texts.

    Arguments:
        train: Those that were learned from.
        test: Those that test.
        ends: Whether texts end; else they are windows of running text.
    """

    train: Texts
    test: Texts
    ends: bool


def features(raw: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Returns features, with shape (N, 256), in float64.

    Arguments:
        raw: Texts with shape (N, W), in uint8.
        config: `features`: 'ngrams', the only ones yet.
    """
    name = config.get("features") or "ngrams"
    if name not in EXTRACTORS:
        raise UsageError(f"There are no features '{name}'; {nearest(str(name), EXTRACTORS)}")
    hashed = HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=256, lowercase=False)
    return torch.from_numpy(hashed.transform(text.replace("\n", LINE_END) for text in to_texts(raw)).toarray())


def vectors(raw: Tensor) -> np.ndarray:
    """Returns the words of texts and the pairs of them, hashed, with shape (N, 1024)."""
    hashed = HashingVectorizer(token_pattern=TOKEN, ngram_range=(1, 2), n_features=1024)
    return hashed.transform(to_texts(raw)).toarray()


def divergence(a: Counter[Any], b: Counter[Any]) -> float:
    """Returns the Jensen-Shannon divergence, to base 2, of two counts; no number where one counts nothing."""
    if not (a and b):
        return math.nan
    names = sorted(a | b)
    return float(np.clip(jensenshannon([a[n] for n in names], [b[n] for n in names], base=2) ** 2, 0, 1))


def variation(a: Counter[Any], b: Counter[Any]) -> float:
    """Returns the total variation of two counts; no number where one counts nothing."""
    if not (a and b):
        return math.nan
    return sum(abs(a[name] / a.total() - b[name] / b.total()) for name in a | b) / 2


def _border(real: Real) -> int:
    """Returns from which length on texts may have been cut: all windows of running text, and else the longest texts."""
    return max(map(len, real.train + real.test), default=0) if real.ends else 0


def _first(texts: Sequence[str], most: int) -> Texts:
    """Returns texts in an order without meaning, up to so many characters, the last one cut."""
    found, left = [], most
    for number in permutation(0, "texts", len(texts)).tolist():
        if left <= 0:
            break
        found.append(texts[number][:left])
        left -= len(found[-1])
    return tuple(found)


def _fair(samples: Texts, real: Real) -> tuple[Texts, Texts]:
    """Returns samples and test texts with the same number of characters."""
    most = min(CHARACTERS, *(sum(map(len, side)) for side in (samples, real.test)))
    return _first(samples, most), _first(real.test, most)


def _runs(text: str, border: int, pattern: str = TOKEN) -> list[str]:
    """Returns the words of a text in lower case, without those that its border may have cut."""
    cut = len(text) >= border
    whole = [each for each in re.finditer(pattern, text) if not (cut and _touches(each, text))]
    return [each[0].lower() for each in whole]


def _touches(run: re.Match[str], text: str) -> bool:
    return run[0][0].isalnum() and (run.start() == 0 or run.end() == len(text))


def _grams(parts: Iterable[Sequence[Hashable]], n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(gram for part in parts for gram in zip(*(part[start:] for start in range(n)), strict=False))


@lru_cache(maxsize=8)
def _word_grams(texts: Texts, border: int, n: int) -> Counter[tuple[Hashable, ...]]:
    return _grams((_runs(text, border) for text in texts), n)


def _characters(n: int) -> Callable[[Texts, Real], float]:
    def measure(samples: Texts, real: Real) -> float:
        a, b = _fair(samples, real)
        return divergence(_grams(a, n), _grams(b, n))

    return measure


def _word_pairs(samples: Texts, real: Real) -> float:
    border = _border(real)
    a, b = (_grams([_runs(text, border) for text in side], 2) for side in _fair(samples, real))
    return divergence(a, b)


def _valid_words(samples: Texts, real: Real) -> float:
    border = _border(real)
    known = {word for (word,) in _word_grams(real.train, border, 1)}
    words = [word for text in samples for word in _runs(text, border, WORD) if _tells(word)]
    return sum(word in known for word in words) / len(words) if words else math.nan


def _tells(word: str) -> bool:
    return sum(map(str.isalpha, word)) >= LETTERS


def _distinct(n: int) -> Callable[[Texts, Real], float]:
    def measure(samples: Texts, real: Real) -> float:
        border = _border(real)
        left = min(WORDS, _word_grams(real.test, border, 1).total())
        parts = []
        for text in _first(samples, FITTED_TO):
            parts.append(_runs(text, border)[:left])
            left -= len(parts[-1])
        grams = _grams(parts, n)
        return len(grams) / grams.total() if grams else math.nan

    return measure


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Returns the corpus BLEU-4 of texts, as words, each against all others; no number without 4-grams or other texts.

    For each n-gram the two largest counts in a text are enough to know the largest one in all others.
    """
    clipped, counted = np.zeros(4), np.zeros(4)
    for n in range(4):
        each = [_grams([text], n + 1) for text in texts]
        most: dict[Any, list[int]] = {}
        for grams in each:
            for gram, count in grams.items():
                most[gram] = sorted([*most.get(gram, (0, 0)), count])[1:]
        pairs = [(count, most[gram]) for grams in each for gram, count in grams.items()]
        clipped[n] = sum(min(count, second if count == first else first) for count, (second, first) in pairs)
        counted[n] = sum(count for count, _ in pairs)
    if len(texts) < 2 or not counted.all():
        return math.nan
    return float(np.exp(np.log(clipped / counted).mean()) * _brevity(texts)) if clipped.all() else 0.0


def _brevity(texts: Sequence[Sequence[str]]) -> float:
    """Returns the penalty for texts that are shorter than the others nearest in length."""
    lengths = sorted(map(len, texts))
    beside = [(*lengths[max(n - 1, 0) : n], *lengths[n + 1 : n + 2]) for n in range(len(lengths))]
    closest = [min(pair, key=lambda other: abs(other - own)) for pair, own in zip(beside, lengths, strict=True)]
    return min(1.0, math.exp(1 - sum(closest) / sum(lengths)))


def _self_bleu(samples: Texts, real: Real) -> float:
    border = _border(real)
    return self_bleu([_runs(text, border) for text in _first(samples, FITTED_TO)[:SENTENCES]])


def _entropy(samples: Texts, real: Real) -> float:
    return float(np.mean([entropy(list(Counter(text).values())) if text else 0.0 for text in samples]))


def _repeated(samples: Texts, real: Real) -> float:
    border = _border(real)
    known = _word_grams(real.train, border, 4)
    grams = _grams((_runs(text, border) for text in samples), 4)
    return sum(count for gram, count in grams.items() if gram in known) / grams.total() if grams else math.nan


def _found(samples: Texts, real: Real) -> float:
    if real.ends:
        known = set(real.train)
        return sum(text in known for text in samples) / len(samples)
    running = "".join(real.train)
    return sum(bool(text) and text in running for text in samples) / len(samples)


def _duplicates(samples: Texts, real: Real) -> float:
    return sum(count for count in Counter(samples).values() if count > 1) / len(samples)


def _lengths(samples: Texts, real: Real) -> float:
    most = max(max(map(len, real.test), default=0), 1)
    sides = [Counter(min(len(text), most) * BINS // (most + 1) for text in part) for part in (samples, real.test)]
    return variation(*sides)


@lru_cache(maxsize=2)
def _ngrams(texts: Texts, ends: bool) -> NGrams:
    return NGrams(texts, ORDER, ends=ends)


@lru_cache(maxsize=2)
def _language(texts: Texts, ends: bool) -> Language:
    return Language(texts, ends=ends)


def _perplexity(judge: Callable[[Texts, bool], NGrams | Language]) -> Callable[[Texts, Real], float]:
    def measure(samples: Texts, real: Real) -> float:
        return judge(_first(real.train, FITTED_TO), real.ends).perplexity(samples)

    return measure


def _derivations(texts: Texts) -> list[Counter[Rule]]:
    found = (derivation(text.split(" ")) for text in texts)
    return [each for each in found if each is not None]


def _grammatical(samples: Texts, real: Real) -> float:
    return len(_derivations(samples)) / len(samples)


def _rules(samples: Texts, real: Real) -> float:
    sides = [sum(_derivations(part), Counter[Rule]()) for part in (samples, real.test)]
    return variation(*sides)


MEASURES: dict[str, Callable[[Texts, Real], float]] = {
    "unigrams": _characters(1),
    "bigrams": _characters(2),
    "trigrams": _characters(3),
    "word_pairs": _word_pairs,
    "valid_words": _valid_words,
    "distinct_1": _distinct(1),
    "distinct_2": _distinct(2),
    "distinct_4": _distinct(4),
    "self_bleu": _self_bleu,
    "entropy": _entropy,
    "repeated_4": _repeated,
    "found": _found,
    "duplicates": _duplicates,
    "lengths": _lengths,
    "perplexity_ngrams": _perplexity(_ngrams),
    "perplexity_own": _perplexity(_language),
    "grammatical": _grammatical,
    "rules": _rules,
}
BY_TRAIN = frozenset({"valid_words", "repeated_4", "found", "perplexity_ngrams", "perplexity_own"})
