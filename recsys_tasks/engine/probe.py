"""Tests a bundle in a separate process, so that a crash or an out-of-memory error does not affect the endpoint."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import read_bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.memory import limit_memory_growth, resident_bytes
from recsys_tasks.engine.search_options import SearchSetup
from recsys_tasks.engine.throttle import Throttle
from recsys_tasks.errors import BundleCorrupt, BundleUnusable, GoldenMismatch, InvariantError
from recsys_tasks.search.settings import SearchSettings

# `nice` comes first: the imports, too, must not slow down requests.
_PROGRAM = "import os, runpy; os.nice(19); runpy.run_module('recsys_tasks.engine.probe', run_name='__main__')"
_TIMEOUT_SECONDS = 900.0  # most of it for the search index of a large catalog on a busy machine
_ROUNDS = 5
_ERRORS: dict[str, type[InvariantError]] = {
    error.__name__: error for error in (BundleCorrupt, GoldenMismatch, BundleUnusable)
}


class BundleMeasurement(msgspec.Struct, frozen=True):
    """Measured cost of a bundle: the resident memory it adds, and the CPU time of golden requests with cold caches.

    `answer_milliseconds` is the mean. Times are CPU time on one thread, so that other load on the machine and the low
    priority of the probe do not count.
    """

    golden_requests: int
    memory_megabytes: float
    answer_milliseconds: float
    p99_milliseconds: float


class _Failure(msgspec.Struct):
    kind: str
    problem: str


def probe(folder: Path, max_bytes: int, search: SearchSettings | None = None) -> BundleMeasurement:
    """Checks a bundle's files and golden answers and measures it, in a process with a memory limit.

    Args:
        folder: the bundle.
        max_bytes: memory that the process may allocate for the bundle.
        search: settings for which the search index is written into the folder; None to write none.

    Raises:
        BundleCorrupt, GoldenMismatch: the bundle differs from what was exported.
        BundleUnusable: it crashes, exceeds the memory limit or times out.
    """
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > max_bytes:
        raise BundleUnusable(
            f"The bundle has {size / 1e6:.0f} MB, but only {max_bytes / 1e6:.0f} MB of memory are available"
        )
    settings = msgspec.json.encode(search).decode()
    command = [sys.executable, "-c", _PROGRAM, str(folder), str(max_bytes), settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        process = subprocess.run(command, env=environment, capture_output=True, timeout=_TIMEOUT_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise BundleUnusable(f"The bundle did not answer its golden requests in {_TIMEOUT_SECONDS:.0f} s") from error
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise BundleUnusable(
            f"The bundle crashes ({name}) with {max_bytes / 1e6:.0f} MB of memory: {_last_line(process.stderr)}"
        )
    try:
        output = msgspec.json.decode(process.stdout, type=dict[str, object])
        if process.returncode == 0:
            return msgspec.convert(output, BundleMeasurement)
        failure = msgspec.convert(output, _Failure)
    except msgspec.MsgspecError as error:
        raise BundleUnusable(
            f"The bundle's probe failed with status {process.returncode}: {_last_line(process.stderr)}"
        ) from error
    raise _ERRORS[failure.kind](failure.problem)


def measure(folder: Path, search: SearchSettings | None = None) -> BundleMeasurement:
    """Checks and measures a bundle in this process; see `probe`.

    Raises:
        BundleCorrupt, GoldenMismatch: the bundle differs from what was exported.
    """
    resident_before = resident_bytes()
    setup = None if search is None else SearchSetup(search, saves_index=True)
    engine = Engine(read_bundle(folder), search_setup=setup)
    golden_requests = engine.check_golden()
    engine.warm_up()
    milliseconds, throttle = [], Throttle()
    for case in engine.bundle.golden * _ROUNDS:
        engine.forget(case["request"]["user_id"])  # empties the cache for this user
        start = time.process_time()
        engine.answer_golden(case["request"])
        milliseconds.append(1e3 * (time.process_time() - start))
        throttle()
    added = max(resident_bytes() - resident_before, 0)
    mean, p99 = (float(np.mean(milliseconds)), float(np.percentile(milliseconds, 99))) if milliseconds else (0.0, 0.0)
    return BundleMeasurement(golden_requests, added / 1e6, mean, p99)


def _main(folder: str, max_bytes: str, settings: str) -> int:
    limit_memory_growth(int(max_bytes))
    try:
        search = msgspec.json.decode(settings, type=SearchSettings | None)
        result: BundleMeasurement | _Failure = measure(Path(folder), search)
    except (BundleCorrupt, GoldenMismatch, MemoryError) as error:
        result = _failure(error, int(max_bytes))
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0 if isinstance(result, BundleMeasurement) else 1


def _failure(error: Exception, max_bytes: int) -> _Failure:
    # ONNX Runtime and failed imports report a lack of memory only in the text of their errors.
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or os.strerror(errno.ENOMEM) in str(error):
        return _Failure(BundleUnusable.__name__, f"The bundle needs more than {max_bytes / 1e6:.0f} MB of memory")
    return _Failure(type(error).__name__, str(error))


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "no error output"


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
