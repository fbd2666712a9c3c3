r"""Embeddings of tokens: points of one length, learned from what stands beside what, where one-hot tokens are too large.

Tokens that are used alike lie near each other. From the counts of pairs of tokens at most three apart comes the positive
pointwise mutual information

.. math:: M_{ij} = \max\Bigl(0, \log \frac{n_{ij} \, n}{n_i \, \tilde n_j}\Bigr), \qquad \tilde n_j \propto n_j^{0.75},

and its largest singular vectors are the embeddings. To each, brought to length one, random numbers of half that length are
added, so that even tokens that are used alike can be told apart in noise. The sum has length \(\sqrt D\), so that its
elements are of size one. They are fitted before training and stay: embeddings that a squared error may move fall together.

References:
    | Neural Word Embedding as Implicit Matrix Factorization (Levy & Goldberg, 2014)
"""

__all__ = ["embed", "packed", "unpacked"]

import base64
import numpy as np
import torch

from cm_multimodal.random import noise
from collections.abc import Iterable, Mapping, Sequence
from scipy.sparse import coo_array
from sklearn.decomposition import TruncatedSVD
from torch import Tensor
from torch.nn import functional as F
from typing import Any

APART = 3
SMOOTH = 0.75
OWN = 0.5  # the length of what is a token's own


def embed(texts: Iterable[Sequence[int]], count: int, dimensions: int) -> Tensor:
    """Returns embeddings, with shape (count, dimensions), of the tokens of texts.

    Arguments:
        texts: The numbers of the tokens, text by text.
        count: The number of tokens.
        dimensions: Those of an embedding, fewer than there are tokens.
    """
    gap = [-1] * APART
    row = np.fromiter((number for text in texts for number in (*text, *gap)), dtype=np.int64)
    ends = [(row[:-apart], row[apart:]) for apart in range(1, APART + 1)]
    one, other = (np.concatenate(part) for part in zip(*ends, strict=True))
    inside = (one >= 0) & (other >= 0)
    beside = coo_array((np.ones(inside.sum()), (one[inside], other[inside])), shape=(count, count)).tocsr()
    beside = (beside + beside.T).tocoo()
    total = beside.sum(axis=1)
    context = total**SMOOTH / max((total**SMOOTH).sum(), 1e-9)
    information = np.log(np.maximum(beside.data / (total[beside.row] * context[beside.col]), 1.0))
    table = coo_array((information, (beside.row, beside.col)), shape=(count, count)).tocsr()
    found = torch.from_numpy(TruncatedSVD(dimensions, random_state=0).fit_transform(table)).float()
    own = F.normalize(noise(0, "embeddings", torch.arange(count), (dimensions,)), dim=1)
    return F.normalize(F.normalize(found, dim=1) + OWN * own, dim=1) * dimensions**0.5


def packed(table: Tensor) -> dict[str, Any]:
    """Returns embeddings, with shape (K, D), as plain data."""
    return {"dimensions": table.shape[1], "table": base64.b64encode(table.numpy().astype("<f4").tobytes()).decode()}


def unpacked(settings: Mapping[str, Any]) -> Tensor:
    """Returns the embeddings, with shape (K, D), of plain data.

    Raises:
        ValueError: They are not those of embeddings of one length.
    """
    numbers = np.frombuffer(base64.b64decode(settings["table"], validate=True), dtype="<f4")
    table = torch.from_numpy(numbers.reshape(-1, int(settings["dimensions"])).astype(np.float32))
    if not torch.allclose(table.square().mean(dim=1), torch.ones(len(table)), atol=1e-3):
        raise ValueError("its embeddings are not of one length")
    return table
