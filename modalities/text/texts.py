r"""Raw texts: rows of UTF-8 bytes of one width, filled up with zeros.

So a data set stays what it is whatever vocabulary reads it. NUL characters are dropped: a zero is no text here.
"""

__all__ = ["to_raw", "to_texts"]

import numpy as np
import torch

from collections.abc import Sequence
from torch import Tensor


def to_raw(texts: Sequence[str], width: int) -> Tensor:
    """Returns texts as bytes, with shape (N, width), in uint8; what is too long is cut between two characters."""
    raw = np.zeros((len(texts), width), np.uint8)
    for row, text in zip(raw, texts, strict=True):
        bare = text.replace("\0", "").encode("utf-8", errors="replace")[:width]
        whole = bare.decode("utf-8", errors="ignore").encode("utf-8")
        row[: len(whole)] = np.frombuffer(whole, np.uint8)
    return torch.from_numpy(raw)


def to_texts(raw: Tensor) -> list[str]:
    """Returns the texts of bytes, with shape (N, W); bytes that are no UTF-8 become marks."""
    return [row.tobytes().replace(b"\0", b"").decode("utf-8", errors="replace") for row in raw.cpu().numpy()]
