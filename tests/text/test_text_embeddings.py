"""Embeddings lie where their use puts them, have one length, and can be told apart."""

import torch

from modalities.text.embeddings import embed
from torch.nn import functional as F


def test_tokens_that_are_used_alike_lie_near_each_other() -> None:
    """In sentences of a noun, a verb and a noun, verbs are nearer to verbs than to nouns; no two are one point."""
    draw = torch.Generator().manual_seed(0)
    texts = [
        [int(torch.randint(0, 10, (1,), generator=draw)), int(torch.randint(10, 20, (1,), generator=draw)),
         int(torch.randint(0, 10, (1,), generator=draw))]
        for _ in range(2000)
    ]  # fmt: skip
    table = embed(texts, 22, 8)
    assert table.shape == (22, 8)
    assert torch.allclose(table.square().mean(dim=1), torch.ones(22), atol=1e-5)
    alike = F.normalize(table, dim=1) @ F.normalize(table, dim=1).T
    alike.fill_diagonal_(0.0)
    nouns, verbs = slice(0, 10), slice(10, 20)
    same = float((alike[nouns, nouns].mean() + alike[verbs, verbs].mean()) / 2) * 10 / 9
    assert same > float(alike[nouns, verbs].mean()) + 0.4
    assert float(alike.max()) < 0.97
    assert torch.equal(table, embed(texts, 22, 8))
