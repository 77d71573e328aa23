"""Summary of `make run`: addresses, metrics, example recommendations, and the check that the loop closed."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from recsys_tasks.errors import InvariantError
from recsys_tasks.evaluation.segments import QUESTIONS, segment_metric
from recsys_tasks.promotion.deployment_record import read_state
from recsys_tasks.stack.environment import Ports, data_docs_url
from recsys_tasks.stack.loop import LoopRunner
from recsys_tasks.steps import monitoring

COLUMNS = ("recall_20", "mrr_20", "ndcg_20", "precision_20", "f1_20")
SEGMENTS = ("first-time targets", "items not in training")
SEGMENT_COLUMNS = ("recall_20", "mrr_20")


def verify_loop(runner: LoopRunner, ports: Ports) -> str:
    """Checks that the endpoint serves the promoted version, and that its feedback is in the warehouse and a snapshot.

    Raises:
        InvariantError: a check failed; says what was found.
    """
    serving = httpx.get(f"{ports.url('endpoint')}/v1/model", timeout=30).json()
    served = read_state(runner.warehouse).served
    promoted = served[-1].model_version if served else None
    if serving.get("model_version") != promoted:
        raise InvariantError(f"The endpoint serves {serving.get('model_version')}, but {promoted} was promoted")
    (feedback,) = _rows(runner.warehouse, "select count(*) from events where source = 'feedback'")[0]
    (trained,) = _rows(
        runner.warehouse, "select coalesce(max((manifest ->> 'feedback_events')::bigint), 0) from snapshots"
    )[0]
    if not feedback or not trained:
        raise InvariantError(f"The warehouse has {feedback} feedback events, the snapshots have {trained}")
    runner.console.print(
        f"\nThe endpoint serves version [bold]{promoted}[/]; {feedback} of its feedback events are in the warehouse,"
        f" {trained} of its user actions are in a snapshot."
    )
    return str(promoted)


def show_metrics(console: Console, mlflow_url: str, version: str) -> None:
    """Prints the metrics of a version and the baselines on held-out sessions: overall, and for new discoveries."""
    from recsys_tasks.registry import runs, versions

    rows = runs.load_evaluation(versions.version_by_number(version).run_id)
    if "model" not in rows:
        console.print(f"Version {version} was not trained and has no offline metrics.")
        return
    table = Table(title=f"Held-out sessions: version {version} against the baselines ({mlflow_url})")
    table.add_column("model")
    labels = {"model": f"version {version}", "champion": "previous champion"}
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, metrics in rows.items():
        table.add_row(labels.get(name, name), *(f"{metrics[column]:.4f}" for column in COLUMNS))
    console.print(table)
    console.print(_segment_table(rows, labels))


def _segment_table(rows: dict[str, dict[str, float]], labels: dict[str, str]) -> Table:
    questions = {name: rows["model"].get(f"{name}: {QUESTIONS}", 0) for name in SEGMENTS}
    table = Table(title="The same on targets that are new to the user, and on items without training events")
    table.add_column("model")
    for segment in SEGMENTS:
        for column in SEGMENT_COLUMNS:
            table.add_column(f"{segment} ({questions[segment]:.0f}), {column}", justify="right")
    for name, metrics in rows.items():
        keys = [segment_metric(segment, column) for segment in SEGMENTS for column in SEGMENT_COLUMNS]
        if all(key in metrics for key in keys):
            table.add_row(labels.get(name, name), *(f"{metrics[key]:.4f}" for key in keys))
    return table


def show_recommendations(runner: LoopRunner, ports: Ports) -> None:
    """Prints the endpoint's recommendations for one household beside its last purchases, by product name."""
    household = _rows(
        runner.warehouse,
        "select user_id from events where event_type = 'purchase' group by user_id"
        " having count(*) >= 20 order by max(event_time) desc, user_id limit 1",
    )[0][0]
    last = _rows(
        runner.warehouse,
        "select coalesce(items.title, items.item_id), max(events.event_time) as at from events"
        " inner join items on events.item_id = items.item_id where events.user_id = :user"
        " and events.event_type = 'purchase' group by items.item_id, items.title order by at desc, 1 limit 5",
        user=household,
    )
    at: datetime = last[0][1]
    body = {"user_id": household, "k": 10, "time": at.isoformat(), "record": False}
    url = f"{ports.url('endpoint')}/v1/recommendations"
    answer = httpx.post(url, json=body, timeout=30).json()
    table = Table(title=f"Household {household}, last purchases: {', '.join(row[0] for row in last)}")
    table.add_column("recommended next")
    table.add_column("score", justify="right")
    table.add_column("source")
    for item in answer["items"]:
        table.add_row(item["title"], f"{item['score']:.4f}", item["source"])
    runner.console.print(table)
    runner.console.print(f"curl -s {url} -d '{json.dumps(body)}'", soft_wrap=True, highlight=False)


def show_report(runner: LoopRunner) -> None:
    """Prints the monitoring report's headlines and its path."""
    written = monitoring.report()
    if written is None:
        raise InvariantError("There are no attributed outcomes to report. Run the verbs feedback and monitor")
    runner.console.print("\n[bold]Online results[/]")
    for headline in written.report.headlines:
        runner.console.print(f"  {headline}", highlight=False)
    runner.console.print(f"  Full report: {written.file.url}", soft_wrap=True, highlight=False)


def show_stages(runner: LoopRunner, total: float) -> None:
    """Prints the duration of each stage."""
    table = Table(title="Duration")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage, seconds in [*runner.stages, ("total", total)]:
        table.add_row(stage, f"{seconds:.0f}")
    runner.console.print(table)


def show_addresses(console: Console, ports: Ports) -> None:
    """Prints the URLs of the storefront, the console and the services."""
    sign_in = "(the admin token is in secrets.json)"
    addresses = {
        "storefront": f"{ports.url('endpoint')}/shop/",
        "console": f"{ports.url('console')}/console/  {sign_in}",
        **{name: ports.url(name) for name in ("airflow", "mlflow", "endpoint")},
        "data_docs": data_docs_url(ports),
    }
    for name, address in addresses.items():
        console.print(f"  {name:>10}  {address}", soft_wrap=True, highlight=False)


def _rows(warehouse: Engine, query: str, **parameters: object) -> list[tuple[Any, ...]]:
    with warehouse.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), parameters)]
