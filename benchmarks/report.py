"""Output of the benchmarks: tables, host and versions, measurements of memory and time."""

from __future__ import annotations

import json
import os
import platform
import resource
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table


def host_info(*packages: str) -> dict[str, str]:
    """Returns CPU, memory, Python and package versions."""
    names = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": f"{os.cpu_count()} x {names[0] if names else platform.processor()}",
        "memory": f"{psutil.virtual_memory().total >> 30} GB",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def print_table(title: str, rows: Sequence[Mapping[str, object]], host: Mapping[str, str]) -> None:
    """Prints rows of equal columns as a table, and below it the host and the versions."""
    console = Console(width=160)
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            *(
                f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
                for value in row.values()
            )
        )
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in host.items()), highlight=False)


def write_json(path: str | None, fields: Mapping[str, object]) -> None:
    """Writes the fields as JSON if there is a path."""
    if path:
        Path(path).write_text(json.dumps(fields, indent=2, default=str) + "\n", encoding="utf-8")


class PeakMemory:
    """Peak resident memory in MB of this process and of the database's processes while the context is open.

    Shared buffers of the database count once: the private memory of each process plus the largest shared part.
    """

    def __init__(self, postmaster: int) -> None:
        self._postmaster = psutil.Process(postmaster)
        self.process_mb = self.database_mb = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> PeakMemory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.process_mb = max(self.process_mb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            own, shared = 0, 0
            for process in [self._postmaster, *self._postmaster.children(recursive=True)]:
                try:
                    memory = process.memory_info()
                except psutil.Error:
                    continue
                own += memory.rss - memory.shared
                shared = max(shared, memory.shared)
            self.database_mb = max(self.database_mb, (own + shared) / (1 << 20))


class Stopwatch:
    """Stopwatch for named stages, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> float:
        """Ends a stage and returns its seconds."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
        return self.seconds[name]
