r"""A small language model of our own: a recurrent network that reads a text symbol by symbol and guesses the next one.

It is trained on real texts alone, for a fixed number of updates, and frozen; the exponential of its mean surprise,

.. math:: \mathrm{PPL} = \exp \Big( -\tfrac{1}{N} \sum_i \log p_\theta(w_i \mid w_{<i}) \Big),

says how usual a text looks to it. It is nobody's public model, so that no number is comparable with published ones, but
what it says of real texts that it never saw stands beside. Repeated common words please it: see the entropy beside.

The same texts give the same network, bit for bit, on one kind of machine: it has its own seed, works on the CPU with
`THREADS` threads, and leaves the global random state and the number of threads as they were.

References:
    | Long Short-Term Memory (Hochreiter & Schmidhuber, 1997)
    | Diffusion-LM Improves Controllable Text Generation (Li et al., 2022): a judge trained on the same texts
"""

__all__ = ["Language"]

import hashlib
import math
import numpy as np
import torch

from cm_multimodal.machine import alone
from cm_multimodal.random import uniform
from collections.abc import Sequence
from torch import Tensor, nn
from torch.nn import functional as F

from .ngrams import BEGIN, END, UNKNOWN, Vocabulary

State = tuple[Tensor, Tensor]  # of a recurrent network

THREADS = 2
WIDTH, EMBEDDING = 128, 32
UPDATES, EPOCHS = 2400, 12  # at most
SYMBOLS, LONGEST = 2048, 128  # of a batch, of a piece
RATE, DECAY, CLIP = 1.5e-2, 0.01, 1.0
NOTHING = -100  # what is padding, as the loss names it


class Recurrent(nn.Module):
    """Creates a network.

    Arguments:
        count: The number of symbols.
        width: The width of its state.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Embedding(count, EMBEDDING)
        self.body = nn.LSTM(EMBEDDING, width, batch_first=True)
        self.out = nn.Linear(width, count)

    def forward(self, pieces: Tensor) -> Tensor:
        """Returns the surprise of symbols, in nats, with shape (B, L), and 0 where padding is."""
        begin = torch.full_like(pieces[:, :1], BEGIN)
        before = torch.cat([begin, pieces[:, :-1].clamp_min(0)], dim=1)
        logits = self.out(self.body(self.enter(before))[0])
        return F.cross_entropy(logits.mT, pieces, ignore_index=NOTHING, reduction="none")

    def next(self, symbols: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Returns the logits of what follows symbols, both with one row a text, and the state that knows them."""
        h, state = self.body(self.enter(symbols[:, None]), state)
        return self.out(h[:, 0]), state


class Language:
    """Trains the network on texts; symbols that occur but once stand for all unknown ones.

    Arguments:
        texts: The texts.
        words: Whether symbols are words; else they are characters.
        ends: Whether texts end; else they are pieces of running text.
        parameters: About how many it has; the judge's own width unless given.
        seed: The seed of the first weights and of the order of texts.
    """

    def __init__(
        self,
        texts: Sequence[str],
        words: bool = False,
        ends: bool = False,
        parameters: int | None = None,
        seed: int = 0,
    ) -> None:
        self.vocabulary, self.ends = Vocabulary(texts, words, least=2), ends
        with alone(seed, THREADS), torch.enable_grad():
            count = len(self.vocabulary)
            self.net = Recurrent(count, WIDTH if parameters is None else _width(count, parameters))
            self._train(self._pieces(texts))
        self.net.requires_grad_(False)

    def _pieces(self, texts: Sequence[str]) -> list[Tensor]:
        """Returns the symbols of texts in pieces of at most `LONGEST`."""
        end = [END] if self.ends else []
        whole = [torch.tensor([*self.vocabulary.numbers(text), *end], dtype=torch.long) for text in texts]
        return [piece for each in whole for piece in each.split(LONGEST) if len(piece)]

    def _train(self, pieces: list[Tensor]) -> None:
        if not pieces:
            return
        x = nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=NOTHING)
        rows = max(SYMBOLS // x.shape[1], 1)
        updates = min(UPDATES, math.ceil(EPOCHS * len(x) / rows))
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=updates + 1, pct_start=0.1)
        order = torch.cat([torch.randperm(len(x)) for _ in range(math.ceil(updates * rows / len(x)))])
        for pick in order[: updates * rows].split(rows):
            batch = x[pick]
            loss = self.net(batch).sum() / (batch != NOTHING).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
            optimizer.step()
            schedule.step()

    def perplexity(self, texts: Sequence[str]) -> float:
        """Returns the exponential of the mean surprise of a symbol, ends included; no number without any symbol."""
        pieces = self._pieces(texts)
        if not pieces:
            return math.nan
        total = 0.0
        with alone(0, THREADS), torch.no_grad():
            for start in range(0, len(pieces), rows := SYMBOLS * 4 // LONGEST):
                part = pieces[start : start + rows]
                batch = nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=NOTHING)
                total += self.net(batch).double().sum().item()
        return math.exp(total / sum(len(piece) for piece in pieces))

    def sample(self, count: int, length: int, seed: int) -> list[str]:
        """Returns so many texts of so many symbols, or of fewer where texts end: a symbol a call, its state kept."""
        numbers = uniform(seed, "language", torch.arange(count), (length,))
        drawn, symbols, state = torch.full((count, length), END), torch.full((count,), BEGIN), None
        never = [BEGIN, UNKNOWN, *([] if self.ends else [END])]
        with alone(0, THREADS), torch.no_grad():
            for step in range(length):
                logits, state = self.net.next(symbols, state)
                logits[:, never] = -math.inf
                chances = logits.double().softmax(dim=-1).cumsum(dim=-1)
                symbols = torch.searchsorted(chances, numbers[:, step, None] * chances[:, -1:], right=True)[:, 0]
                drawn[:, step] = symbols = symbols.clamp_max(len(self.vocabulary) - 1)
        return [self.vocabulary.text(row) for row in drawn.tolist()]

    @property
    def digest(self) -> str:
        """A checksum of the weights, rounded to four decimals; another processor may give another one."""
        text = b"".join(np.round(part.numpy(), 4).tobytes() for part in self.net.state_dict().values())
        return hashlib.sha256(text).hexdigest()[:12]


def _width(count: int, parameters: int) -> int:
    """Returns the width of the network that has, of so many symbols, about so many parameters, from 8 on."""
    linear, rest = 4 * EMBEDDING + 8 + count, count * (EMBEDDING + 1) - parameters
    return max(8, int((math.sqrt(max(linear**2 - 16 * rest, 0)) - linear) / 8))
