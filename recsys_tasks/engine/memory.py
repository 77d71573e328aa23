"""Memory of this process: what it uses, what is available to it, and a limit on its growth."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

import psutil

_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES = -3, 1 << 20  # the option's number in malloc.h
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Returns the memory available to this process: the machine's, or its control group's if that has less."""
    machine: int = psutil.virtual_memory().available
    try:
        limit, used = (_CGROUP / "memory.max").read_text().strip(), (_CGROUP / "memory.current").read_text()
        return machine if limit == "max" else min(machine, max(int(limit) - int(used), 0))
    except OSError:  # no control group, or one without a limit
        return machine


def resident_bytes() -> int:
    """Returns the resident set size of this process."""
    resident: int = psutil.Process().memory_info().rss
    return resident


def freeze_garbage_collector() -> None:
    """Excludes all present objects from garbage collection: a full collection would traverse every object of a model,
    0.2 s for 10,000 items, while requests wait.

    Reference cycles among them are never freed. Engines have none: a replaced one is freed at once.
    """
    gc.freeze()


def collect_recent_garbage() -> None:
    """Frees the reference cycles among the objects created since the last freeze."""
    gc.collect()


def return_freed_memory() -> None:
    """Makes malloc return large freed blocks, such as a replaced model's matrices, to the operating system.

    By default glibc raises its mmap threshold when the first large block is freed and keeps later ones in fragmented
    heaps: 30 MB more after 40 promotions of 17 MB each. Other C libraries lack the option; then this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def limit_memory_growth(max_bytes: int) -> None:
    """Limits how many more bytes this process can allocate; does nothing where the system has no such limit."""
    try:
        data = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    except (OSError, StopIteration):
        return
    limit = int(data.split()[1]) * 1024 + max_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
