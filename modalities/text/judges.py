r"""Judges from outside: a causal language model that somebody has in a folder, in the format of Hugging Face.

perplexity_external  of a token of the model's, each text on its own                             as real texts
mauve                how far texts and those of the test split are one distribution, at most 1   higher

A text is read up to the model's context, 1,024 tokens at most, behind the token that begins texts, if there is one, so that
its first token is guessed as well. The perplexity is the exponential of the mean surprise, in nats; repeated words please
these judges, too. For MAUVE (`mauve.py`) a text is the hidden state of its last token, and equally many texts stand on both
sides. Numbers are comparable with others where the model, the number and the length of texts are the same.

A folder of others is read as files of others are: weights are safetensors, nothing is fetched, none of its code is run.

References:
    | Language Models are Unsupervised Multitask Learners (Radford et al., 2019): GPT-2
"""

__all__ = ["MEASURES", "Judge", "judge_of"]

import hashlib
import importlib
import math
import numpy as np
import torch

from cm_multimodal.errors import DataError, Interrupted, UsageError
from cm_multimodal.files import open_regular
from cm_multimodal.machine import choose_device
from cm_multimodal.random import permutation
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from torch import Tensor, nn
from torch.nn import functional as F
from typing import Any

from .mauve import mauve

LONGEST, TOGETHER = 1024, 2048  # tokens of a text, of a batch

Texts = tuple[str, ...]


class Judge:
    """Reads a language model and its tokenizer; it is known by the folder's name and a checksum of the weights.

    Arguments:
        folder: Where they lie.

    Raises:
        UsageError: There is no such folder, no weights are in it, or the library that reads them is missing.
        DataError: They cannot be read, or are no causal language model.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UsageError(
                f"language_model={folder} is no folder with a language model: config.json, *.safetensors, tokenizer.json."
            )
        library, self.name = _library(), folder.resolve().name
        try:
            self.digest = _digest(files)
            self.tokenizer, self.model, self.longest = _read(library, folder)
        except Interrupted:
            raise
        except Exception as error:  # what a hostile folder makes of a reader is open
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"The language model in '{folder}' cannot be used: {reason}") from error
        self.device = choose_device("auto")
        self.model.to(self.device)

    def perplexity(self, texts: Texts) -> float:
        """Returns the exponential of the mean surprise of a token; no number without any."""
        total, count = 0.0, 0
        for numbers, real in self._batches(texts):
            with torch.no_grad():
                logits = self.model(input_ids=numbers, attention_mask=real).logits[:, :-1]
            surprise = F.cross_entropy(logits.mT.float(), numbers[:, 1:], reduction="none")
            total += float((surprise.double() * real[:, 1:]).sum())
            count += int(real[:, 1:].sum())
        return math.exp(total / count) if count else math.nan

    def features(self, texts: Texts) -> np.ndarray:
        """Returns the last hidden states of texts, with shape (N, D), shorter ones first."""
        parts = [np.zeros((0, self.model.config.hidden_size))]
        for numbers, real in self._batches(texts):
            with torch.no_grad():
                states = self.model(input_ids=numbers, attention_mask=real, output_hidden_states=True).hidden_states[-1]
            parts.append(states[torch.arange(len(states)), real.sum(dim=1) - 1].double().cpu().numpy())
        return np.concatenate(parts)

    def _batches(self, texts: Texts) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the numbers of tokens, with shape (B, L), and ones where they are no padding."""
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        found = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        rows = sorted((torch.tensor([*begin, *row][: self.longest]) for row in found if begin or row), key=len)
        step = max(1, TOGETHER // max(map(len, rows), default=1))
        for part in (rows[start : start + step] for start in range(0, len(rows), step)):
            numbers, real = (
                nn.utils.rnn.pad_sequence(each, batch_first=True) for each in (part, [row != -1 for row in part])
            )
            yield numbers.to(self.device), real.long().to(self.device)


def _library() -> Any:
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            f"A language model is read by the extra 'judges', which is not installed here ({error}); type: "
            "pip install 'cm-multimodal[judges]'"
        ) from error
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def _digest(files: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        with open_regular(file) as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()[:12]


def _read(library: Any, folder: Path) -> tuple[Any, Any, int]:
    """Returns tokenizer, model and context; attention is plain, as a folder may name one that would have to be fetched."""
    safe = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = library.AutoTokenizer.from_pretrained(folder, **safe)
    model, report = library.AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **safe
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{len(missing)} of its weights are missing, such as '{missing[0]}'.")
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(f"it knows {model.config.vocab_size:,} tokens, and its tokenizer has {len(tokenizer):,}.")
    with torch.no_grad():
        one, other = model.eval()(input_ids=torch.tensor([[0, 1], [0, 2]])).logits[:, 0]
    if not torch.allclose(one, other, atol=1e-3):
        raise ValueError("it reads ahead, so that its guesses are none.")
    return tokenizer, model, min(LONGEST, getattr(model.config, "max_position_embeddings", LONGEST))


@lru_cache(maxsize=1)
def judge_of(folder: str) -> Judge:
    """Returns the judge in a folder, which is read once."""
    return Judge(Path(folder).expanduser())


@lru_cache(maxsize=4)
def _features(judge: Judge, texts: Texts) -> np.ndarray:
    return judge.features(texts)


def _mauve(judge: Judge, samples: Texts, test: Texts) -> float:
    count = min(len(samples), len(test))
    some = (tuple(side[i] for i in permutation(0, "texts", len(side))[:count].tolist()) for side in (samples, test))
    return mauve(*(_features(judge, side) for side in some))


MEASURES: dict[str, Callable[[Judge, Texts, Texts], float]] = {
    "perplexity_external": lambda judge, samples, test: judge.perplexity(samples),
    "mauve": _mauve,
}
