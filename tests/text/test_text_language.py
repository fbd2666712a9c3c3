"""The network that judges texts learns them, says probabilities, and is the same whatever is set around it."""

import math
import numpy as np
import pytest
import torch

from modalities.text import language
from modalities.text.grammar import WORDS, sentences
from modalities.text.language import Language
from modalities.text.ngrams import BEGIN

TEXTS = sentences(0, torch.arange(1500))
OTHERS = sentences(1, torch.arange(200))


@pytest.fixture(scope="module")
def judge() -> Language:
    """A network after a few updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "UPDATES", 150)
        return Language(TEXTS, ends=True)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training ends after three updates."""
    monkeypatch.setattr(language, "UPDATES", 3)


@pytest.mark.slow
def test_real_texts_surprise_least(judge: Language) -> None:
    """Unseen sentences less than their words in another order, and those far less than their letters."""
    random = np.random.default_rng(0)
    words = [" ".join(random.permutation(text.split())) for text in OTHERS]
    letters = ["".join(random.permutation(list(text))) for text in OTHERS]
    real, mixed, spelt = (judge.perplexity(texts) for texts in (OTHERS, words, letters))
    assert 1 < real < 0.8 * mixed
    assert mixed < 0.3 * spelt
    assert real < 2


@pytest.mark.slow
def test_it_says_probabilities(judge: Language) -> None:
    """Those of all next symbols sum to one, and what comes later changes nothing of what was said before."""
    known = judge.vocabulary.numbers("the dog ")
    pieces = torch.tensor([[*known, number] for number in range(len(judge.vocabulary))])
    surprise = judge.net(pieces)
    assert float((-surprise[:, -1]).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(surprise[:, :-1], surprise[:1, :-1], atol=1e-6)


@pytest.mark.slow
def test_a_perplexity_is_a_mean_over_symbols(judge: Language) -> None:
    """Texts of other lengths beside one, which it is padded to, change nothing; ends count as symbols."""
    texts = [OTHERS[0], "a", OTHERS[1] * 9]
    whole = math.log(judge.perplexity(texts)) * sum(len(text) + 1 for text in texts)
    parts = sum(math.log(judge.perplexity([text])) * (len(text) + 1) for text in texts)
    assert whole == pytest.approx(parts, rel=1e-5)


@pytest.mark.usefixtures("brief")
def test_the_same_texts_give_the_same_network() -> None:
    """Bit for bit, whatever the random state, the number of threads and the mode around it, all of which it leaves alone."""
    threads, weights = torch.get_num_threads(), []
    try:
        for seed, count in ((0, 1), (1, 2)):
            torch.manual_seed(seed)
            torch.set_num_threads(count)
            before = torch.get_rng_state()
            with torch.inference_mode(bool(seed)):
                made = Language(TEXTS[:200])
                weights.append((made.digest, made.perplexity(OTHERS), made.net.state_dict()))
            assert torch.equal(torch.get_rng_state(), before)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    (digest, perplexity, first), (again, same, second) = weights
    assert (digest, perplexity) == (again, same)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("brief")
def test_other_texts_or_seeds_give_another_network() -> None:
    """The digest tells them apart."""
    found = {Language(TEXTS[:100]).digest, Language(TEXTS[1:101]).digest, Language(TEXTS[:100], seed=1).digest}
    assert len(found) == 3


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("texts", [["a"], ["", "ab"], ["aa"] * 3, [""], []], ids=repr)
def test_the_smallest_texts_are_enough(texts: list[str]) -> None:
    """It is trained on them, and says of others what it can; of nothing at all there is no perplexity."""
    judge = Language(texts)
    assert math.isfinite(judge.perplexity(["ab \ufffd", ""]))
    assert math.isnan(judge.perplexity([""]))


@pytest.mark.usefixtures("brief")
def test_words_can_be_symbols() -> None:
    """A sentence of n words has n surprises, and its end."""
    judge = Language(TEXTS[:100], words=True, ends=True)
    assert len(judge.vocabulary) < 40
    both, first, second = (math.log(judge.perplexity(texts)) for texts in (["the dog", "the"], ["the dog"], ["the"]))
    assert both * 5 == pytest.approx(first * 3 + second * 2, rel=1e-5)
    assert math.isfinite(judge.perplexity(["no such words"]))


@pytest.mark.usefixtures("brief")
def test_it_writes_what_it_says_of_texts() -> None:
    """A symbol a call, from a state that is kept, is as probable as in the whole text; the same seed, the same texts."""
    judge = Language(TEXTS[:100], ends=True)
    texts = judge.sample(40, 12, seed=0)
    assert texts == judge.sample(40, 12, seed=0) != judge.sample(40, 12, seed=1)
    assert {len(text) for text in texts} <= set(range(13))
    numbers, state, surprise = judge.vocabulary.numbers(texts[0]), None, []
    with torch.no_grad():
        for before, number in zip([BEGIN, *numbers], numbers, strict=False):
            logits, state = judge.net.next(torch.tensor([before]), state)
            surprise.append(-float(logits.log_softmax(dim=-1)[0, number]))
        whole = judge.net(torch.tensor([numbers]))[0]
    assert surprise == pytest.approx(whole.tolist(), abs=1e-5)
    assert all(len(text) == 12 for text in Language(TEXTS[:100]).sample(9, 12, seed=0))


@pytest.mark.slow
def test_a_symbol_is_drawn_as_often_as_it_is_said(judge: Language) -> None:
    """The first one, over 4,000 texts, within four standard errors; most words are spelt as real ones."""
    drawn = judge.sample(4000, 40, seed=0)
    first = torch.tensor([judge.vocabulary.numbers(text[:1])[0] for text in drawn if text])
    with torch.no_grad():
        chances = judge.net.next(torch.tensor([BEGIN]), None)[0].softmax(dim=-1)[0]
    shares = torch.bincount(first, minlength=len(chances)) / len(first)
    assert bool(((shares - chances).abs() < 4 * (chances * (1 - chances) / len(first)).sqrt() + 1e-3).all())
    words = [word for text in drawn[:300] for word in text.split()]
    assert sum(word in WORDS for word in words) > 0.8 * len(words)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("parameters", [20_000, 300_000])
def test_it_may_be_of_another_size(parameters: int) -> None:
    """About as many parameters as asked for."""
    net = Language(TEXTS[:100], parameters=parameters).net
    assert sum(weight.numel() for weight in net.parameters()) == pytest.approx(parameters, rel=0.05)
