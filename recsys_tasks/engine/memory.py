"""How much memory a process may still take, and does take."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import psutil

_MMAP_THRESHOLD, _LARGE = -3, 1 << 20  # as malloc.h numbers it; bytes
_GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """What the machine has left for this process, or its control group if that has less."""
    machine: int = psutil.virtual_memory().available
    try:
        most, used = (_GROUP / "memory.max").read_text().strip(), (_GROUP / "memory.current").read_text()
        return machine if most == "max" else min(machine, max(int(most) - int(used), 0))
    except OSError:  # no control group, or one without a limit
        return machine


def resident_bytes() -> int:
    """What this process takes."""
    resident: int = psutil.Process().memory_info().rss
    return resident


def return_what_is_freed() -> None:
    """Lets what is large go back to the system when it is freed, as the matrices of a model that was replaced.

    The GNU library does so only until it has seen one freed, and keeps what comes later in heaps of many pieces: 30 MB
    more after 40 promotions of 17 MB each. Others have no such setting, and nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGE)


def allow_more(most: int) -> None:
    """Lets this process allocate so many bytes more and not one beyond; where the system knows no such limit, it
    stays without."""
    try:
        data = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    except (OSError, StopIteration):
        return
    limit = int(data.split()[1]) * 1024 + most
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
