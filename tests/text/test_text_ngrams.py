"""The n-gram model is what its formula says, sums to one, and draws what it has counted."""

import math
import numpy as np
import pytest
import torch

from collections import Counter
from itertools import pairwise
from modalities.text.grammar import sentences
from modalities.text.ngrams import NGrams, Vocabulary

TEXTS = sentences(0, torch.arange(600))
OTHERS = sentences(1, torch.arange(200))
STRANGE = ("", "the", "The", "zebra", "ééé", "some dogs who", " ", "the the the")


class Plain:
    """The model's formula once more, by dictionaries."""

    def __init__(self, texts: list[str], order: int, ends: bool) -> None:
        padded = [("<", *text, *([">"] if ends else [])) for text in texts]
        raw = [Counter(p[i : i + n] for p in padded for i in range(len(p) - n + 1)) for n in range(1, order + 1)]
        self.counts = []
        for n, counts in enumerate(raw):
            if n < order - 1:
                before = Counter(longer[1:] for longer in raw[n + 1])
                counts = Counter({gram: c if gram[0] == "<" else before[gram] for gram, c in counts.items()})
            self.counts.append(counts)
        del self.counts[0]["<",]
        self.symbols = [*sorted({symbol for p in padded for symbol in p} - {"<"}), "?"]

    def discount(self, n: int, count: int) -> float:
        many = [sum(c == k for c in self.counts[n].values()) for k in (1, 2, 3, 4)]
        found = [0.0, 0.5, 1.0, 1.5]
        if 0 not in many:
            y = many[0] / (many[0] + 2 * many[1])
            better = [0.0, *(k - (k + 1) * y * many[k] / many[k - 1] for k in (1, 2, 3))]
            found = better if min(better[1:]) > 0 else found
        return found[min(count, 3)]

    def probability(self, symbol: str, history: tuple[str, ...]) -> float:
        n = len(history)
        lower = self.probability(symbol, history[1:]) if n else 1 / len(self.symbols)
        after = {gram[-1]: c for gram, c in self.counts[n].items() if gram[:-1] == history}
        if not after:
            return lower
        own = after.get(symbol, 0)
        lost = sum(self.discount(n, c) for c in after.values())
        return (own - self.discount(n, own) + lost * lower) / sum(after.values())


@pytest.mark.parametrize("ends", [False, True], ids=["running", "ending"])
def test_it_is_what_the_formula_says(ends: bool) -> None:
    """Every probability after known, rare and unknown histories, and the perplexity, agree with a direct computation."""
    texts = TEXTS[:40]
    model, plain = NGrams(texts, 3, ends=ends), Plain(texts, 3, ends)
    for history in ("", "t", "th", "he ", "gzz", "z", texts[0]):
        known = tuple(symbol if symbol in plain.symbols else "?" for symbol in history)
        found = model.distribution(history)
        for symbol in plain.symbols:
            name = {">": "", "?": "\ufffd"}.get(symbol, symbol)
            assert found[name] == pytest.approx(plain.probability(symbol, ("<", *known)[-2:]), abs=1e-12)
    text = "the bird zings"
    padded = ("<", *(s if s in plain.symbols else "?" for s in text), *([">"] if ends else []))
    p = [plain.probability(symbol, padded[max(i - 1, 0) : i + 1]) for i, symbol in enumerate(padded[1:])]
    assert model.perplexity([text]) == pytest.approx(math.exp(-np.log(p).mean()), rel=1e-10)


@pytest.mark.parametrize("words", [False, True], ids=["characters", "words"])
@pytest.mark.parametrize("ends", [False, True], ids=["running", "ending"])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_sum_to_one(words: bool, ends: bool, order: int) -> None:
    """After histories that were counted and others, of every length; and none is zero."""
    model = NGrams(TEXTS, order, words, ends)
    histories = [*STRANGE, *(text[: 3 * n] for n, text in enumerate(OTHERS[:30])), "\0"]
    for history in histories:
        chances = list(model.distribution(history).values())
        assert sum(chances) == pytest.approx(1, abs=1e-11)
        assert min(chances) > 0


def test_real_texts_surprise_least() -> None:
    """Unseen sentences less than their words in another order, those less than their letters, and longer n-grams help."""
    model, random = NGrams(TEXTS, ends=True), np.random.default_rng(0)
    words = [" ".join(random.permutation(text.split())) for text in OTHERS]
    letters = ["".join(random.permutation(list(text))) for text in OTHERS]
    real, mixed, spelt = (model.perplexity(texts) for texts in (OTHERS, words, letters))
    assert 1 < real < 0.9 * mixed < 0.5 * spelt
    assert real < NGrams(TEXTS, 2, ends=True).perplexity(OTHERS) < NGrams(TEXTS, 1, ends=True).perplexity(OTHERS)


def test_a_uniform_source_has_the_perplexity_of_its_size() -> None:
    """Letters of eight that are drawn evenly surprise like eight possibilities, whatever came before."""
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abcdefgh"), 100)) for _ in range(200)]
    assert NGrams(texts[:100], 2).perplexity(texts[100:]) == pytest.approx(8, rel=0.02)


def test_samples_follow_the_distribution() -> None:
    """The first symbol, and the one after it, come as often as `distribution` says; texts end where they should."""
    model = NGrams(TEXTS, 3, ends=True)
    samples = model.sample(20_000, 2, seed=0)
    for history in ("", "t"):
        begun = [text for text in samples if text.startswith(history)]
        share = Counter(text[len(history) : len(history) + 1] for text in begun)
        chances = model.distribution(history)
        assert sum(abs(share[name] / len(begun) - p) for name, p in chances.items()) / 2 < 0.02
    ended = NGrams(["ab"] * 9, 3, ends=True).sample(200, 8, seed=0)
    assert Counter(ended)["ab"] > 100


def test_samples_have_the_pairs_of_the_training_texts() -> None:
    """Pairs of characters in samples come nearly as often as in the texts counted, and not if a letter is all one knows."""
    real = Counter(pair for text in TEXTS for pair in pairwise(text))
    gaps = []
    for order in (1, 3):
        drawn = NGrams(TEXTS, order).sample(600, 40, seed=0)
        pairs = Counter(pair for text in drawn for pair in pairwise(text))
        gaps.append(sum(abs(pairs[p] / pairs.total() - real[p] / real.total()) for p in real | pairs) / 2)
    assert gaps[1] < 0.1 < 0.4 < gaps[0]


def test_a_sample_is_a_function_of_seed_and_number() -> None:
    """The same for any count, whatever the global random state; another seed draws other texts of the length asked for."""
    model = NGrams(TEXTS)
    torch.manual_seed(1)
    samples = model.sample(20, 30, seed=3)
    torch.manual_seed(2)
    assert model.sample(5, 30, seed=3) == samples[:5]
    assert model.sample(20, 30, seed=4) != samples
    assert {len(text) for text in samples} == {30}
    assert [len(text.split()) for text in NGrams(TEXTS, 2, words=True).sample(3, 7, seed=0)] == [7] * 3


@pytest.mark.parametrize("texts", [["a"], ["", "ab"], ["aaaa"] * 3, [" "], [""]], ids=repr)
@pytest.mark.parametrize("ends", [False, True], ids=["running", "ending"])
def test_the_smallest_texts_are_enough(texts: list[str], ends: bool) -> None:
    """It is fitted to them, and says of others what it can; of nothing at all there is no perplexity."""
    model = NGrams(texts, ends=ends)
    assert math.isfinite(model.perplexity(["ab c", ""]))
    assert math.isnan(model.perplexity([]))
    assert math.isnan(model.perplexity([""])) != ends
    assert len(model.sample(3, 4, seed=0)) == 3


def test_rare_symbols_may_be_unknown() -> None:
    """A vocabulary keeps what occurs often enough, and writes what it does not know as a mark."""
    names = Vocabulary(["abca", "cd"], least=2)
    assert names.text(names.numbers("abcd")) == "a\ufffdc\ufffd"
    assert Vocabulary(["a b  a"], words=True).names[3:] == ("a", "b")
