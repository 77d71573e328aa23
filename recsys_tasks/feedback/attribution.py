"""What came of what was shown: counted by day in the warehouse, anew for each day that something changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from math import ceil
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text

from recsys_tasks.experiments.online_metrics import write_metrics
from recsys_tasks.ingestion.changes import lock_changes, record_removal
from recsys_tasks.interval import Interval
from recsys_tasks.warehouse import answering, statement

log = logging.getLogger(__name__)

_LOCK = 7_236_103  # any number, the same in every process
_MOST_THREADS = 4
_MEMORY = "256MB"


class CountingRules(NamedTuple):
    """How to count.

    Attributes:
        hours: an action belongs to what was shown in so many hours before it.
        requests_per_minute: who asks for more lists than that in a minute is a machine.
    """

    hours: int
    requests_per_minute: int


@dataclass(frozen=True)
class Counted:
    """How much was counted: days, requests that showed something, and visitors found to be machines."""

    days: tuple[date, ...]
    requests: int
    machines: int


@answering
def count_outcomes(engine: Engine, rules: CountingRules) -> Counted:
    """Counts the days whose outcomes may have changed since they were counted: all that a late event touched too.

    Each day is counted in one transaction, so that it can be killed and done again anywhere; and two processes that
    count at the same time do so one after the other.

    Raises:
        UnavailableError: the warehouse went away.
    """
    with _alone(engine) as connection:
        waiting = connection.execute(statement("feedback/days_to_attribute"), {"days": ceil(rules.hours / 24)}).all()
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
            found = list(threads.map(lambda row: _count_day(engine, row.day, int(row.known), rules), waiting))
    counted = Counted(
        tuple(row.day for row in waiting),
        sum(requests for requests, _ in found),
        sum(machines for _, machines in found),
    )
    log.info("Counted %d requests of %d days; %d machines", counted.requests, len(counted.days), counted.machines)
    return counted


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield connection


def _count_day(engine: Engine, day: date, known: int, rules: CountingRules) -> tuple[int, int]:
    """How many requests a day had, and how many machines were found among those who asked."""
    names: dict[str, Any] = {"day": day, **Interval.of_day(day).bounds, **rules._asdict()}
    with engine.begin() as connection:
        connection.execute(text(f"set local work_mem = '{_MEMORY}'"))
        connection.execute(text("delete from request_outcomes where day = :day"), {"day": day})
        requests = connection.execute(statement("feedback/attribute_day"), names).rowcount
        machines = connection.execute(statement("feedback/find_bots"), names).all() if requests else []
        if machines:
            _flag(connection, day, [(row.visitor, int(row.requests)) for row in machines])
        write_metrics(connection, day, empty=not requests)
        connection.execute(
            text(
                "insert into outcome_days (day, known) values (:day, :known)"
                " on conflict (day) do update set known = excluded.known"
            ),
            # Not the flags' own number: what was loaded between the counting and them has a lower one.
            {"day": day, "known": known},
        )
    return requests, len(machines)


def _flag(connection: Connection, day: date, machines: list[tuple[str, int]]) -> None:
    """Notes who is a machine on a day, as a change of the warehouse that touches it.

    Snapshots that know of the change are without them.
    """
    lock_changes(connection)
    number = record_removal(connection, "flag", f"{len(machines)} machines", [(day, 0)])
    connection.execute(
        statement("feedback/flag_bot"),
        [
            {
                "visitor": visitor,
                "day": day,
                "reason": f"{requests} lists within one minute",
                "loaded_number": number,
            }
            for visitor, requests in machines
        ],
    )
