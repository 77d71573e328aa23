"""DAGs by `airflow dags test`, each task in one process; the end-to-end test runs the whole loop in a scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy
from sqlalchemy import text

from recsys_tasks.stack.environment import Ports, find_free_port, stack_environment
from recsys_tasks.stack.processes import stop_stack_processes
from recsys_tasks.warehouse import embedded
from tests.integration.airflow_commands import AirflowCommands
from tests.integration.ingesting import csv_line, set_old_mtime, write_csv, write_mapping

ROOT = Path(__file__).parents[2]
_commands: dict[str, AirflowCommands] = {}  # by AIRFLOW_HOME


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a stack with a running PostgreSQL and endpoint, and a migrated Airflow database."""
    home = tmp_path_factory.mktemp("home")
    server = embedded.start(home)
    ports = Ports(*(find_free_port() for _ in range(4)))
    environment = stack_environment(home, ROOT / "dags", embedded.socket_folder(server), ports)
    environment |= {
        "RECSYS_MLFLOW_TRACKING_URI": embedded.url(server, "mlflow"),
        "RECSYS_SAMPLE_USERS": "25",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
            {"type": "file", "log_file_path": str(home / "lineage.jsonl"), "append": True}
        ),
    }
    commands = AirflowCommands(environment, home / "airflow-output.txt")
    endpoint = subprocess.Popen(
        [sys.executable, "-m", "recsys_tasks", "serve", "--port", str(ports.endpoint)], env=environment
    )
    _commands[environment["AIRFLOW_HOME"]] = commands
    _airflow(environment, "db", "migrate")
    _wait_until_alive(ports.url("endpoint"))
    yield {**environment, "ENDPOINT": ports.url("endpoint")}
    commands.close()
    endpoint.terminate()
    endpoint.wait(20)
    stop_stack_processes(home)


def _wait_until_alive(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            assert httpx.get(f"{url}/healthz").status_code == 200
            return
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the endpoint did not come up"


def _airflow(environment: dict[str, str], *arguments: str, fails: bool = False) -> str:
    status, output = _commands[environment["AIRFLOW_HOME"]].run(environment, arguments)
    assert (status != 0) == fails, output[-8_000:]
    return output


def _task_states(environment: dict[str, str], dag_id: str) -> dict[object, object]:
    """States of the last two tasks of the latest run of the DAG that ingests the landing folder."""
    query = (
        "select distinct on (task_id) task_id, state from task_instance"
        f" where dag_id = '{dag_id}' and task_id in ('announce', 'summary') order by task_id, start_date desc"
    )
    rows = _rows(environment, query, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
    return {task_id: state for task_id, state in rows}


def _rows(environment: dict[str, str], query: str, database: str = "RECSYS_WAREHOUSE_URL") -> list[tuple[object, ...]]:
    engine = sqlalchemy.create_engine(environment[database])
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(query))]
    engine.dispose()
    return found


def test_a_week_is_ingested(stack: dict[str, str]) -> None:
    _airflow(stack, "dags", "test", "ingest_events", "2017-12-11")
    assert _rows(stack, "select count(*) > 10000, max(event_time) < '2017-12-12' from events") == [(True, True)]


def test_events_of_the_endpoint_are_collected_once(stack: dict[str, str]) -> None:
    bought = {"event_type": "purchase", "user_id": "1", "item_id": "1082185", "event_time": "2017-12-12T10:05:00Z"}
    httpx.post(f"{stack['ENDPOINT']}/v1/events", json=bought).raise_for_status()
    for _ in range(2):
        _airflow(stack, "dags", "test", "collect_feedback")
    found = _rows(stack, "select event_type, count(*) from events where source = 'feedback' group by 1")
    assert found == [("purchase", 1)]


def test_landing_files_are_ingested_one_by_one_and_an_invalid_one_stops_no_other(stack: dict[str, str]) -> None:
    shop = Path(stack["RECSYS_HOME"]) / "landing" / "shop"
    shop.mkdir(parents=True)
    write_mapping(shop)
    for name, lines in (("a.csv", [csv_line(1), csv_line(2)]), ("c.csv", [csv_line(2), csv_line(3)])):
        set_old_mtime(write_csv(shop / name, lines))
    set_old_mtime(write_csv(shop / "b.csv", [])).write_text("who,what\n", encoding="utf-8")
    set_old_mtime(shop / "b.csv")
    failed = _airflow(stack, "dags", "test", "ingest_landing", fails=True)
    assert "1 of 3 files failed" in failed
    assert "no column 'id'; the file has who, what" in failed
    assert _task_states(stack, "ingest_landing") == {"announce": "success", "summary": "failed"}
    assert _rows(stack, "select count(*) from events where source = 'shop'") == [(3,)]
    (shop / "b.csv").unlink()
    _airflow(stack, "dags", "test", "ingest_landing")  # nothing new
    assert _task_states(stack, "ingest_landing") == {"announce": "skipped", "summary": "success"}
    assert _rows(stack, "select count(*) from landed_files") == [(2,)]


def test_changed_days_are_partitions_of_the_events_and_days_in_the_past_are_rebuilt(stack: dict[str, str]) -> None:
    keys = "select partition_key from asset_event join asset on asset.id = asset_id where name = 'events'"
    announced = _rows(stack, keys, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
    assert {("2017-02-01",), ("2017-12-04",), ("2024-07-02",), (None,)} <= set(announced)
    _airflow(stack, "dags", "test", "build_features")
    latest = _rows(stack, "select snapshot_id from snapshots")
    _airflow(stack, "dags", "test", "rebuild_days", "2017-12-04")
    rebuilt = "select cutoff = '2017-12-05 00:00:00+00', has_explicit_cutoff from snapshots where has_explicit_cutoff"
    assert _rows(stack, rebuilt) == [(True, True)]
    shown = subprocess.run(
        [sys.executable, "-m", "recsys_tasks", "status", "--json"],
        env=stack,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(shown.stdout)["last_snapshot"] == latest[0][0]
    keys = "select partition_key from asset_event join asset on asset.id = asset_id where name = 'snapshot'"
    assert set(_rows(stack, keys, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")) >= {("2017-12-04",), (None,)}


def test_a_source_has_a_dag_of_its_own_that_fetches_its_files_by_date(stack: dict[str, str]) -> None:
    sources = Path(stack["RECSYS_HOME"]) / "sources"
    sources.mkdir()
    delivered = Path(stack["RECSYS_HOME"]) / "delivered"
    (delivered / "2024-07-02").mkdir(parents=True)
    write_csv(delivered / "2024-07-02" / "a.csv", [csv_line(101, when="2024-07-02T08:00:00Z")])
    mapping = Path(write_mapping(sources, source="partner"))
    delivery = f'\n[delivery]\npath = "{delivered}/{{date}}/*.csv"\nwait_hours = 0.0001\n'
    (sources / "partner.toml").write_text(mapping.read_text(encoding="utf-8") + delivery, encoding="utf-8")
    (sources / "broken.toml").write_text("source = 7", encoding="utf-8")
    mapping.unlink()
    _airflow(stack, "dags", "test", "ingest_source_partner", "2024-07-03")
    assert _rows(stack, "select event_id from events where source = 'partner'") == [("e101",)]
    assert "broken.toml" in _airflow(stack, "dags", "test", "ingest_source_broken", fails=True)
    late = _airflow(stack, "dags", "test", "ingest_source_partner", "2024-07-04", fails=True)
    assert "2024-07-03/*.csv" in late


def _lineage(stack: dict[str, str], task: str, state: str = "COMPLETE") -> list[dict[str, Any]]:
    """Lineage events of a task, by the names of its DAG and of itself."""
    lines = (Path(stack["RECSYS_HOME"]) / "lineage.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    return [event for event in events if (event["job"]["name"], event["eventType"]) == (task, state)]


def test_lineage_reports_batches_datasets_and_snapshots(stack: dict[str, str]) -> None:
    loaded = _lineage(stack, "ingest_events.load")[-1]
    batches = {batch["batch_id"]: batch["inserted"] for batch in loaded["run"]["facets"]["recsys_batches"]["batches"]}
    query = "select batch_id, inserted_rows from batches where source = 'complete_journey'"
    assert batches.items() <= set(_rows(stack, query))
    assert sum(batches.values()) > 0
    announced = _lineage(stack, "ingest_events.announce")[-1]
    assert announced["outputs"][0]["name"] == "warehouse/events"
    built = _lineage(stack, "build_features.snapshot")[-1]
    assert [dataset["name"] for dataset in built["inputs"]] == ["warehouse/events"]
    [snapshot] = built["outputs"]
    [(snapshot_id,)] = _rows(stack, "select snapshot_id from snapshots where not has_explicit_cutoff")
    assert snapshot["facets"]["recsys_snapshot"]["snapshotId"] == snapshot_id
    assert snapshot["facets"]["version"]["datasetVersion"] == snapshot_id
    assert snapshot["namespace"] == "session-recommender"


def test_lineage_hides_secrets_that_a_task_learns(stack: dict[str, str], tmp_path: Path) -> None:
    dag = """
from airflow.sdk import dag, task
from airflow.sdk.log import mask_secret

@dag(schedule=None)
def leaks():
    @task
    def connect():
        mask_secret("correct-horse-battery")
        raise RuntimeError("cannot reach postgresql://shop:correct-horse-battery@db")
    connect()

leaks()
"""
    (tmp_path / "leaks.py").write_text(dag, encoding="utf-8")
    _airflow({**stack, "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path)}, "dags", "test", "leaks", fails=True)
    [failed] = _lineage(stack, "leaks.connect", "FAIL")
    assert "cannot reach postgresql://shop:***@db" in json.dumps(failed)
    assert "correct-horse-battery" not in json.dumps(failed)


def test_the_warehouse_is_maintained(stack: dict[str, str]) -> None:
    before = _rows(stack, "select count(*) from events")
    kept = {**stack, "RECSYS_EVENT_RETENTION_DAYS": "30", "RECSYS_SNAPSHOT_RETENTION_DAYS": "1"}
    output = _airflow(kept, "dags", "test", "maintain_warehouse", "--conf", '{"dry_run": true}')
    assert "would drop months events_2017_" in output
    assert _rows(stack, "select count(*) from events") == before
    _airflow(stack, "dags", "test", "maintain_warehouse")
    assert _rows(stack, "select count(*) from events") == before  # no event retention by default


def test_an_existing_airflow_needs_one_connection_only(stack: dict[str, str]) -> None:
    """Without RECSYS variables, a DAG reads its settings from the connection and logs no password."""
    url = sqlalchemy.make_url(stack["RECSYS_WAREHOUSE_URL"])
    bare = {name: value for name, value in stack.items() if not name.startswith("RECSYS_")}
    connection = {
        "conn_type": "postgres",
        "login": "postgres",
        "password": "p@ss word",
        "host": url.query["host"],
        "schema": url.database,
        "extra": {"home": stack["RECSYS_HOME"], "endpoint_urls": [stack["ENDPOINT"]], "keep_quarantine_days": "30"},
    }
    bare["AIRFLOW_CONN_RECSYS_WAREHOUSE"] = json.dumps(connection)
    output = _airflow(bare, "dags", "test", "maintain_warehouse", "--conf", '{"dry_run": true}')
    assert "would drop months none" in output


def test_a_batch_is_retracted_and_the_change_is_announced(stack: dict[str, str]) -> None:
    batch = "select batch_id from batches where source = 'shop' and status = 'loaded' order by number limit 1"
    ((batch_id,),) = _rows(stack, batch)
    _airflow(stack, "dags", "test", "retract_batch", "--conf", json.dumps({"batch_id": batch_id, "reason": "a test"}))
    assert _rows(stack, f"select status, message from batches where batch_id = '{batch_id}'") == [
        ("retracted", "a test")
    ]
    announced = "select partition_key from asset_event where source_dag_id = 'retract_batch'"
    keys = [key for (key,) in _rows(stack, announced, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")]
    assert keys.count(None) == 1  # starts the DAGs that follow events
    assert "2024-07-02" in keys


def test_a_late_source_is_noticed_once(stack: dict[str, str]) -> None:
    late = (
        "insert into sources (source, expected_every_hours, first_seen_at)"
        " values ('late', 1, now() - interval '2 hours')"
    )
    engine = sqlalchemy.create_engine(stack["RECSYS_WAREHOUSE_URL"])
    with engine.begin() as connection:
        connection.execute(text(late))
    engine.dispose()
    assert "late should deliver every 1 hours; last delivery: never" in _airflow(
        stack, "dags", "test", "monitor_sources"
    )
    assert _rows(stack, "select alerted_at is not null from sources where source = 'late'") == [(True,)]
    assert "late should deliver" not in _airflow(stack, "dags", "test", "monitor_sources")


def test_the_pages_of_airflow_answer(stack: dict[str, str]) -> None:
    """The graphs of assets and DAGs among them, whose query depends on the driver of Airflow's database."""
    _airflow(stack, "dags", "reserialize")
    script = (
        "from airflow.api_fastapi.app import create_app\n"
        "from fastapi.testclient import TestClient\n"
        "with TestClient(create_app(), raise_server_exceptions=False) as client:\n"
        "    token = client.get('/auth/token').json()['access_token']\n"
        "    for path in PATHS:\n"
        "        answer = client.get(path, headers={'Authorization': f'Bearer {token}'})\n"
        "        print('page', answer.status_code, path)\n"
    )
    graph = "/ui/structure/structure_data?external_dependencies=true&dag_id="
    paths = ["/ui/dependencies", "/ui/dags", "/ui/config", "/ui/dashboard/dag_stats", "/api/v2/assets"]
    paths += [f"{graph}{dag_id}" for dag_id in ("build_features", "train_model", "promote_model", "monitor_feedback")]
    output = _airflow(stack, "-c", f"PATHS = {paths}\n{script}")
    answers = [line for line in output.splitlines() if line.startswith("page")]
    assert answers == [f"page 200 {path}" for path in paths], output[-3_000:]


def test_acknowledged_events_survive_sigkill_of_the_endpoint(stack: dict[str, str], tmp_path: Path) -> None:
    environment = {**stack, "RECSYS_HOME": str(tmp_path)}
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    acknowledged: list[str] = []
    for start in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "recsys_tasks", "serve", "--port", str(port)],
            env=environment,
            start_new_session=True,
        )
        _wait_until_alive(url)
        for number in range(40):
            event = {"event_id": f"{start}-{number}", "event_type": "view", "user_id": "u", "item_id": "i"}
            httpx.post(f"{url}/v1/events", json=event).raise_for_status()
            acknowledged.append(event["event_id"])
        os.killpg(process.pid, 9)
        process.wait()
    journal = b"".join(path.read_bytes() for path in sorted((tmp_path / "endpoint" / "journal").glob("*.jsonl")))
    assert [json.loads(record)["event_id"] for record in journal.splitlines()] == acknowledged
