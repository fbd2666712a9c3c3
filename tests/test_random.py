r"""Randomness is a pure function of (seed, stream, sample id)."""

import pytest
import torch

from cm_multimodal.random import Draws, _philox, bits, dropout_mask, noise, permutation, uniform

IDS = torch.tensor([0, 1, 7, 2**31, 2**32 + 5, 2**40])


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(counter: list[int], key: tuple[int, int], expected: list[int]) -> None:
    """The generator is Philox 4x32-10, word for word (the known answers of Random123)."""
    words = _philox([torch.tensor([c]) for c in counter], key)
    assert [int(word) for word in words] == expected


def test_a_number_does_not_depend_on_its_batch() -> None:
    """Any subset, order or split of the ids gives the same bits and the same normal numbers."""
    whole = noise(3, "noise", IDS, (3, 5))
    assert torch.equal(whole[[4, 1]], noise(3, "noise", IDS[[4, 1]], (3, 5)))
    assert torch.equal(whole, torch.cat([noise(3, "noise", each[None], (3, 5)) for each in IDS]))
    assert torch.equal(bits(3, "a", IDS, 9)[:, :5], bits(3, "a", IDS, 5))


def test_seeds_streams_and_ids_are_told_apart() -> None:
    """Another seed, stream or id, however large, gives other numbers."""
    base = uniform(0, "a", IDS, (8,))
    others = [uniform(1, "a", IDS, (8,)), uniform(0, "b", IDS, (8,)), uniform(0, "a", IDS + 2**33, (8,))]
    rows = torch.cat([base, *others])
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)
    assert uniform(-5, "a", IDS).isfinite().all()
    assert uniform(2**70, "a", IDS).isfinite().all()


def test_normal_numbers_are_normal() -> None:
    """Mean, variance, fourth moment and correlation of a million numbers are within four standard errors."""
    z = noise(0, "noise", torch.arange(1000), (1000,), torch.float64)
    n = z.numel()
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert abs((z[:, :-1] * z[:, 1:]).mean()) < 4 / n**0.5
    assert abs((z[:-1] * z[1:]).mean()) < 4 / n**0.5


def test_dropout_masks_keep_the_mean() -> None:
    """A mask drops its rate of elements and scales the rest so that the mean stays one."""
    mask = dropout_mask(0, "dropout/a", torch.arange(64), (10, 7, 7), 0.25)
    assert mask.unique().tolist() == pytest.approx([0, 4 / 3])
    assert abs((mask == 0).float().mean() - 0.25) < 0.01
    assert torch.equal(mask[5:9], dropout_mask(0, "dropout/a", torch.arange(5, 9), (10, 7, 7), 0.25))


def test_a_permutation_holds_every_element_once() -> None:
    """An order is a permutation, and another stream gives another."""
    order = permutation(0, "order/0", 1000)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(order, permutation(0, "order/1", 1000))


def test_shares_are_even_in_any_run_of_ids() -> None:
    """The marked share of any consecutive ids is right to within one sample."""
    for start in (0, 17, 10**9):
        marked = Draws(0, torch.arange(start, start + 128)).share(0.6)
        assert abs(int(marked.sum()) - 0.6 * 128) <= 1
