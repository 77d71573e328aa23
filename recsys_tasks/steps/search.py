"""Evaluates search at an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from recsys_tasks.client import RecommenderClient
from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.search import JudgedQuery, evaluate_search, read_judged_queries
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine, statement

_MIN_PEOPLE = 2  # who chose an item
_TIMEOUT_SECONDS = 10.0


def evaluate(url: str | None, queries: Path | None, days: int) -> dict[str, dict[str, float]]:
    """Returns the search metrics of an endpoint by class of queries.

    Args:
        url: address of the endpoint; default: the first of the settings.
        queries: judged queries; without them, those of the warehouse.
        days: age of the oldest searches in the warehouse that count.

    Raises:
        InputError: there is no judged query.
    """
    judged = read_judged_queries(queries) if queries else read_choices(engine(), days)
    chosen = settings()
    key = chosen.read_keys[0].get_secret_value() if chosen.read_keys else None
    with RecommenderClient(url or chosen.endpoint_urls[0], key, _TIMEOUT_SECONDS) as client:
        return evaluate_search(judged, client.search)


def read_choices(warehouse: Engine, days: int) -> Sequence[JudgedQuery]:
    """Returns the queries of the last days with the items that at least two people chose from their result lists.

    Raises:
        InputError: there is none.
    """
    parameters = {"since": datetime.now(UTC) - timedelta(days=days), "min_people": _MIN_PEOPLE}
    found: dict[str, JudgedQuery] = {}
    with warehouse.connect() as connection:
        for row in connection.execute(statement("monitoring/search_choices"), parameters):
            query = found.setdefault(row.query_text, JudgedQuery(row.query_text, searches=row.searches))
            query.ratings[row.item_id] = row.rating
    if not found:
        raise InputError(f"No item was chosen by {_MIN_PEOPLE} people after a search in the last {days} days")
    return list(found.values())
