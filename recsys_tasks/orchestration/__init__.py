"""What the DAG files share: assets, retries, alerts, notes, and the default source's place in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, dag

from recsys_tasks.interval import Interval
from recsys_tasks.orchestration.alerts import deadline, on_alarm, on_failure
from recsys_tasks.orchestration.approval import asked_person, read_answer
from recsys_tasks.orchestration.notes import note
from recsys_tasks.settings import settings

__all__ = ["asked_person", "deadline", "note", "on_alarm", "on_failure", "read_answer"]

EVENTS = Asset("events", uri="x-recsys://warehouse/events")
SNAPSHOT = Asset("snapshot", uri="x-recsys://snapshots/latest")
RETRAINING = Asset("retraining", uri="x-recsys://models/retraining")
CHALLENGER_VERSION = Asset("challenger", uri="x-recsys://models/challenger")
CHAMPION_VERSION = Asset("champion", uri="x-recsys://models/champion")

OWNER = "recommendations"
# Retries help where something does not answer. Wrong input and broken invariants fail at once, see `step`.
TASK_ARGS: dict[str, Any] = {
    "owner": OWNER,
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "on_failure_callback": on_failure,
}
# The pool of tasks that work in the warehouse, so that runs beside each other do not starve it. A pool must exist, so
# it is the default one unless the deployment names one it has made.
POOL = settings().airflow_pool

WEEK = timedelta(days=7)
# The default source is the year 2017: all of it up to the end of the first interval is one load.
YEAR_START = datetime(2017, 1, 1, tzinfo=UTC)
FIRST_INTERVAL = datetime(2017, 12, 4, tzinfo=UTC)
YEAR_END = datetime(2018, 1, 1, tzinfo=UTC)


def ingestion_end() -> datetime:
    """Up to when the default source is ingested: its end, or where its replay through the endpoint begins."""
    configured = settings().simulation_start
    return datetime.fromisoformat(configured).astimezone(UTC) if configured else YEAR_END


def interval_to_ingest(start: datetime | None, end: datetime | None) -> Interval:
    """A run's data interval; the first one takes the year before it along, a run without one takes all."""
    if start is None or end is None:
        return Interval(YEAR_START, ingestion_end())
    return Interval(YEAR_START if start <= FIRST_INTERVAL else start, end)


def is_latest(end: datetime | None, now: datetime) -> bool:
    """Whether no later interval is due yet, so that a catch-up of many weeks rebuilds features once, at its end."""
    return end is None or end + WEEK > min(ingestion_end(), now)


def recsys_dag(
    doc_md: str,
    schedule: Any,
    tags: Sequence[str],
    max_extra_time: timedelta = timedelta(hours=1),
    task_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> Callable[[Callable[[], None]], Any]:
    """Airflow's `dag` decorator with the arguments that all DAGs share; the DAG is named after the function.

    Args:
        doc_md: documentation for Airflow's page.
        schedule: assets or a clock.
        tags: rooms and tier; the owner is added.
        max_extra_time: a run that takes this much longer than the last ones misses its deadline.
        task_args: arguments of all tasks beside `TASK_ARGS`.
        options: further arguments of `dag`, in place of the shared ones.
    """

    def decorate(function: Callable[[], None]) -> Any:
        shared: dict[str, Any] = {
            "start_date": FIRST_INTERVAL,
            "catchup": False,
            "max_active_runs": 1,
            "on_failure_callback": on_failure,
            "deadline": deadline(function.__name__, max_extra_time),
        }
        decorator = dag(
            schedule=schedule,
            default_args=TASK_ARGS | dict(task_args or {}),
            doc_md=doc_md,
            tags=[f"owner:{OWNER}", *tags],
            **(shared | options),
        )
        return decorator(function)

    return decorate


def step(function: Any) -> Any:
    """What every task's function is wrapped in: settings from the connection, and no retry where none can help.

    Wrong input and broken invariants are raised as `AirflowFailException`.
    """
    from functools import wraps

    from airflow.sdk.exceptions import AirflowFailException

    from recsys_tasks.errors import InputError, InvariantError
    from recsys_tasks.orchestration.connection import configure

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        configure()
        try:
            return function(*args, **kwargs)
        except (InputError, InvariantError) as error:
            note(f"{type(error).__name__}: {error}")
            raise AirflowFailException(f"{type(error).__name__}: {error}") from error

    return wrapped


def counts(reports: Iterable[Any]) -> str:
    """What became of rows, in a line, from reports of loading."""
    from recsys_tasks.ingestion.load import totals

    return ", ".join(f"{name} {count:,}" for name, count in totals(reports).items())


def from_event(events: Any, name: str) -> str | None:
    """What the latest triggering asset event says under `name`; None for a run that no asset started."""
    found = [event for of_asset in (events or {}).values() for event in of_asset if name in event.extra]
    return max(found, key=lambda event: event.timestamp).extra[name] if found else None
