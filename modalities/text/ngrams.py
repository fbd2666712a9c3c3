r"""An n-gram model of texts, which is fitted by counting: a judge that no training can spoil.

Symbols are characters, or words. With the counts \(a\) of n-grams the probability of a symbol after its history is

.. math:: p(w \mid h) = \frac{\max(a(hw) - D_{a(hw)}, 0)}{\sum_v a(hv)}
                        + \frac{\sum_v D_{a(hv)}}{\sum_v a(hv)} \; p(w \mid h'),

where \(h'\) is the history without its first symbol. At the highest order \(a\) counts occurrences; below it, in how many
different histories an n-gram continues, but for one that opens a text, which has none. Below the last order stands the
uniform distribution over all symbols, an unknown one among them. The discounts \(D_1, D_2, D_{3+}\) of each order follow
from how many n-grams occur once to four times, \(D_i = i - (i + 1) Y n_{i+1} / n_i\) with \(Y = n_1 / (n_1 + 2 n_2)\).

No n-gram crosses the border of two texts: each begins with a symbol of its own, which is never predicted, and ends with one
that is, if texts have ends. Probabilities are float64 and sum to one.

References:
    | An Empirical Study of Smoothing Techniques for Language Modeling (Chen & Goodman, 1999): modified Kneser-Ney
    | Scalable Modified Kneser-Ney Language Model Estimation (Heafield et al., 2013): n-grams that open a text
"""

__all__ = ["BEGIN", "END", "UNKNOWN", "NGrams", "Vocabulary"]

import math
import numpy as np
import torch

from cm_multimodal.random import uniform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

BEGIN, END, UNKNOWN = range(3)
STRANGE = "\ufffd"  # the unknown symbol, where it is drawn
DISCOUNTS = (0.5, 1.0, 1.5)  # where there are too few n-grams to tell


class Vocabulary:
    """Numbers the symbols of texts: a begin, an end, an unknown one, and those that occur, in their order.

    Arguments:
        texts: The texts.
        words: Whether symbols are words, which stand between white space; else they are characters.
        least: How often a symbol occurs at least, to be known.
    """

    def __init__(self, texts: Iterable[str], words: bool = False, least: int = 1) -> None:
        self.words = words
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(self.symbols(text))
        self.names = ("", "", STRANGE, *sorted(name for name, count in counts.items() if count >= least))
        self._numbers = {name: number for number, name in enumerate(self.names) if number > UNKNOWN}

    def __len__(self) -> int:
        return len(self.names)

    def symbols(self, text: str) -> Sequence[str]:
        """Returns the symbols of a text."""
        return text.split() if self.words else text

    def numbers(self, text: str) -> list[int]:
        """Returns the numbers of a text's symbols."""
        return [self._numbers.get(symbol, UNKNOWN) for symbol in self.symbols(text)]

    def text(self, numbers: Iterable[int]) -> str:
        """Returns the text of numbers, up to the end where it is among them."""
        return (" " if self.words else "").join(self.names[number] for number in takewhile(END.__ne__, numbers))


@dataclass(frozen=True)
class Order:
    """The n-grams of one length, by the numbers of their histories, which are n-grams of the length below.

    Arguments:
        keys: A history's number times the number of symbols plus the last symbol, ascending, with shape (G,).
        weights: What discounting leaves of the counts, with shape (G,).
        totals: The sum of the counts of each history, with shape (H,).
        lower: The share of each history that goes to the order below, with shape (H,).
    """

    keys: np.ndarray
    weights: np.ndarray
    totals: np.ndarray
    lower: np.ndarray

    def find(self, keys: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Returns the numbers of n-grams, and -1 for those that are not valid or never occurred."""
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(valid & (self.keys[place] == keys), place, -1)


class NGrams:
    """Fits a model to texts.

    Arguments:
        texts: The texts; at least one of them has a symbol.
        order: The length of the longest n-grams.
        words: Whether symbols are words.
        ends: Whether texts end; else they are pieces of running text.
    """

    def __init__(self, texts: Sequence[str], order: int = 5, words: bool = False, ends: bool = False) -> None:
        self.vocabulary, self.ends = Vocabulary(texts, words), ends
        self.predicted = np.array([*([END] if ends else []), *range(UNKNOWN, len(self.vocabulary))])
        self.orders = self._fit(*self._stream(texts), order)
        self._before = [np.concatenate([[0.0], np.cumsum(level.weights)]) for level in self.orders]
        self._borders = [
            np.searchsorted(level.keys, np.arange(len(level.totals) + 1) * len(self.vocabulary))
            for level in self.orders
        ]

    def _stream(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns all symbols of texts, one after the other, and the place of each in its text, which begins at 0."""
        end = [END] if self.ends else []
        parts = [[BEGIN, *self.vocabulary.numbers(text), *end] for text in texts]
        stream = np.fromiter((number for part in parts for number in part), dtype=np.int64)
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        return stream, np.arange(len(stream)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

    def _fit(self, stream: np.ndarray, place: np.ndarray, order: int) -> list[Order]:
        """Returns the n-grams of all lengths; the counts of each but the longest follow from those one longer."""
        size, histories, found = len(self.vocabulary), np.zeros(len(stream), dtype=np.int64), []
        for n in range(order):
            rows = np.flatnonzero(place >= n)
            if len(rows) == 0:
                break
            keys, first, inverse, counts = np.unique(
                histories[rows] * size + stream[rows], return_index=True, return_inverse=True, return_counts=True
            )
            nodes = np.full(len(stream), -1)
            nodes[rows] = inverse
            found.append((keys, rows[first], nodes, counts))
            histories = _shifted(nodes)
        orders, above = [], 1
        for n, (keys, _, nodes, counts) in enumerate(found):
            if n + 1 < len(found):
                continued = np.bincount(nodes[found[n + 1][1]], minlength=len(keys))
                counts = np.where(continued > 0, continued, counts)
            if n == 0:
                counts = np.where(keys == BEGIN, 0, counts)
            orders.append(_order(keys, counts, size, above))
            above = len(keys)
        return orders

    def _walk(self, stream: np.ndarray, place: np.ndarray) -> Iterator[tuple[Order, np.ndarray, np.ndarray]]:
        """Yields each order, the shortest first, with the numbers of all n-grams and of their histories; -1: none."""
        nodes = np.zeros(len(stream), dtype=np.int64)
        for n, level in enumerate(self.orders):
            histories = np.where(place >= n, _shifted(nodes) if n else nodes, -1)
            nodes = level.find(histories * len(self.vocabulary) + stream, histories >= 0)
            yield level, nodes, histories

    def _probabilities(self, stream: np.ndarray, place: np.ndarray) -> np.ndarray:
        p = np.full(len(stream), 1 / len(self.predicted))
        for level, nodes, histories in self._walk(stream, place):
            own = np.where(nodes >= 0, level.weights[nodes], 0.0) / np.maximum(level.totals[histories], 1)
            p = np.where(histories >= 0, own + level.lower[histories] * p, p)
        return p

    def perplexity(self, texts: Sequence[str]) -> float:
        """Returns the exponential of the mean surprise of a symbol, ends included; no number without any symbol."""
        stream, place = self._stream(texts)
        surprise = -np.log(self._probabilities(stream, place)[place > 0])
        return math.exp(surprise.mean()) if len(surprise) else math.nan

    def distribution(self, history: str) -> dict[str, float]:
        """Returns the probabilities of all symbols after the beginning of a text; '' is the end of it."""
        known = [BEGIN, *self.vocabulary.numbers(history)]
        stream = np.concatenate([[*known, number] for number in self.predicted])
        place = np.tile(np.arange(len(known) + 1), len(self.predicted))
        chances = self._probabilities(stream, place)[place == len(known)]
        return {self.vocabulary.names[n]: float(p) for n, p in zip(self.predicted, chances, strict=True)}

    def sample(self, count: int, length: int, seed: int) -> list[str]:
        """Returns so many texts of so many symbols, or of fewer where texts end.

        A symbol is drawn from an order's discounted counts, or with the share of the order below from that one.
        """
        shape = (length, len(self.orders) + 1, 2)
        numbers = uniform(seed, "ngrams", torch.arange(count), shape).numpy()
        nodes, drawn = [np.zeros(count, dtype=np.int64)], np.full((count, length), END)
        nodes = self._step([*nodes, *[np.full(count, -1)] * len(self.orders)], np.full(count, BEGIN))
        for step in range(length):
            drawn[:, step] = self._draw(nodes, numbers[:, step])
            nodes = self._step(nodes, drawn[:, step])
        return [self.vocabulary.text(row) for row in drawn.tolist()]

    def _step(self, nodes: list[np.ndarray], symbols: np.ndarray) -> list[np.ndarray]:
        """Returns the numbers of the n-grams that end in the next symbols, from those before it; the root comes first."""
        size = len(self.vocabulary)
        pairs = zip(self.orders, nodes, strict=False)
        return [nodes[0], *(level.find(node * size + symbols, node >= 0) for level, node in pairs)]

    def _draw(self, nodes: list[np.ndarray], numbers: np.ndarray) -> np.ndarray:
        """Returns a symbol for each row, from uniform numbers with shape (N, orders + 1, 2)."""
        symbols = self.predicted[(numbers[:, -1, 0] * len(self.predicted)).astype(np.int64)]
        for n, level in enumerate(self.orders):
            rows = np.flatnonzero(nodes[n] >= 0)
            rows = rows[numbers[rows, n, 0] >= level.lower[nodes[n][rows]]]
            histories = nodes[n][rows]
            before, borders = self._before[n], self._borders[n]
            begin, end = borders[histories], borders[histories + 1]
            target = before[begin] + numbers[rows, n, 1] * (before[end] - before[begin])
            place = np.searchsorted(before, target, side="right") - 1
            symbols[rows] = level.keys[place.clip(begin, end - 1)] % len(self.vocabulary)
        return symbols


def _shifted(nodes: np.ndarray) -> np.ndarray:
    return np.concatenate([[-1], nodes[:-1]])


def _order(keys: np.ndarray, counts: np.ndarray, size: int, histories: int) -> Order:
    discounts = np.array([0.0, *_discounts(counts)])[counts.clip(max=3)]
    parents = keys // size
    totals = np.bincount(parents, counts, minlength=histories)
    lost = np.bincount(parents, discounts, minlength=histories)
    lower = np.where(totals > 0, lost / np.maximum(totals, 1), 1.0)
    return Order(keys, counts - discounts, totals, lower)


def _discounts(counts: np.ndarray) -> tuple[float, ...]:
    """Returns the discounts of n-grams that count 1, 2, and 3 or more."""
    n = np.bincount(counts.clip(max=5), minlength=6)[1:5]
    if n.min() == 0:
        return DISCOUNTS
    y = n[0] / (n[0] + 2 * n[1])
    found = tuple(float(i - (i + 1) * y * n[i] / n[i - 1]) for i in (1, 2, 3))
    return found if all(0 < each <= i for i, each in enumerate(found, 1)) else DISCOUNTS
