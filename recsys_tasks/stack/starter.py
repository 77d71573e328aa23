"""First lists of a new stack, before any training: by the content of the catalog and the popularity of one week.

`python -m recsys_tasks.stack.starter`, as a process of the stack. Does nothing if a version has been promoted already.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from recsys_tasks.errors import RecsysError, UnavailableError
from recsys_tasks.interval import Interval
from recsys_tasks.promotion.deployment_record import read_state
from recsys_tasks.settings import Settings, settings
from recsys_tasks.stack.processes import responds
from recsys_tasks.warehouse import engine

log = logging.getLogger(__name__)
SOURCE = "complete_journey"
APPROVED_BY = "make run"
_WEEK = timedelta(days=7)
_TIMEOUT_SECONDS, _POLL_INTERVAL_SECONDS = 180.0, 0.5


def serve_first_lists(chosen: Settings, replay_from: datetime) -> None:
    """Ingests the catalog and the last whole week before the replay, and promotes a version without training.

    The batches are usually those of the last scheduled run of `ingest_events`, which then skips them.

    Raises:
        UnavailableError: MLflow or the endpoint does not start.
    """
    from recsys_tasks.steps import features, ingestion, promotion, training  # slow imports, not needed at a restart

    ingestion.ingest_files(SOURCE, [], last_whole_week(replay_from))
    snapshot = features.build_features()
    _wait_for(f"{chosen.mlflow_tracking_uri}/health")
    version = training.register_run(training.train_model(snapshot.snapshot_id, content_only=True))
    for url in chosen.endpoint_urls:
        _wait_for(f"{url}/healthz")
    promotion.promote(version, APPROVED_BY)


def last_whole_week(until: datetime) -> Interval:
    """Returns the last week from Monday to Monday (UTC) that ends by a time."""
    until = until.astimezone(UTC)
    midnight = until.replace(hour=0, minute=0, second=0, microsecond=0)
    end = midnight - timedelta(days=midnight.weekday())
    return Interval(end - _WEEK, end)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not responds(url):
        if time.monotonic() > deadline:
            raise UnavailableError(f"{url} did not answer within {_TIMEOUT_SECONDS:.0f} s")
        time.sleep(_POLL_INTERVAL_SECONDS)


def main() -> int:
    """Runs the starter; exit status 0 if a version serves."""
    logging.basicConfig(level=logging.INFO, format="starter %(levelname)s %(message)s")
    chosen = settings()
    try:
        if not read_state(engine()).served:
            serve_first_lists(chosen, datetime.fromisoformat(chosen.simulation_start or ""))
    except Exception as error:
        with suppress(RecsysError):
            if read_state(engine()).served:
                log.info("A DAG of an earlier start has promoted a version meanwhile: %s", error)
                return 0
        log.error("No first lists: %s", error, exc_info=not isinstance(error, RecsysError))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
