"""Shared parts of the DAG files: assets, retries, alerts, notes, and the intervals of the default source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, AssetAlias, dag

from recsys_tasks.interval import Interval
from recsys_tasks.orchestration.alerts import (
    create_deadline,
    on_alarm,
    on_batch_warnings,
    on_failure,
    on_late_source,
)
from recsys_tasks.orchestration.approval import create_approval_task, read_approval
from recsys_tasks.orchestration.notes import add_note, report_batches
from recsys_tasks.settings import settings

__all__ = [
    "add_note",
    "create_approval_task",
    "create_deadline",
    "on_alarm",
    "on_batch_warnings",
    "on_failure",
    "on_late_source",
    "read_approval",
    "report_batches",
]

EVENTS = Asset("events", uri="x-recsys://warehouse/events")
SNAPSHOT = Asset("snapshot", uri="x-recsys://snapshots/latest")
# Each changed day is an asset event with a partition key. Such events start no DAG, so that an alias emits one more
# without a key.
EVENTS_OUTLETS = [EVENTS, AssetAlias("events-changed")]
SNAPSHOT_OUTLETS = [SNAPSHOT, AssetAlias("snapshot-built")]
RETRAINING = Asset("retraining", uri="x-recsys://models/retraining")
CHALLENGER_VERSION = Asset("challenger", uri="x-recsys://models/challenger")
CHAMPION_VERSION = Asset("champion", uri="x-recsys://models/champion")

OWNER = "recommendations"
# Retries help when a service is unavailable. Wrong input and broken invariants fail at once, see `step`.
TASK_ARGS: dict[str, Any] = {
    "owner": OWNER,
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "on_failure_callback": on_failure,
}


def _queue(name: str | None) -> dict[str, Any]:
    return {} if name is None else {"queue": name}


# Arguments of tasks that work in the warehouse. The pool limits how many run at once; a task in a missing pool never
# starts, so the default is Airflow's default pool.
WAREHOUSE_TASK: dict[str, Any] = {"pool": settings().airflow_pool, **_queue(settings().airflow_warehouse_queue)}
# Arguments of tasks that train or evaluate a model.
TRAINING_TASK: dict[str, Any] = _queue(settings().airflow_training_queue)

WEEK = timedelta(days=7)
# The default source covers the year 2017. The first interval loads everything up to its end.
YEAR_START = datetime(2017, 1, 1, tzinfo=UTC)
FIRST_INTERVAL = datetime(2017, 12, 4, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
YEAR_END = datetime(2018, 1, 1, tzinfo=UTC)


def ingestion_end() -> datetime:
    """Returns the end of ingestion of the default source: its end, or the start of its replay through the endpoint."""
    configured = settings().simulation_start
    return datetime.fromisoformat(configured).astimezone(UTC) if configured else YEAR_END


def interval_to_ingest(start: datetime | None, end: datetime | None) -> Interval:
    """Returns a run's data interval. The first one includes all of 2017 before it; a run without one ingests all."""
    if start is None or end is None:
        return Interval(YEAR_START, ingestion_end())
    return Interval(YEAR_START if start <= FIRST_INTERVAL else start, end)


def require_interval(start: datetime | None, end: datetime | None) -> Interval:
    """Returns a run's data interval.

    Raises:
        ConfigurationError: the run was triggered without a logical date.
    """
    from recsys_tasks.errors import ConfigurationError

    if start is None or end is None:
        raise ConfigurationError("The run has no data interval. Trigger it with a logical date, or make a backfill")
    return Interval(start, end)


def is_latest(end: datetime | None, now: datetime) -> bool:
    """Whether no later interval is due, so that a catch-up of many weeks rebuilds features only at its end."""
    return end is None or end + WEEK > min(ingestion_end(), now)


def recsys_dag(
    doc_md: str,
    schedule: Any,
    tags: Sequence[str],
    max_extra_time: timedelta = timedelta(hours=1),
    task_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> Callable[[Callable[[], None]], Any]:
    """Returns Airflow's `dag` decorator with the arguments that all DAGs share. The DAG is named after the function.

    Args:
        doc_md: documentation in Airflow's page.
        schedule: assets or a timetable.
        tags: areas and tier; the owner is added.
        max_extra_time: a run misses its deadline if it takes this much longer than the average of the last runs.
        task_args: arguments of all tasks, in addition to `TASK_ARGS`.
        options: further arguments of `dag`; they override the shared ones.
    """

    def decorate(function: Callable[[], None]) -> Any:
        shared: dict[str, Any] = {
            "start_date": FIRST_INTERVAL,
            "catchup": False,
            "max_active_runs": 1,
            "on_failure_callback": on_failure,
            "deadline": create_deadline(function.__name__, max_extra_time),
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
    """Decorates a task's function: loads settings from the connection and prevents retries that cannot help.

    Raises:
        AirflowFailException: on `InputError` and `InvariantError`, in their place.
    """
    from functools import wraps

    from airflow.sdk.exceptions import AirflowFailException

    from recsys_tasks.errors import InputError, InvariantError
    from recsys_tasks.orchestration.connection import apply_connection

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        apply_connection()
        try:
            return function(*args, **kwargs)
        except (InputError, InvariantError) as error:
            add_note(f"{type(error).__name__}: {error}")
            raise AirflowFailException(f"{type(error).__name__}: {error}") from error

    return wrapped


def announce(outlet_events: Any, outlets: Sequence[Any], extra: Mapping[str, Any], days: Iterable[date]) -> None:
    """Announces a change of an asset: as a partition for each changed day, and to the DAGs that follow the asset.

    Args:
        outlet_events: of the task's context.
        outlets: of the task: `EVENTS_OUTLETS` or `SNAPSHOT_OUTLETS`.
        extra: of the asset events.
        days: that changed, UTC.
    """
    asset, alias = outlets
    if announce_days(outlet_events, outlets, extra, days):
        outlet_events[alias].add(asset, extra=dict(extra))


def announce_events(outlet_events: Any, extra: Mapping[str, Any]) -> None:
    """Announces changed events: the days with changes that no snapshot includes yet. Arguments as of `announce`."""
    from recsys_tasks.steps import features

    announce(outlet_events, EVENTS_OUTLETS, extra, features.unbuilt_days())


def announce_days(outlet_events: Any, outlets: Sequence[Any], extra: Mapping[str, Any], days: Iterable[date]) -> bool:
    """Announces changed days as partitions of an asset, which starts no other DAG; returns whether there are any.

    Without any, Airflow itself adds an event without a partition key. Arguments as of `announce`.
    """
    asset = outlet_events[outlets[0]]
    asset.extra = dict(extra)
    keys = [f"{day:%Y-%m-%d}" for day in days]
    if keys:
        asset.add_partitions(keys)
    return bool(keys)


def register_challenger(run_id: str, outlet_events: Any) -> str:
    """Registers a run's model as the challenger and announces it; returns the version's number."""
    from recsys_tasks.registry import runs  # not `steps.training`, which imports PyTorch

    number = runs.register(run_id).number
    outlet_events[CHALLENGER_VERSION].extra = {"version": number}
    return number


def get_event_extra(events: Any, name: str) -> str | None:
    """Returns the extra `name` of the latest triggering asset event; None if no event has it."""
    matches = [event for asset_events in (events or {}).values() for event in asset_events if name in event.extra]
    return max(matches, key=lambda event: event.timestamp).extra[name] if matches else None
