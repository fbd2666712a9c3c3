r"""Randomness as a pure function of (seed, stream, sample id).

No generator state is kept anywhere: a number depends on what it is for, never on what was drawn before it, on the batch
it is drawn in, or on the process that draws it. The bits come from Philox 4x32-10,

.. math:: (c_0, c_1, c_2, c_3) \mapsto \text{ten rounds keyed by } (k_0, k_1),

with the key hashed from (seed, stream) and the counter \(c = (\text{id}_{lo}, \text{id}_{hi}, \text{block}_{lo},
\text{block}_{hi})\), in 64-bit integer tensor operations, so that all devices agree. Normal numbers are the inverse
distribution function of 32-bit uniform numbers in float64, rounded once to float32.

References:
    | Parallel Random Numbers: As Easy as 1, 2, 3 (Salmon et al., 2011)
"""

__all__ = ["Draws", "bits", "dropout_mask", "noise", "permutation", "uniform"]

import dataclasses
import hashlib
import math
import torch

from dataclasses import dataclass
from functools import lru_cache
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85


@lru_cache(maxsize=4096)
def _key(seed: int, stream: str) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _philox(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # wraps modulo 2^64: all 64 bits are right
        c0, c1, c2, c3 = (p1 >> 32 & WORD) ^ c1 ^ k0, p1 & WORD, (p0 >> 32 & WORD) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return [c0, c1, c2, c3]


def bits(seed: int, stream: str, ids: Tensor, count: int) -> Tensor:
    """Returns uniform 32-bit integers, with shape (B, count), as int64.

    Arguments:
        seed: The seed of the run, any integer.
        stream: What the numbers are for, such as 'noise' or 'times'.
        ids: The global sample ids, with shape (B,).
        count: How many numbers a sample needs.
    """
    ids = ids.to(torch.int64)[:, None]
    block = torch.arange(math.ceil(count / 4), device=ids.device)[None, :]
    low, high = (ids & WORD).expand(-1, block.shape[1]), (ids >> 32 & WORD).expand(-1, block.shape[1])
    counter = [low, high, (block & WORD).expand_as(low), (block >> 32).expand_as(low)]
    return torch.stack(_philox(counter, _key(seed, stream)), dim=-1).flatten(1)[:, :count]


def uniform(seed: int, stream: str, ids: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Returns uniform numbers strictly between 0 and 1, with shape (B, *shape), in float64."""
    whole = bits(seed, stream, ids, math.prod(shape))
    return ((whole.double() + 0.5) * 2.0**-32).reshape(len(ids), *shape)


def noise(seed: int, stream: str, ids: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns standard normal numbers, with shape (B, *shape)."""
    return torch.special.ndtri(uniform(seed, stream, ids, shape)).to(dtype)


def dropout_mask(seed: int, stream: str, ids: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
    """Returns zeros with probability `rate`, in steps of 1/256, and 1 / (1 - rate) elsewhere, with shape (B, *shape).

    Every 32-bit word decides four elements, which keeps the cost small beside that of a convolution.
    """
    dropped = round(rate * 256)
    size = math.prod(shape)
    words = bits(seed, stream, ids, math.ceil(size / 4))
    octets = torch.stack([words >> shift & 0xFF for shift in (0, 8, 16, 24)], dim=-1).flatten(1)[:, :size]
    return ((octets >= dropped).float() * (256 / (256 - dropped))).reshape(len(ids), *shape)


def permutation(seed: int, stream: str, size: int) -> Tensor:
    """Returns a random order of `size` elements, with shape (size,)."""
    return torch.argsort(bits(seed, stream, torch.arange(size), 1)[:, 0], stable=True)


@dataclass(frozen=True)
class Draws:
    """Hands out named streams of random numbers for a batch of samples.

    In training a sample id counts the samples seen since the start, so that no id comes twice and the step need not be
    part of the key; in generation it is the number of the sample.

    Arguments:
        seed: The seed of the run.
        ids: The global sample ids, with shape (B,).
        use: What all streams are for, in front of their names.
    """

    seed: int
    ids: Tensor
    use: str = ""

    def named(self, use: str) -> "Draws":
        """Returns other numbers of the same samples, for a second use of the same streams."""
        return dataclasses.replace(self, use=f"{self.use}{use}/")

    def noise(self, stream: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns standard normal numbers, with shape (B, *shape)."""
        return noise(self.seed, self.use + stream, self.ids, shape, dtype)

    def uniform(self, stream: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Returns uniform numbers in (0, 1), with shape (B, *shape), in float64."""
        return uniform(self.seed, self.use + stream, self.ids, shape)

    def dropout_mask(self, stream: str, shape: tuple[int, ...], rate: float) -> Tensor:
        """Returns a scaled dropout mask, with shape (B, *shape)."""
        return dropout_mask(self.seed, self.use + stream, self.ids, shape, rate)

    def share(self, fraction: float) -> Tensor:
        """Marks an even share of the samples, with shape (B,): `fraction * n` of any n ids in a row, give or take one."""
        ids = self.ids.double()
        return torch.floor((ids + 1) * fraction) > torch.floor(ids * fraction)

    def take(self, rows: Tensor | slice) -> "Draws":
        """Returns the draws of some of the rows; their numbers stay what they were."""
        return dataclasses.replace(self, ids=self.ids[rows])

    def to(self, device: torch.device) -> "Draws":
        """Returns the draws of the same samples on a device."""
        return dataclasses.replace(self, ids=self.ids.to(device))
