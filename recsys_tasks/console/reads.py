"""What the pages show, read from the warehouse, MLflow and the endpoints at each request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
from sqlalchemy import Row

from recsys_tasks.client import EndpointError, RecommendationRequest, RecommenderClient, SearchRequest
from recsys_tasks.client.admin import AdminClient
from recsys_tasks.errors import InputError, RecsysError
from recsys_tasks.experiments.verdicts import load_experiment_results
from recsys_tasks.monitoring.monitors import Finding, serving_period
from recsys_tasks.monitoring.report import draw_days_chart
from recsys_tasks.promotion.deployment_record import read_state
from recsys_tasks.registry import runs, versions
from recsys_tasks.settings import Settings
from recsys_tasks.steps import monitoring, status
from recsys_tasks.warehouse import engine, statement
from recsys_tasks.wire.messages import RulesVersion
from recsys_tasks.wire.rules import MerchandisingRules

Rows = Sequence[Row[Any]]
PERIOD = timedelta(days=7)
_LIST_LENGTH, _TIMEOUT_SECONDS = 10, 5


def rows(name: str, **parameters: object) -> Rows:
    """Returns the rows of `sql/<name>.sql`."""
    with engine().connect() as connection:
        return connection.execute(statement(name), parameters).all()


def overview(settings: Settings) -> dict[str, Any]:
    """Returns the state of each part of the loop."""
    state = read_state(engine())
    return {
        "status": status.status(),
        "batches": rows("console/batches"),
        "decisions": rows("console/decisions")[:5],
        "served": state.served[-1] if state.served else None,
        "rollout": state.rollout,
        "endpoints": [endpoint(url, settings.require_admin_token()) for url in settings.endpoint_urls],
        "alarms": [alarm for alarm in rows("monitoring/alarms") if alarm.closed_at is None],
    }


def endpoint(url: str, token: str) -> dict[str, Any]:
    """Returns the version of an endpoint and the size of its event log that is not collected, or its problem."""
    client, found = AdminClient(url, token), {"url": url}
    try:
        found["version"] = client.query_served_version()
        metrics = httpx.get(f"{url}/metrics", timeout=_TIMEOUT_SECONDS).text.splitlines()
    except (RecsysError, httpx.HTTPError) as error:
        return {"url": url, "problem": str(error)}
    return {**found, "uncollected_bytes": next((float(line.split()[1]) for line in metrics if _is_backlog(line)), None)}


def _is_backlog(line: str) -> bool:
    return line.startswith("recsys_event_log_uncollected_bytes ")


def challenger() -> str | None:
    """Returns the number of the challenger that is not the champion; None without one."""
    found, champion = versions.version_by_alias("challenger"), versions.version_by_alias("champion")
    if found is None or (champion is not None and champion.number == found.number):
        return None
    return found.number


def version(number: str) -> dict[str, Any]:
    """Returns the decisions about a version, its offline metrics beside the baselines, and its run.

    Raises:
        InputError: there is no such version.
    """
    found = versions.version_by_number(number)
    return {
        "version": found,
        "decisions": rows("console/decisions_of_version", version=number),
        "metrics": runs.load_evaluation(found.run_id),
        "is_challenger": challenger() == number,
    }


def experiments() -> dict[str, Any]:
    """Returns the results of all experiments with visitors, and the configured one."""
    configured = monitoring.experiment()
    with engine().connect() as connection:
        period = serving_period(connection)
        results = [] if period is None else load_experiment_results(connection, period, configured)
    return {"configured": configured, "results": results, "period": period}


def days_chart() -> str:
    """Returns the chart of the report with the CTR by day and arm, as SVG.

    Raises:
        InputError: no list was shown so far.
    """
    with engine().connect() as connection:
        period = serving_period(connection)
        if period is None:
            raise InputError("No list was shown so far, or its outcomes are not attributed yet")
        return draw_days_chart(connection, period, monitoring.experiment())


def findings() -> list[Finding]:
    """Returns what the monitors find now; nothing is recorded."""
    return monitoring.run_rules()


def worst_queries(now: datetime | None = None) -> Rows:
    """Returns the queries of the last week that led to nothing most often."""
    return rows("console/worst_queries", since=(now or datetime.now(UTC)) - PERIOD)


def inspected_query(settings: Settings, query: str) -> dict[str, Any]:
    """Returns the results of a query at the first endpoint, with the share of each signal in the score."""
    with _client(settings) as client:
        found = client.search(SearchRequest(query=query, k=_LIST_LENGTH, explain=True, record=False))
    return {"query": query, "found": found}


def user(settings: Settings, user_id: str) -> dict[str, Any]:
    """Returns the latest actions of a user, the arm, and the list of now."""
    configured = monitoring.experiment()
    with _client(settings) as client:
        now = client.recommend(RecommendationRequest(user_id=user_id, k=_LIST_LENGTH, record=False))
    return {
        "user_id": user_id,
        "events": rows("console/user_events", user_id=user_id),
        "arm": None if configured is None else configured.assign_arm(user_id).name,
        "list": now,
    }


def item(settings: Settings, item_id: str) -> dict[str, Any]:
    """Returns an item as the first endpoint has it, why it is or is not shown, its neighbors, and its week."""
    with _client(settings) as client:
        try:
            stored, near = client.get_item(item_id), client.similar(item_id, _LIST_LENGTH)
        except EndpointError as error:
            return {"item_id": item_id, "problem": str(error)}
    until, since = stored.item.available_until, stored.item.available_from
    now = datetime.now(UTC)
    reasons = []
    if until is not None and until <= now:
        reasons.append(f"It is not available since {until:%Y-%m-%d %H:%M} UTC, so that no list has it.")
    if since is not None and since > now:
        reasons.append(f"It becomes available at {since:%Y-%m-%d %H:%M} UTC; until then no list has it.")
    if not stored.trained:
        reasons.append("It had too few events for a vector of its own: its content places it.")
    week = rows("console/item_days", item_id=item_id, since=now - PERIOD)
    return {"item_id": item_id, "item": stored.item, "similar": near.items, "reasons": reasons, "week": week}


def rules(settings: Settings) -> RulesVersion:
    """Returns the merchandising rules in use at the first endpoint."""
    with _client(settings) as client:
        return client.get_rules()


def previous_rules(settings: Settings, number: int) -> RulesVersion:
    """Returns the version of the rules before a version."""
    url = f"{settings.endpoint_urls[0]}/v1/admin/rules?version={number - 1}"
    headers = {"Authorization": f"Bearer {settings.require_admin_token()}"}
    answer = httpx.get(url, headers=headers, timeout=_TIMEOUT_SECONDS)
    if answer.status_code != httpx.codes.OK:
        raise InputError(f"There is no version before version {number} of the rules")
    return msgspec.json.decode(answer.content, type=RulesVersion)


def preview(settings: Settings, user_id: str, changed: MerchandisingRules) -> dict[str, Any]:
    """Returns the list of a user as it is, and with rules beside those in use."""
    request = RecommendationRequest(user_id=user_id or None, k=_LIST_LENGTH, record=False)
    with _client(settings) as client:
        now = client.recommend(request)
        then = client.recommend(msgspec.structs.replace(request, rules=changed))
    return {"user_id": user_id, "now": now.items, "then": then.items}


def _client(settings: Settings) -> RecommenderClient:
    return RecommenderClient(settings.endpoint_urls[0], settings.require_admin_token())
