"""Simulation of shoppers who use the first endpoint."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, time, timedelta

from recsys_tasks.settings import settings
from recsys_tasks.simulation.scenario import QUIET, read_scenario
from recsys_tasks.simulation.shopping import ShoppingStats, StorefrontClient, simulate_shopping
from recsys_tasks.simulation.world_reader import read_world
from recsys_tasks.warehouse import engine, statement

log = logging.getLogger(__name__)
DEFAULT_NUM_SHOPPERS, DEFAULT_SESSIONS_PER_DAY, DEFAULT_LIST_LENGTH = 1_000, 500, 20


def simulate(
    scenario: str | None = None,
    start: datetime | None = None,
    days: range = range(1),
    sessions_per_day: int = DEFAULT_SESSIONS_PER_DAY,
    num_shoppers: int = DEFAULT_NUM_SHOPPERS,
    k: int = DEFAULT_LIST_LENGTH,
    seed: int | None = None,
) -> ShoppingStats:
    """Simulates shoppers who use the first endpoint of the settings; returns counts.

    Args:
        scenario: name or file of a scenario; by default one without special events.
        start: day 0 of the scenario; by default the day after the latest event in the warehouse.
        days: days of the scenario to simulate; may continue an earlier call.
        sessions_per_day: number of sessions on each day.
        num_shoppers: size of the population.
        k: length of lists.
        seed: random seed; by default that of the settings.

    Raises:
        InputError: the scenario does not exist or is invalid.
        NotEnoughData: the warehouse has no events.
        UnavailableError: the endpoint does not answer.
    """
    configured = settings()
    definition = QUIET if scenario is None else read_scenario(scenario)
    world = read_world(engine(), num_shoppers, definition, configured.seed if seed is None else seed)
    midnight = start or _next_midnight()
    key = next(iter(configured.write_keys), None)
    client = StorefrontClient(configured.endpoint_urls[0], k, key.get_secret_value() if key else None)
    try:
        return simulate_shopping(client, world, midnight, days, sessions_per_day, on_day=_log_day)
    finally:
        client.close()


def _log_day(day: int, stats: ShoppingStats) -> None:
    log.info(
        "Day %d: %d sessions, %d of %d recommended items clicked",
        day,
        stats.sessions,
        stats.recommended_clicks,
        stats.recommended,
    )


def _next_midnight() -> datetime:
    with engine().connect() as connection:
        last: datetime | None = connection.scalar(statement("promotion/last_event"))
    day = (last or datetime.now(UTC)).astimezone(UTC).date()
    return datetime.combine(day, time(), UTC) + timedelta(days=1)
