"""Queries behind the console's pages, run at each request."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
from sqlalchemy import Row

from recsys_tasks.client import EndpointError, RecommendationRequest, RecommenderClient, SearchRequest
from recsys_tasks.errors import InputError, UnavailableError
from recsys_tasks.experiments.definition import LONG_TERM_HOLDOUT
from recsys_tasks.experiments.stored_results import StoredResults, read_results
from recsys_tasks.monitoring.alarms import Alarm, read_open_alarms
from recsys_tasks.monitoring.monitors import Finding
from recsys_tasks.monitoring.report import draw_days_chart
from recsys_tasks.promotion.deployment_record import read_state
from recsys_tasks.registry import runs, versions
from recsys_tasks.settings import Settings
from recsys_tasks.steps import monitoring
from recsys_tasks.warehouse import engine, statement
from recsys_tasks.wire.messages import RulesVersion
from recsys_tasks.wire.rules import MerchandisingRules

Rows = Sequence[Row[Any]]
_QUERY_PERIOD, _ARM_PERIOD = timedelta(days=7), timedelta(days=28)
_MIN_SYNONYM_VISITORS = 2
_LIST_LENGTH, _TIMEOUT_SECONDS, _MAX_THREADS = 10, 5, 8
_BACKLOG = "recsys_event_log_uncollected_bytes "


def rows(name: str, **parameters: object) -> Rows:
    """Returns the rows of `sql/<name>.sql`."""
    with engine().connect() as connection:
        return connection.execute(statement(name), parameters).all()


def overview(settings: Settings) -> dict[str, Any]:
    """Returns the state of each part of the loop."""
    state = read_state(engine())
    return {
        "loop_state": rows("console/loop")[0],
        "sources": rows("status/sources"),
        "batches": rows("console/batches"),
        "decisions": rows("console/decisions")[:5],
        "served": state.served[-1] if state.served else None,
        "rollout": state.rollout,
        "paused_at": state.paused_at,
        "endpoints": endpoints(settings),
        "alarms": _open_alarms(),
    }


def _open_alarms() -> list[Alarm]:
    with engine().connect() as connection:
        return read_open_alarms(connection)


def endpoints(settings: Settings) -> list[dict[str, Any]]:
    """Returns the served version and the uncollected bytes of each endpoint, or the error."""
    with ThreadPoolExecutor(_MAX_THREADS) as pool:
        return list(pool.map(_endpoint, settings.endpoint_urls))


def _endpoint(url: str) -> dict[str, Any]:
    try:
        answer = httpx.get(f"{url}/readyz", timeout=_TIMEOUT_SECONDS)
        lines = httpx.get(f"{url}/metrics", timeout=_TIMEOUT_SECONDS).text.splitlines()
    except httpx.HTTPError as error:
        return {"url": url, "problem": f"{type(error).__name__}: {error}"}
    if answer.status_code != httpx.codes.OK:
        return {"url": url, "problem": answer.json()["detail"]}
    backlog = next((float(line.split()[1]) for line in lines if line.startswith(_BACKLOG)), None)
    return {"url": url, "version": answer.json()["model_version"], "uncollected_bytes": backlog}


def challenger() -> str | None:
    """Returns the challenger's version number; None if there is none or it is the champion."""
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
        "decisions": rows("console/version_decisions", version=number),
        "metrics": runs.load_evaluation(found.run_id),
        "is_challenger": challenger() == number,
    }


def experiments() -> dict[str, Any]:
    """Returns the results of all experiments with visitors as of the last attribution, and the configured one."""
    return {"configured": monitoring.experiment(), "found": _stored_results(), "over_all": LONG_TERM_HOLDOUT}


def _stored_results() -> StoredResults | None:
    with engine().connect() as connection:
        return read_results(connection)


def visitors_of_arm(experiment: str, arm: str) -> Rows:
    """Returns the latest visitors of an arm within four weeks."""
    since = datetime.now(UTC) - _ARM_PERIOD
    return rows("console/arm_visitors", experiment=experiment, arm=arm, since=since)


def days_chart() -> str:
    """Returns the chart of the report with the CTR by day and arm, as SVG.

    Raises:
        InputError: no list was shown so far.
    """
    found = _stored_results()
    if found is None:
        raise InputError("No attributed impressions yet. They come with the DAG monitor_feedback")
    return draw_days_chart(found.days, found.rates, monitoring.experiment())


def findings() -> list[Finding]:
    """Returns what the monitors find now; nothing is recorded."""
    return monitoring.evaluate_monitors()


def worst_queries() -> Rows:
    """Returns the queries of the last seven days with the most searches without an action."""
    return rows("console/worst_queries", since=datetime.now(UTC) - _QUERY_PERIOD)


def suggested_synonyms(settings: Settings) -> tuple[Rows, int]:
    """Returns synonyms that the last seven days suggest and the rules lack, and the version of the rules.

    They are queries without an action, each with the next query of the same visitor, which had one. Without an answer
    of the endpoint there are none.
    """
    since = datetime.now(UTC) - _QUERY_PERIOD
    found = rows("console/suggested_synonyms", since=since, min_visitors=_MIN_SYNONYM_VISITORS)
    if not found:
        return found, 0
    try:
        current = rules(settings)
    except (EndpointError, httpx.HTTPError):  # the rest of the page comes from the warehouse
        return [], 0
    accepted = {(_normalize(rule.phrase), _normalize(rule.means)) for rule in current.rules.synonyms}
    return [row for row in found if (row.phrase, row.means) not in accepted], current.version


def _normalize(query: str) -> str:
    return " ".join(query.lower().split())


def inspected_query(settings: Settings, query: str) -> dict[str, Any]:
    """Returns the results of a query at the first endpoint, with the share of each signal in the score."""
    with _client(settings) as client:
        found = client.search(SearchRequest(query=query, k=_LIST_LENGTH, explain=True, record=False))
    return {"query": query, "found": found}


def user(settings: Settings, user_id: str) -> dict[str, Any]:
    """Returns the latest actions of a user, the arm, and the current list."""
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
    """Returns an item as the first endpoint has it, what keeps it from lists, its neighbors, and its week."""
    with _client(settings) as client:
        try:
            stored, near = client.get_item(item_id), client.similar(item_id, _LIST_LENGTH)
        except EndpointError as error:
            return {"item_id": item_id, "problem": str(error)}
    until, since = stored.item.available_until, stored.item.available_from
    now = datetime.now(UTC)
    reasons = []
    if until is not None and until <= now:
        reasons.append(f"Unavailable since {until:%Y-%m-%d %H:%M} UTC: excluded from all lists.")
    if since is not None and since > now:
        reasons.append(f"Available from {since:%Y-%m-%d %H:%M} UTC on: excluded from lists until then.")
    if not stored.trained:
        reasons.append("Not in the training data, or too rare: its vector comes from its content.")
    week = rows("console/item_events", item_id=item_id, since=now - _QUERY_PERIOD)
    return {"item_id": item_id, "item": stored.item, "similar": near.items, "reasons": reasons, "week": week}


def rules(settings: Settings) -> RulesVersion:
    """Returns the merchandising rules in use at the first endpoint."""
    with _client(settings) as client:
        return client.get_rules()


def previous_rules(settings: Settings, number: int) -> RulesVersion:
    """Returns version `number` - 1 of the rules.

    Raises:
        UnavailableError: the endpoint does not give it.
    """
    url = f"{settings.endpoint_urls[0]}/v1/admin/rules?version={number - 1}"
    headers = {"Authorization": f"Bearer {settings.require_admin_token()}"}
    answer = httpx.get(url, headers=headers, timeout=_TIMEOUT_SECONDS)
    if answer.status_code != httpx.codes.OK:
        raise UnavailableError(f"{url} answers with status {answer.status_code}; check the endpoint and try again")
    return msgspec.json.decode(answer.content, type=RulesVersion)


def preview(settings: Settings, user_id: str, changed: MerchandisingRules) -> dict[str, Any]:
    """Returns a user's list under the rules in use, and under changed ones in their place."""
    request = RecommendationRequest(user_id=user_id or None, k=_LIST_LENGTH, record=False)
    with _client(settings) as client:
        now, then = client.recommend(request), client.preview_rules(changed, request)
    return {"user_id": user_id, "now": now.items, "then": then.items}


def _client(settings: Settings) -> RecommenderClient:
    return RecommenderClient(settings.endpoint_urls[0], settings.require_admin_token())
