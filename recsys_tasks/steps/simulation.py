"""Simulated shoppers at the endpoint."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, time, timedelta

from recsys_tasks.settings import settings
from recsys_tasks.simulation.scenario import QUIET, read_scenario
from recsys_tasks.simulation.shopping import Shop, Shopped, shop
from recsys_tasks.simulation.world import read_world
from recsys_tasks.warehouse import engine, statement

log = logging.getLogger(__name__)
SHOPPERS, SESSIONS, LIST = 1_000, 500, 20


def simulate(
    scenario: str | None = None,
    begins: datetime | None = None,
    days: range = range(1),
    sessions: int = SESSIONS,
    shoppers: int = SHOPPERS,
    k: int = LIST,
    seed: int | None = None,
) -> Shopped:
    """Lets simulated shoppers shop at the first endpoint of the settings.

    Args:
        scenario: what happens, by name or file; by default nothing special.
        begins: the day that is the scenario's day 0; by default the one after the latest event of the warehouse.
        days: of the scenario, which may go on where an earlier call stopped.
        sessions: a day; shoppers: in the population; k: the length of lists.
        seed: of everything that is drawn; by default that of the settings.

    Raises:
        InputError: there is no such scenario, or the warehouse is empty.
        UnavailableError: the endpoint does not answer.
    """
    chosen = settings()
    happening = QUIET if scenario is None else read_scenario(scenario)
    world = read_world(engine(), shoppers, happening, chosen.seed if seed is None else seed)
    midnight = begins or _next_midnight()
    key = next(iter(chosen.write_keys), None)
    counter = Shop(chosen.endpoint_urls[0], k, key.get_secret_value() if key else None)
    try:
        return shop(counter, world, midnight, days, sessions, on_day=_tell)
    finally:
        counter.close()


def _tell(day: int, shopped: Shopped) -> None:
    log.info(
        "Day %d: %d sessions, %d of %d recommended items clicked",
        day,
        shopped.sessions,
        shopped.recommended_clicks,
        shopped.recommended,
    )


def _next_midnight() -> datetime:
    with engine().connect() as connection:
        last: datetime | None = connection.scalar(statement("promotion/last_event"))
    day = (last or datetime.now(UTC)).astimezone(UTC).date()
    return datetime.combine(day, time(), UTC) + timedelta(days=1)
