r"""What a machine is asked to do: keeping memory that is freed."""

import pytest
import subprocess
import sys

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
    printed = subprocess.run(
        [sys.executable, "-c", ROUNDS], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    given_back, kept = map(int, printed.split())
    if given_back < 100:
        pytest.skip("something small at the top of the heap made the C library keep the blocks by itself")
    assert kept < given_back / 10
