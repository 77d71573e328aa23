"""A bundle tried in a process of its own: one that crashes or wants too much memory takes nobody's answers with it."""

from __future__ import annotations

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
from recsys_tasks.engine.memory import allow_more, resident_bytes
from recsys_tasks.engine.throttle import Rests
from recsys_tasks.errors import BundleCorrupt, BundleUnusable, GoldenMismatch, InvariantError

# Those who are served come first, while it imports, too.
_START = "import os, runpy; os.nice(19); runpy.run_module('recsys_tasks.engine.probe', run_name='__main__')"
_SECONDS = 300.0
_ROUNDS = 5
_KINDS: dict[str, type[InvariantError]] = {
    kind.__name__: kind for kind in (BundleCorrupt, GoldenMismatch, BundleUnusable)
}


class Measured(msgspec.Struct, frozen=True):
    """What trying a bundle showed: resident memory it adds, and times of golden requests, nothing kept between them.

    `answer_milliseconds` is their mean. Times are of the processor, on one thread: what else the machine does, and how
    far back the trial stands behind it, says nothing of a bundle.
    """

    golden_requests: int
    memory_megabytes: float
    answer_milliseconds: float
    p99_milliseconds: float


class _Refusal(msgspec.Struct):
    kind: str
    problem: str


def probe(folder: Path, most_bytes: int) -> Measured:
    """Checks a bundle's files and golden answers and measures it, allowing it so much memory.

    Raises:
        BundleCorrupt, GoldenMismatch: it is not what was exported.
        BundleUnusable: it crashes, takes more memory than there is, or does not come to an end.
    """
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > most_bytes:
        raise BundleUnusable(f"The bundle has {size / 1e6:.0f} MB; there is memory for {most_bytes / 1e6:.0f} MB")
    command = [sys.executable, "-c", _START, str(folder), str(most_bytes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise BundleUnusable(f"The bundle did not answer its golden requests in {_SECONDS:.0f} s") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise BundleUnusable(
            f"The bundle crashes ({name}), allowed {most_bytes / 1e6:.0f} MB of memory: {_last_line(done.stderr)}"
        )
    try:
        found = msgspec.json.decode(done.stdout, type=dict[str, object])
        if done.returncode == 0:
            return msgspec.convert(found, Measured)
        refusal = msgspec.convert(found, _Refusal)
    except msgspec.MsgspecError as error:
        raise BundleUnusable(
            f"The bundle cannot be tried (status {done.returncode}): {_last_line(done.stderr)}"
        ) from error
    raise _KINDS[refusal.kind](refusal.problem)


def measure(folder: Path) -> Measured:
    """Checks and measures a bundle in this process.

    Raises:
        BundleCorrupt, GoldenMismatch: it is not what was exported.
    """
    before = resident_bytes()
    engine = Engine(read_bundle(folder))
    golden = engine.check_golden()
    engine.first_answer()
    spent, rest = [], Rests()
    for case in engine.bundle.golden * _ROUNDS:
        engine.forget(case["request"]["user_id"])
        used = time.process_time()
        engine.answer_golden(case["request"])
        spent.append(1e3 * (time.process_time() - used))
        rest()
    added = max(resident_bytes() - before, 0)
    mean, p99 = (float(np.mean(spent)), float(np.percentile(spent, 99))) if spent else (0.0, 0.0)
    return Measured(golden, added / 1e6, mean, p99)


def _main(folder: str, most_bytes: str) -> int:
    allow_more(int(most_bytes))
    try:
        found: Measured | _Refusal = measure(Path(folder))
    except (BundleCorrupt, GoldenMismatch, MemoryError) as error:
        found = _refusal(error, int(most_bytes))
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0 if isinstance(found, Measured) else 1


def _refusal(error: Exception, most_bytes: int) -> _Refusal:
    # The library that runs the graphs tells of a lack of memory by text alone.
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):
        return _Refusal(BundleUnusable.__name__, f"The bundle takes more than {most_bytes / 1e6:.0f} MB of memory")
    return _Refusal(type(error).__name__, str(error))


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
