"""The registered model as an MLflow pyfunc: the endpoint's lists from the input row alone, and its input checks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from starlette.testclient import TestClient

from recsys_tasks.engine.bundle import VOCABULARY, Bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.engine.session_decoder import MAX_HISTORY_EVENTS, Action
from recsys_tasks.errors import InputError
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import ADD_TO_CART, PURCHASE, SEARCH, VIEW
from recsys_tasks.registry.pyfunc import log_pyfunc
from recsys_tasks.registry.tracking import client
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings, settings
from tests.conftest import database
from tests.integration.endpoints import install_bundle
from tests.shops import ITEMS, START

NOW = START.timestamp() - 86_400  # all items of the test's bundle are available


@pytest.fixture(scope="module")
def logged_model(
    postgres: str, tracking_template: str, bundles: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Folder of the logged model, downloaded from its run."""
    home = tmp_path_factory.mktemp("pyfunc")
    with (
        database(postgres, f"mlflow_{uuid.uuid4().hex[:12]}", tracking_template) as registry,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(home)
        patch.setenv("RECSYS_MLFLOW_TRACKING_URI", registry.url.render_as_string(hide_password=False))
        settings.cache_clear()
        mlflow_client = client()
        with mlflow.start_run() as run:
            log_pyfunc(bundles[0])
        model_id = mlflow_client.get_run(run.info.run_id).outputs.model_outputs[0].model_id
        yield Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=str(home / "downloaded")))
    settings.cache_clear()


@pytest.fixture(scope="module")
def model(logged_model: Path) -> Any:
    return mlflow.pyfunc.load_model(str(logged_model))


@pytest.fixture(scope="module")
def engine(bundles: list[Path]) -> Engine:
    """The endpoint's engine with the same model."""
    return Engine(Bundle.from_model(bundles[0], Vocabulary.load(bundles[0] / VOCABULARY)))


def _row(seed: int, num_history: int, num_session: int, k: int = 10) -> dict[str, Any]:
    """Returns a row with actions of all types, a fifth of them with unknown items."""
    random = np.random.default_rng(seed)
    row: dict[str, Any] = {"user_id": f"user {seed}", "now": NOW, "k": k}
    starts = {"history": (num_history, NOW - 90 * 86_400, 80 * 86_400), "session": (num_session, NOW - 600, 300)}
    for name, (count, start, seconds) in starts.items():
        types = [str(kind) for kind in random.choice([VIEW, ADD_TO_CART, PURCHASE, SEARCH], count)]
        row[name] = ["" if kind == SEARCH else f"i{random.integers(ITEMS * 5 // 4)}" for kind in types]
        row[f"{name}_event_types"] = types
        row[f"{name}_times"] = np.sort(start + random.integers(0, seconds, count)).astype(float).tolist()
        row[f"{name}_queries"] = ["red" if kind == SEARCH else "" for kind in types]
    return row


def _actions(row: dict[str, Any], name: str) -> list[Action]:
    columns = (row[name], *(row[f"{name}_{suffix}"] for suffix in ("event_types", "times", "queries")))
    return [Action(item, kind, at, query=query) for item, kind, at, query in zip(*columns, strict=True)]


def _lists(frame: pd.DataFrame) -> list[list[tuple[str, float]]]:
    columns = zip(frame["item_ids"], frame["scores"], strict=True)
    return [list(zip(item_ids, scores, strict=True)) for item_ids, scores in columns]


def _approximately(lists: list[list[tuple[str, float]]]) -> Any:
    """Equal items; scores up to rounding, which depends on what the engine's caches hold."""
    return [[(item_id, pytest.approx(score, rel=1e-5)) for item_id, score in items] for items in lists]


def _predict(model: Any, **row: Any) -> list[tuple[str, float]]:
    return _lists(model.predict(pd.DataFrame([row])))[0]


ROWS = [
    _row(0, 100, 3),
    _row(1, MAX_HISTORY_EVENTS + 200, 2),
    _row(2, 0, 2),
    _row(3, 5, 0, k=3),
    _row(4, 0, 0),
    _row(5, 30, 250),
]


def test_lists_are_those_of_the_engine(model: Any, engine: Engine) -> None:
    frame = pd.DataFrame(ROWS, index=pd.Index([f"request {number}" for number in range(len(ROWS))]))
    predicted = model.predict(frame)
    expected = []
    for row in ROWS:
        session = _actions(row, "session")
        start = min([NOW, *(action.seconds for action in session)])
        answer = engine.recommend(None, _actions(row, "history"), session, start, ListOptions(row["k"]))
        expected.append([(item.item_id, item.score) for item in answer.items])
    assert _lists(predicted) == _approximately(expected)
    assert all(expected)
    assert predicted.index.equals(frame.index)


@pytest.mark.parametrize("row", [ROWS[0], ROWS[1], ROWS[2]], ids=["history", "long history", "session only"])
def test_lists_are_those_of_the_endpoint(model: Any, bundles: list[Path], tmp_path: Path, row: dict[str, Any]) -> None:
    install_bundle(tmp_path, bundles[0])
    history = [{"user_id": row["user_id"], **event} for event in _events(row, "history")]
    request = {
        "user_id": row["user_id"],
        "session": _events(row, "session"),
        "time": _timestamp(row["now"]),
        "k": row["k"],
        "record": False,
    }
    with TestClient(create_app(Settings(home=tmp_path))) as endpoint:
        if history:
            assert endpoint.post("/v1/events", json=history).status_code == 200
        answer = endpoint.post("/v1/recommendations", json=request).json()
    items = [(item["item_id"], item["score"]) for item in answer["items"]]
    assert [_predict(model, **row)] == _approximately([items])


def _events(row: dict[str, Any], name: str) -> list[dict[str, str]]:
    """Returns actions of a row as the endpoint's events."""
    return [
        {"event_type": action.event_type, "event_time": _timestamp(action.seconds)}
        | ({"query": action.query} if action.event_type == SEARCH else {"item_id": action.item_id})
        for action in _actions(row, name)
    ]


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def test_without_event_types_and_session_times_all_actions_are_views_and_the_session_is_now(model: Any) -> None:
    row = {
        "history": ["i1", "i2"],
        "history_times": [NOW - 9e4, NOW - 8e4],
        "session": ["i3", "i4"],
        "now": NOW,
        "k": 5,
    }
    explicit = row | {
        "history_event_types": [VIEW, VIEW],
        "session_event_types": [VIEW, VIEW],
        "session_times": [NOW, NOW],
    }
    purchases = row | {"history_event_types": [PURCHASE, PURCHASE]}
    assert [_predict(model, **row)] == _approximately([_predict(model, **explicit)])
    assert [_predict(model, **row)] != _approximately([_predict(model, **purchases)])


def test_without_now_and_k_the_request_is_of_the_time_of_the_call_with_20_items(model: Any) -> None:
    row = {"history": ["i1", "i2"], "history_times": [NOW, NOW], "session": ["i3"]}
    before = _predict(model, **row, now=time.time(), k=20)
    predicted = [_predict(model, **row)]
    after = _predict(model, **row, now=time.time(), k=20)
    assert predicted in (_approximately([before]), _approximately([after]))  # the hour may change between them
    assert predicted != _approximately([_predict(model, **row, now=NOW, k=20)])
    assert len(before) == 20


def test_missing_values_of_one_row_are_its_defaults(model: Any) -> None:
    full = ROWS[0]
    base = {"history": ["i1"], "history_times": [NOW - 9e4], "session": ["i2"], "now": NOW, "k": 5}
    frame = pd.DataFrame([full, {**dict.fromkeys(full), **base}])
    assert _lists(model.predict(frame)) == _approximately([_predict(model, **full), _predict(model, **base)])


def test_an_empty_frame_gives_an_empty_frame(model: Any) -> None:
    predicted = model.predict(pd.DataFrame(ROWS).head(0))
    assert list(predicted.columns) == ["item_ids", "scores"]
    assert predicted.empty


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history_times": [NOW]}, "history_times has 1 entries, but history has 2"),
        ({"session_event_types": [VIEW, VIEW]}, "session_event_types has 2 entries, but session has 1"),
        ({"history_event_types": [VIEW, "like"]}, r"history_event_types\[1\] is 'like'. Use one of search, view"),
        ({"history_times": [NOW, float("nan")]}, r"history_times\[1\] is nan"),
        ({"session_event_types": [SEARCH]}, r"session_queries\[0\] is empty, but the action is a search"),
        ({"session_queries": ["red"]}, "session_queries has a query. Give session_event_types"),
        ({"history": ["i1", ""]}, r"history\[1\] is '', but the action is a view"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_an_invalid_row_is_named_with_its_column(model: Any, changes: dict[str, Any], message: str) -> None:
    valid = {"history": ["i1", "i2"], "history_times": [NOW, NOW], "session": ["i3"], "now": NOW, "k": 5}
    with pytest.raises(InputError, match=f"Row 7: {message}"):
        model.predict(pd.DataFrame([valid | changes], index=[7]))


@pytest.mark.parametrize("column", ["history", "history_times", "session"])
def test_the_signature_requires_the_essential_columns(model: Any, column: str) -> None:
    with pytest.raises(MlflowException, match=rf"missing inputs \['{column}'\]"):
        model.predict(pd.DataFrame(ROWS).drop(columns=column))


def test_logging_leaves_the_import_path_as_it_was(logged_model: Path) -> None:
    assert {folder for folder in sys.path if folder.endswith("code")} <= {str(logged_model / "code")}  # of a loaded one


ISOLATED = """
import sys
sys.path.append(sys.argv[2])  # without their .pth files, which may lead to this repository
not_required = ["torch", "pydantic_settings", "tantivy", "icu4py", "opencc", "rapidfuzz", "Stemmer"]
sys.modules.update(dict.fromkeys(not_required))
import json, mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
predicted = model.predict(pd.DataFrame(json.load(sys.stdin)))
import recsys_tasks
columns = {name: predicted[name].tolist() for name in ("item_ids", "scores")}
print(json.dumps({"package": recsys_tasks.__file__, "columns": columns}))
"""


def test_the_logged_model_loads_without_this_package(model: Any, logged_model: Path, tmp_path: Path) -> None:
    site_packages = Path(mlflow.__file__).parents[1]
    command = [sys.executable, "-I", "-S", "-c", ISOLATED, str(logged_model), str(site_packages)]
    done = subprocess.run(command, input=json.dumps(ROWS), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    assert Path(printed["package"]).is_relative_to(logged_model)
    predicted = _lists(model.predict(pd.DataFrame(ROWS)))
    assert _lists(pd.DataFrame(printed["columns"])) == _approximately(predicted)
