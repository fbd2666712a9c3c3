"""The measures of texts are what they are called, have the right floors and ceilings, and survive all that models make."""

import math
import numpy as np
import pytest
import torch

from cm_multimodal.errors import UsageError
from cm_multimodal.modality import Dataset
from collections import Counter
from modalities.text import language, metrics
from modalities.text.grammar import sentences
from modalities.text.metrics import BY_TRAIN, MEASURES, Real, divergence, features, self_bleu, vectors
from modalities.text.texts import to_raw
from torchmetrics.functional.text import bleu_score

WIDTH = 80
TRAIN, TEST = sentences(0, torch.arange(400)), sentences(1, torch.arange(400))
RUNNING = " and\n".join(sentences(2, torch.arange(400)))
WINDOWS = [RUNNING[start : start + 32] for start in range(0, len(RUNNING) - 32, 32)]


def dataset(texts: list[str]) -> Dataset:
    return Dataset(to_raw(texts, WIDTH))


LINES, CUT = (
    Real(tuple(texts[:200]), tuple(texts[200:299]), ends) for texts, ends in ((TRAIN, True), (WINDOWS, False))
)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that judges is trained by a few updates."""
    monkeypatch.setattr(language, "UPDATES", 20)


def value(
    name: str, texts: list[str], train: list[str] = TRAIN, test: list[str] = TEST, ends: bool | None = None
) -> float:
    ends = not set(train) <= set(WINDOWS) if ends is None else ends
    return MEASURES[name](tuple(texts), Real(tuple(train), tuple(test), ends))


def test_a_divergence_is_what_its_formula_says() -> None:
    """It agrees with numpy, is 0 for shares that are equal and 1 for those that share nothing."""
    a, b = Counter("abracadabra"), Counter("alphabet")
    names = sorted(a | b)
    p, q = (np.array([each[name] for name in names]) / each.total() for each in (a, b))
    m = (p + q) / 2
    direct = sum((each[each > 0] * np.log2(each[each > 0] / m[each > 0])).sum() / 2 for each in (p, q))
    assert divergence(a, b) == pytest.approx(direct, abs=1e-12)
    assert divergence(a, Counter("abracadabra" * 2)) == 0
    assert divergence(a, Counter("xyz")) == 1
    assert math.isnan(divergence(a, Counter()))


@pytest.mark.parametrize("name", ["unigrams", "bigrams", "trigrams", "word_pairs"])
def test_divergences_have_a_floor_and_a_ceiling(name: str) -> None:
    """0 for the test texts themselves, 1 for texts of other letters, and real texts lie far below mixed letters."""
    random = np.random.default_rng(0)
    mixed = ["".join(random.permutation(list(text))) for text in TRAIN]
    assert value(name, TEST) == 0
    assert value(name, ["ÄÖÜ ÖÄÜ ÜÄÖ"] * 400) == pytest.approx(1) or name == "unigrams"
    assert 0 < value(name, TRAIN) < (0.05 if name == "unigrams" else 0.5 * value(name, mixed))
    assert value("unigrams", ["ÄÖÜ"] * 400) == 1


def test_both_sides_have_as_much_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the smaller one, and at most 20,000 characters; n-grams do not cross from one text to another."""
    monkeypatch.setattr(metrics, "divergence", lambda a, b: (a.total(), b.total()))
    assert value("unigrams", ["abc"] * 5) == (15, 15)
    assert value("unigrams", ["abcdefghij" * 8] * 400, test=["abcdefghij" * 8] * 300) == (20_000, 20_000)
    assert value("bigrams", ["ab", "cd", "e"], test=["abcde"]) == (2, 4)


def test_words_are_valid_that_training_texts_have() -> None:
    """Of four letters or more, in any case, with apostrophes; a word cut by the border of a window is no word at all."""
    lines = ["They saw a lion's tail", "a dog", "cats", "- " * 20]
    assert value("valid_words", ["THEY tail", "taill lion's", "saw dgo"], train=lines, test=lines) == 3 / 4
    assert math.isnan(value("valid_words", ["a dog", "", "?!"], train=lines, test=lines))
    windows = ["hey saw the li", "ons and a tail", "ed dog who can"]
    assert value("valid_words", ["aw lion xx tail", "dogs tail."], train=windows, test=windows, ends=False) == 0
    windows = ["a lion is a ca", "at a lion is a"]
    assert value("valid_words", ["ails saw lion e", "ails and lion s"], train=windows, ends=False) == 1


def test_real_words_are_valid() -> None:
    """All of them in windows of running text, though every window cuts two."""
    assert value("valid_words", WINDOWS[::2], train=WINDOWS, test=WINDOWS) == 1


def test_distinct_words_are_counted_over_all_texts() -> None:
    """Different n-grams as a share of all, at the number of words that the test texts have."""
    lines = ["one two three four five", "six", "seven eight"]
    assert value("distinct_1", ["a a", "a b"], test=lines) == 2 / 4
    assert value("distinct_2", ["a b a b c"], test=lines) == 3 / 4
    assert value("distinct_1", ["same word"] * 50, test=lines) == 2 / 8
    assert math.isnan(value("distinct_4", ["a b c"] * 9))


def test_self_bleu_is_that_of_torchmetrics() -> None:
    """Each sentence against all others, pooled; in real sentences, 1 for equal ones, and 0 without a common 4-gram."""
    texts = [text for text in TEST if len(text.split()) >= 5][:40]
    others = [texts[:n] + texts[n + 1 :] for n in range(len(texts))]
    assert self_bleu([text.split() for text in texts]) == pytest.approx(float(bleu_score(texts, others)), abs=1e-5)
    assert value("self_bleu", [max(TEST, key=len)] * 30) == pytest.approx(1)
    assert self_bleu([list("abcde"), list("fghij")]) == 0
    assert math.isnan(self_bleu([list("abcde")]))
    short = [list("abcde"), list("abcdefgh")]
    assert 0 < self_bleu(short) < 1


def test_entropy_is_that_within_a_text() -> None:
    """The mean over texts, in nats: 0 for one letter, log n for n of them."""
    assert value("entropy", ["aaaa", "abcd"]) == pytest.approx(math.log(4) / 2)


def test_what_training_texts_have_is_found() -> None:
    """Lines as whole ones, windows anywhere in the running text, and 4-grams of words in both."""
    assert value("found", [TRAIN[3], TRAIN[5][:-1], "", "no such text"]) == 1 / 4
    assert value("found", [RUNNING[5:37], RUNNING[40:72].upper(), ""], train=WINDOWS, test=WINDOWS) == 1 / 3
    lines = ["one two three four five", "six seven", "- " * 20]
    assert value("repeated_4", ["two three four five", "three four five six"], train=lines, test=lines) == 1 / 2
    assert value("duplicates", ["a", "b", "a", "c"]) == 1 / 2
    assert value("repeated_4", TRAIN) == 1


def test_lengths_are_held_against_the_test_texts() -> None:
    """0 for the same lengths, 1 for texts that are all empty, and what is longer than all real ones is as the longest."""
    assert value("lengths", [text.upper() for text in TEST]) == 0
    assert value("lengths", [""] * 9) == pytest.approx(1)
    assert value("lengths", ["a" * 80] * 9, test=["a" * 40] * 9) == 0
    assert value("lengths", ["a" * 40, ""], test=["a" * 40]) == 1 / 2


def test_sentences_are_grammatical() -> None:
    """All real ones, none backwards; the rules of those that are one are compared, of the others none."""
    backwards = [" ".join(reversed(text.split())) for text in TEST]
    assert value("grammatical", TRAIN) == 1
    assert value("grammatical", backwards) < 0.01
    assert value("grammatical", [TEST[0], TEST[1] + " ", "", backwards[0]]) == 1 / 4
    assert value("rules", TEST) == 0
    assert value("rules", TRAIN) < 0.1 < value("rules", ["Anna sleeps"] * 50)
    assert value("rules", [*TEST, "no sentence"]) == 0
    assert math.isnan(value("rules", ["no sentence"]))


@pytest.mark.parametrize("name", ["perplexity_ngrams", "perplexity_own"])
def test_a_judge_is_made_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real texts surprise it less than mixed letters; the same training texts make no second one, and others do."""
    made, train = [], TRAIN[:101]
    for kind in ("NGrams", "Language"):
        old = getattr(metrics, kind)
        monkeypatch.setattr(metrics, kind, lambda *a, old=old, **k: made.append(k["ends"]) or old(*a, **k))
    letters = ["".join(np.random.default_rng(0).permutation(list(text))) for text in TEST]
    assert value(name, TEST, train=train) < value(name, letters, train=train)
    assert made == [True]
    value(name, WINDOWS[:9], train=WINDOWS[: 100 + len(name)])
    assert made == [True, False]


def test_which_split_a_measure_asks() -> None:
    """Those of `BY_TRAIN` do not change with the test texts, and all others not with the training texts."""
    samples, half = WINDOWS[:40], 200
    for name in set(MEASURES) - {"grammatical", "rules"}:
        first = value(name, samples, train=WINDOWS[:half], test=WINDOWS[half : 2 * half])
        train, test = (WINDOWS[:half], TEST) if name in BY_TRAIN else (WINDOWS[:9], WINDOWS[half : 2 * half])
        assert value(name, samples, train=train, test=test) == first, name
    assert set(MEASURES) > BY_TRAIN


BROKEN = {
    "empty": [""] * 30, "one letter": ["a" * WIDTH] * 30, "spaces": [" " * 20] * 30, "marks": ["\ufffd" * 8] * 30,
    "a single one": TEST[:1], "a single empty one": [""], "no letters": ["?!\n '' _ 1"] * 30, "unseen": ["ж中é😀"] * 30,
}  # fmt: skip


@pytest.mark.parametrize("texts", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("real", [LINES, CUT], ids=["lines", "windows"])
def test_whatever_a_model_makes_can_be_measured(texts: list[str], real: Real) -> None:
    """Nothing fails: a measure is a number or none, a share lies between 0 and 1, features and vectors are finite."""
    samples = dataset(texts)
    for name, measure in MEASURES.items():
        found = measure(tuple(texts), real)
        assert isinstance(found, float), name
        top = math.inf if name.startswith("perplexity") else 5 if name == "entropy" else 1 + 1e-9
        assert math.isnan(found) or 0 <= found <= top, name
    assert features(samples.raw, {}).isfinite().all()
    assert np.isfinite(vectors(samples.raw)).all()


def test_features_see_spelling_and_vectors_words() -> None:
    """Features have length one and see cases, line ends and order; vectors see words and which stand side by side."""
    raw = dataset(["a dog\nsees", "a dog sees", "A dog sees", "sees a dog", ""]).raw
    found = features(raw, {"features": "ngrams"})
    assert (found.shape, found.dtype) == ((5, 256), torch.float64)
    assert torch.allclose(found.norm(dim=1), torch.tensor([1.0, 1, 1, 1, 0], dtype=torch.float64))
    assert torch.pdist(found).min() > 0.1
    seen = vectors(raw)
    assert seen.shape == (5, 1024)
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[1], seen[3])


def test_unknown_features_are_said() -> None:
    """A name that is none is a sentence with the one that is meant."""
    with pytest.raises(UsageError, match="did you mean 'ngrams'"):
        features(dataset(TEST).raw, {"features": "ngram"})
