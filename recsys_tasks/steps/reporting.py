"""The state of the loop."""

from __future__ import annotations

from recsys_tasks.warehouse import engine, statement


def status() -> dict[str, object]:
    """Counts of events, items, users and quarantine, the last snapshot, the champion, the feedback lag."""
    with engine().connect() as connection:
        row = connection.execute(statement("reports/status")).one()
    lag = row.feedback_lag_seconds
    return {**row._asdict(), "feedback_lag_seconds": None if lag is None else round(float(lag), 1)}
