"""Readers-writer lock between snapshot builds (shared) and removals of snapshot files (exclusive).

Until a build writes its manifest, only the build knows which files the manifest will name: new ones, and older ones
that it reuses. The age of a file does not tell. The lock is a PostgreSQL advisory lock: all hosts share it, and it is
released when the holder's connection ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

_LOCK_KEY = 7_236_104  # any number, the same in every process


@contextmanager
def shared_build_lock(engine: Engine) -> Iterator[None]:
    """Blocks removals while held; other builds may run."""
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock_shared(:lock)"), {"lock": _LOCK_KEY})
        yield


@contextmanager
def exclusive_removal_lock(engine: Engine) -> Iterator[None]:
    """Waits for running builds and removals; blocks new ones while held."""
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK_KEY})
        yield
