"""Attribution of actions to impressions: writes `request_outcomes` day by day, again for each day that changed."""

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
from recsys_tasks.ingestion.changes import lock_changes, record_change_without_batch
from recsys_tasks.interval import Interval
from recsys_tasks.warehouse import raises_unavailable, statement

log = logging.getLogger(__name__)

_LOCK_KEY = 7_236_103  # any number, the same in every process
_MAX_THREADS = 4
_WORK_MEM = "256MB"


class AttributionRules(NamedTuple):
    """Parameters of attribution.

    Attributes:
        window_hours: attribution window: an action belongs to an impression at most this long before it.
        max_requests_per_minute: a visitor with more list requests within one minute is a bot.
    """

    window_hours: int
    max_requests_per_minute: int


@dataclass(frozen=True)
class AttributionReport:
    """The days attributed, their number of requests with impressions, and the number of bots found."""

    days: tuple[date, ...]
    requests: int
    bots: int


@raises_unavailable
def attribute_days(engine: Engine, rules: AttributionRules) -> AttributionReport:
    """Attributes every day whose outcomes may have changed since its last attribution, late events included.

    One transaction per day, so that a crash loses at most the running days. Concurrent callers wait for each other.

    Raises:
        UnavailableError: the warehouse does not answer.
    """
    with _attribution_lock(engine) as connection:
        window_days = ceil(rules.window_hours / 24)
        pending = connection.execute(statement("feedback/days_to_attribute"), {"days": window_days}).all()
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
            counts = list(
                threads.map(lambda row: _attribute_day(engine, row.day, int(row.as_of_change), rules), pending)
            )
    report = AttributionReport(
        tuple(row.day for row in pending),
        sum(requests for requests, _ in counts),
        sum(bots for _, bots in counts),
    )
    log.info("Attributed %d requests of %d days; flagged %d bots", report.requests, len(report.days), report.bots)
    return report


@contextmanager
def _attribution_lock(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK_KEY})
        yield connection


def _attribute_day(engine: Engine, day: date, as_of_change: int, rules: AttributionRules) -> tuple[int, int]:
    """Attributes one day; returns its number of requests and of newly found bots."""
    parameters: dict[str, Any] = {"day": day, **Interval.of_day(day).bounds, **rules._asdict()}
    with engine.begin() as connection:
        connection.execute(text(f"set local work_mem = '{_WORK_MEM}'"))
        connection.execute(text("delete from request_outcomes where day = :day"), {"day": day})
        requests = connection.execute(statement("feedback/attribute_day"), parameters).rowcount
        bots = connection.execute(statement("feedback/find_bots"), parameters).all() if requests else []
        if bots:
            _flag_bots(connection, day, [(row.visitor, int(row.requests)) for row in bots])
        write_metrics(connection, day, empty=not requests)
        connection.execute(
            text(
                "insert into outcome_days (day, as_of_change) values (:day, :as_of_change)"
                " on conflict (day) do update set as_of_change = excluded.as_of_change"
            ),
            # Not the change number of the flags: a batch loaded before they were written has a lower one.
            {"day": day, "as_of_change": as_of_change},
        )
    return requests, len(bots)


def _flag_bots(connection: Connection, day: date, bots: list[tuple[str, int]]) -> None:
    """Flags visitors, with their requests per minute, as bots of a day, and records this as a change of the warehouse.

    Snapshots as of that change or later exclude their events.
    """
    lock_changes(connection)
    number = record_change_without_batch(connection, "flag", f"{len(bots)} bots", [(day, 0)])
    connection.execute(
        statement("feedback/flag_bot"),
        [
            {
                "visitor": visitor,
                "day": day,
                "reason": f"{requests} lists within one minute",
                "change_number": number,
            }
            for visitor, requests in bots
        ],
    )
