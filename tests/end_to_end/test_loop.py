"""`make run` on a sample of the real data: killed, restarted, and the loop closes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
import sqlalchemy
from sqlalchemy import text

from recsys_tasks.stack.processes import stop_stack_processes
from recsys_tasks.warehouse import embedded
from tests.integration.ingesting import ingest
from tests.pages.pictures import take_pictures

_SAMPLE = {
    "RECSYS_SAMPLE_USERS": "200",
    "RECSYS_MIN_ITEM_EVENTS": "5",
    "RECSYS_TRAINING_SECONDS": "30",
    "RECSYS_WARM_START_SECONDS": "6",
    "RECSYS_SIMULATION_START": "2017-12-18T00:00:00+00:00",  # two weekly runs of ingestion before it
    "RECSYS_TEXT_ENCODER": "none",  # 6,280 titles take minutes beside the other tests
    # Once a year: a scheduled collection after the second day would start another training.
    "RECSYS_FEEDBACK_SCHEDULE": "0 0 1 1 *",
    "RECSYS_LANDING_SCHEDULE": "0 0 1 1 *",
    "RECSYS_RECONCILE_SCHEDULE": "0 0 1 1 *",
}
_UNKNOWN_WORD = "qwortsel"  # no item has it
_SEARCH_MAPPING = """
source = "searches"
format = "csv"
implies_users = true

[columns]
event_id = "id"
user_id = "who"
item_id = "what"
event_type = "did"
event_time = "when"
query = "query"
"""
_MIN_PICTURE_BYTES = 20_000  # an empty page has less
_LATER = datetime(2018, 6, 1, 10, tzinfo=UTC)  # no event is recent enough to trend


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder
    stop_stack_processes(folder)


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, **_SAMPLE, "RECSYS_HOME": str(home), "COLUMNS": "200"}


def _start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "recsys_tasks.stack", *arguments],
        env=_environment(home),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _remaining_processes(home: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in " ".join([*process.cmdline(), *process.environ().values()]) and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def _champion_items(mlflow: str, viewed: str) -> list[str]:
    """Items that the registry's champion recommends after a view, long after all events."""
    program = (
        "import json, mlflow, pandas as pd, sys\n"
        "model = mlflow.pyfunc.load_model('models:/session-recommender@champion')\n"
        "row = {'history': [], 'history_times': [], 'session': [sys.argv[1]], 'now': float(sys.argv[2]), 'k': 5}\n"
        "print(json.dumps(model.predict(pd.DataFrame([row]))['item_ids'][0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, viewed, str(_LATER.timestamp())],
        env={**os.environ, "MLFLOW_TRACKING_URI": mlflow},
        capture_output=True,
        text=True,
        cwd=os.sep,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return list(json.loads(done.stdout.splitlines()[-1]))


def _endpoint_items(address: str, viewed: str) -> list[str]:
    """Items that the endpoint recommends for the same."""
    moment = _LATER.isoformat()
    view = {"item_id": viewed, "event_type": "view", "event_time": moment}
    request = {"session": [view], "time": moment, "k": 5, "record": False}
    answer = httpx.post(f"{address}/v1/recommendations", json=request).raise_for_status()
    return [item["item_id"] for item in answer.json()["items"]]


def _ingest_clicked_searches(home: Path) -> str:
    """Ingests searches of thirty people for a word that no item has, each followed by a purchase of one item; returns
    the item's id."""
    server = embedded.start(home)
    engine = sqlalchemy.create_engine(embedded.url(server, "warehouse"))
    with engine.connect() as connection:
        middle, item_id = connection.execute(
            text(
                "select percentile_disc(0.5) within group (order by event_time), mode() within group (order by item_id)"
                " from events"
            )
        ).one()
    rows = ["id,who,what,did,when,query"]
    for person in range(30):
        searched = middle + timedelta(minutes=person)
        for kind, item, query, at in (
            ("search", "", _UNKNOWN_WORD, searched),
            ("purchase", item_id, "", searched + timedelta(seconds=20)),
        ):
            rows.append(f"{kind}-{person},searcher-{person},{item},{kind},{at.isoformat()},{query}")
    file = home / "searches.csv"
    file.write_text("\n".join([*rows, ""]), encoding="utf-8")
    mapping = home / "searches.toml"
    mapping.write_text(_SEARCH_MAPPING, encoding="utf-8")
    (report,) = ingest(engine, home, str(mapping), file)
    assert (report.inserted, report.quarantined) == (60, 0)
    engine.dispose()
    server.cleanup()
    return str(item_id)


def test_the_loop_closes_after_a_kill_in_the_middle(home: Path, tmp_path: Path) -> None:
    killed = _start(home, "--once")
    assert killed.stdout is not None
    for line in killed.stdout:
        if "done" in line and "ingest_events" in line:
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    chosen = _ingest_clicked_searches(home)

    again = _start(home, "--once")
    output, _ = again.communicate(timeout=2_000)
    assert again.returncode == 0, output
    assert _remaining_processes(home) == []

    for part in (
        "airflow",
        "mlflow",
        "data_docs",
        "endpoint",
        "personal_frequency",
        "recommended next",
        "curl -s",
        "report.html",
    ):
        assert part in output
    assert re.search(r"The endpoint serves version \d+", output)

    server = embedded.start(home)
    engine = sqlalchemy.create_engine(embedded.url(server, "warehouse"))
    with engine.connect() as connection:
        loaded = connection.execute(
            text(
                "select sum(read_rows), sum(inserted_rows), sum(quarantined_rows), sum(duplicate_rows)"
                " from batches where status = 'loaded'"
            )
        ).one()
        events, ids = connection.execute(text("select count(*), count(distinct event_id) from events")).one()
        feedback = connection.execute(
            text("select event_type, count(*) from events where source = 'feedback' group by event_type order by 1")
        ).all()
        clicked = connection.scalar(
            text(
                "select count(*) from events"
                " where source = 'feedback' and request_id is not null and event_type = 'purchase'"
            )
        )
        promotions = connection.scalar(text("select count(*) from promotions"))
    engine.dispose()
    airflow = sqlalchemy.create_engine(embedded.url(server, "airflow"))
    with airflow.connect() as connection:
        notes = connection.scalars(text("select content from dag_run_note")).all()
    airflow.dispose()
    assert any("inserted" in note and "quarantined" in note for note in notes)
    assert loaded[0] == loaded[1] + loaded[2] + loaded[3]
    assert events == ids
    assert {row[0] for row in feedback} == {"impression", "search", "view", "add_to_cart", "purchase"}
    report = (home / "report.html").read_text(encoding="utf-8")
    for part in ("Offline against online", "Monitors", "is the model worth it", "data:image/svg+xml", "in quarantine"):
        assert part in report
    assert clicked
    assert promotions == 3  # the first lists, the first training, and the one with feedback

    server.cleanup()

    third = _start(home)  # every stage is complete: it only serves until Ctrl-C
    assert third.stdout is not None
    shown = ""
    for line in third.stdout:
        shown += line
        if "stays up" in line:
            break
    assert "train_model" not in shown
    (address,) = set(re.findall(r"endpoint +(http://\S+)", shown))
    request = {"user_id": "1", "time": "2017-12-26T10:00:00Z", "record": False}
    answer = httpx.post(f"{address}/v1/recommendations", json=request)
    assert {item["source"] for item in answer.json()["items"]} == {"model"}
    found = httpx.post(f"{address}/v1/search", json={"query": _UNKNOWN_WORD, "record": False}).json()
    assert (found["fallback"], found["items"][0]["item_id"]) == (False, chosen), "learned from what people bought"
    (mlflow,) = set(re.findall(r"mlflow +(http://\S+)", shown))
    viewed = answer.json()["items"][0]["item_id"]
    assert _champion_items(mlflow, viewed) == _endpoint_items(address, viewed)
    take_pictures(home, tmp_path)  # searches and opens a product in a browser; a script that fails ends it
    assert all((tmp_path / name).stat().st_size > _MIN_PICTURE_BYTES for name in ("storefront.png", "console.png"))
    third.send_signal(signal.SIGINT)
    third.communicate(timeout=60)
    assert third.returncode == 0
    assert _remaining_processes(home) == []
