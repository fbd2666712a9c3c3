r"""What this machine can do: devices, number formats, threads."""

__all__ = [
    "Cost", "alone", "choose_device", "choose_precision", "describe_machine", "free_cores", "has_bf16", "keep_memory",
    "metered", "set_threads",
]  # fmt: skip

import contextlib
import ctypes
import math
import os
import platform
import time
import torch

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError, nearest
from .maps import Precision

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bf16", "float64")
TRIMMING = {-1: (1 << 31) - 1, -3: 1 << 25}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, in bytes


def free_cores() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(count: int | None) -> int:
    """Sets the number of CPU threads, the free cores unless given, and returns it."""
    torch.set_num_threads(count or free_cores())
    return torch.get_num_threads()


@contextlib.contextmanager
def alone(seed: int, threads: int) -> Iterator[None]:
    """Lets things happen on the CPU with own threads and random numbers, whatever is set globally, and sets it back."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@dataclass
class Cost:
    """What a piece of work took; what is not known is no finite number.

    Arguments:
        seconds: Of the clock.
        cpu_seconds: Of all CPU threads of this process.
        memory: The most of the device's memory that was in use, in MiB; on a CPU, of this process, with what it held before.
    """

    seconds: float = math.nan
    cpu_seconds: float = math.nan
    memory: float = math.nan


@contextlib.contextmanager
def metered(device: torch.device) -> Iterator[Cost]:
    """Measures what happens as long as the context lasts; the cost is there when it ends."""
    cost, gpu = Cost(), device.type == "cuda"
    if gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from what is in use
    begin, busy = time.perf_counter(), time.process_time()
    yield cost
    if gpu:
        torch.cuda.synchronize(device)
    cost.seconds, cost.cpu_seconds = time.perf_counter() - begin, time.process_time() - busy
    cost.memory = torch.cuda.max_memory_allocated(device) / (1 << 20) if gpu else _peak()


def _peak() -> float:
    """Returns the largest memory of this process in MiB, where the system tells."""
    try:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return math.nan


def keep_memory() -> None:
    """Keeps freed memory in the process, where the C library would return it after one update and ask for it in the next.

    A page that comes back has to be cleared by the system; on a CPU that is up to a fifth of the time of an update. Only
    glibc knows these two switches (mallopt), and blocks above 32 MiB are returned all the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for switch, size in TRIMMING.items():
            mallopt(switch, size)


def choose_device(name: str) -> torch.device:
    """Returns the device of a name; 'auto' takes a GPU where there is one.

    Raises:
        UsageError: There is no such device here.
    """
    if name not in DEVICES:
        raise UsageError(f"There is no device '{name}'; {nearest(name, DEVICES)}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device={name} is not available on this machine; use device=auto or device=cpu.")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Says whether a device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def choose_precision(name: str, device: torch.device) -> Precision:
    """Returns the number format of a name; 'auto' takes bf16 where the hardware has it."""
    if name not in PRECISIONS:
        raise UsageError(f"There is no precision '{name}'; {nearest(name, PRECISIONS)}")
    if name == "bf16" and not has_bf16(device):
        raise UsageError(f"precision=bf16 has no hardware on this {device.type}; use precision=auto or float32.")
    half = name == "bf16" or (name == "auto" and has_bf16(device))
    return Precision(torch.bfloat16 if half else torch.float64 if name == "float64" else torch.float32)


def describe_machine() -> dict[str, Any]:
    """Returns what a result may depend on: versions, processor, threads, devices."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "processor": _processor(),
        "cores": free_cores(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "bf16": has_bf16(choose_device("auto")),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as stream:
            names = {line.split(":")[1].strip() for line in stream if line.startswith("model name")}
        return ", ".join(sorted(names)) or platform.processor()
    except OSError:
        return platform.processor()
