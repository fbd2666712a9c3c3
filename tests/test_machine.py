r"""What a machine is asked to do: keeping memory, working where samples are, and leaving alone what is set globally."""

import os
import pytest
import subprocess
import sys
import torch

from cm_multimodal.config import compose
from cm_multimodal.machine import alone
from cm_multimodal.modality import find_modality

ROUNDS = """
import resource, torch
from cm_multimodal.machine import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.ones(5 << 20) for _ in range(8)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
keep_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only the C library of Linux has the switch")
def test_freed_memory_is_kept() -> None:
    """Blocks of an update that are freed and asked for again cost no page faults; without the switch they do."""
    gives_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # else the C library decides as it goes along
    command = [sys.executable, "-c", ROUNDS]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=gives_back).stdout
    given_back, kept = map(int, printed.split())
    assert given_back > 100
    assert kept < given_back / 10


@pytest.mark.parametrize(
    "words",
    [
        ("experiment=image/smoke",),
        ("experiment=audio/smoke", "data.limit=100"),
        ("experiment=audio/smoke", "data.limit=100", "data.representation={name:stft}"),
        ("experiment=video/smoke", "data.count=100", "data.shared=0.5"),
    ],
    ids=lambda words: " ".join(word.partition("=")[2] for word in words),
)
def test_samples_are_encoded_where_they_are(words: tuple[str, ...]) -> None:
    """Without a GPU, on the device that holds no numbers: tensors of a CPU are refused there. (Texts are read on one.)"""
    config = compose("train", words)
    kind = find_modality(config["modality"])
    train = kind.dataset(config["data"]).train
    modality = kind(kind.describe(train, config["data"]))
    assert modality.encode(train.raw[:2].to("meta")).device.type == "meta"


def test_what_happens_alone_depends_on_its_seed_and_leaves_no_trace() -> None:
    """Whatever was drawn before, the numbers inside are the seed's; random state, threads and modes outside stay."""
    threads, drawn = torch.get_num_threads(), []
    for _ in range(2):
        torch.rand(3)
        before = torch.get_rng_state()
        with torch.inference_mode(), alone(7, threads + 1):
            drawn.append(torch.rand(4))
            assert torch.get_num_threads() == threads + 1
            assert not torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == threads
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*drawn)
