"""Real baskets of The Complete Journey, shopped at the endpoint: ask for recommendations, then buy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from recsys_tasks.errors import UnavailableError
from recsys_tasks.ingestion.complete_journey import purchases_between
from recsys_tasks.interval import Interval
from recsys_tasks.names import PURCHASE

_SECONDS = 30.0


@dataclass(frozen=True)
class ReplayReport:
    """What happened: requests, items shown and bought, and how many baskets held one of the items shown."""

    baskets: int
    impressions: int
    purchases: int
    hits: int


def replay(url: str, start: datetime, end: datetime, baskets: int) -> ReplayReport:
    """Shops the first baskets of [start, end) in the order of time; event ids are the ingested ones.

    Raises:
        UnavailableError: the endpoint does not answer.
    """
    lines = purchases_between(Interval(start, end))
    lines = lines[lines["quantity"] > 0]
    shown = bought = hits = done = 0
    with httpx.Client(base_url=url, timeout=_SECONDS) as client:
        for basket, group in lines.groupby("basket_id", sort=False):
            if done == baskets:
                break
            user, at = str(group["household_id"].iloc[0]), group["transaction_timestamp"].iloc[0]
            moment = at.to_pydatetime().replace(tzinfo=UTC).isoformat()
            answer = _post(
                client,
                "/v1/recommendations",
                {"user_id": user, "session_id": str(basket), "time": moment, "k": 20},
            )
            position = {item["item_id"]: place for place, item in enumerate(answer["items"], start=1)}
            events = []
            for row in group.itertuples():
                item = str(row.product_id)
                event = {
                    "event_id": f"cj-{basket}-{item}",
                    "event_type": PURCHASE,
                    "user_id": user,
                    "session_id": str(basket),
                    "item_id": item,
                    "event_time": moment,
                    "quantity": int(row.quantity),
                    "price": round(float(row.sales_value) / int(row.quantity), 4),
                }
                if item in position:
                    event |= {"request_id": answer["request_id"], "position": position[item]}
                events.append(event)
            _post(client, "/v1/events", events)
            done, shown, bought = done + 1, shown + len(position), bought + len(events)
            hits += any("request_id" in event for event in events)
    return ReplayReport(done, shown, bought, hits)


def _post(client: httpx.Client, path: str, body: object) -> dict[str, list[dict[str, str]]]:
    try:
        answer = client.post(path, json=body)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise UnavailableError(f"{client.base_url}{path}: {error}") from error
    found: dict[str, list[dict[str, str]]] = answer.json()
    return found
