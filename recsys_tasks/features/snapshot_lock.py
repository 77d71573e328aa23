"""Those who build snapshots, and those who remove files of snapshots, take turns.

While a snapshot is built, nothing but the build knows which files it will name: those it wrote, and older ones it found
and uses again. How old a file is says nothing of that. Locks of the warehouse do: they are the same for all machines
that build, and go with the connection of who holds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

_LOCK = 7_236_104  # any number, the same in every process


@contextmanager
def building(engine: Engine) -> Iterator[None]:
    """While this holds nobody removes files of snapshots; others may build."""
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock_shared(:lock)"), {"lock": _LOCK})
        yield


@contextmanager
def removing(engine: Engine) -> Iterator[None]:
    """Waits until nobody builds; while this holds nobody begins to, and nobody else removes."""
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield
