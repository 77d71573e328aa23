"""The registered model as an MLflow pyfunc, logged as code so that loading it unpickles nothing.

One input row is one request; `registry/pyfunc.py` has the signature. Lists have one entry per action, oldest first:

* `history`, `session`: item ids of the earlier actions and of those in the session; empty text for a search without
  an item.
* `history_times`, `session_times`: times of the actions in seconds since 1970. Those of a session default to `now`.
* `history_event_types`, `session_event_types`: `search`, `view`, `add_to_cart` or `purchase`. Default: all are `view`.
* `history_queries`, `session_queries`: queries of searches; empty text for other actions, whose queries are ignored.
* `now`: time of the request in seconds since 1970. Default: time of the call. The session starts at its first action,
  or at `now` if that is earlier; actions of the history after the start are ignored.
* `k`: maximum number of items. Default: 20.
* `user_id`: rows of one user with one history encode it once. The model has no histories of users by their id.

Output columns: `item_ids` and `scores`, best first. They are those of `POST /v1/recommendations` for the same actions,
without what the model does not hold: live signals, item updates, availability and merchandising rules.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pandas as pd

from recsys_tasks.engine.bundle import VOCABULARY, Bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.errors import InputError
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import EVENT_TYPE_CODES, SEARCH, VIEW
from recsys_tasks.wire.messages import RecommendationRequest

_DEFAULT_K = RecommendationRequest().k


class SessionRecommender(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Recommends with the endpoint's engine, from the actions in the input row alone."""

    def load_context(self, context: Any) -> None:
        """Loads the ONNX graphs and the vocabulary from the model's artifacts."""
        folder = Path(context.artifacts["network"])
        self._engine = Engine(Bundle.from_model(folder, Vocabulary.load(folder / VOCABULARY)))
        self._lock = threading.Lock()  # MLflow's server calls from several threads; the engine is not thread-safe

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Returns one list of items per input row, under the row's index.

        Raises:
            InputError: a row is invalid; the message says which one and why.
        """
        call_time, rows = time.time(), model_input.to_dict("records")
        requests = [_parse_row(label, row, call_time) for label, row in zip(model_input.index, rows, strict=True)]
        with self._lock:
            answers = [self._engine.recommend(*request) for request in requests]
        lists = {
            "item_ids": [[item.item_id for item in answer.items] for answer in answers],
            "scores": [[item.score for item in answer.items] for answer in answers],
        }
        return pd.DataFrame(lists, index=model_input.index)


class _Request(NamedTuple):
    """Arguments of `Engine.recommend`."""

    user_id: str | None
    past: list[Action]
    session: list[Action]
    now: float
    options: ListOptions


def _parse_row(label: Hashable, row: Mapping[str, Any], call_time: float) -> _Request:
    values = {name: value for name, value in row.items() if not _is_missing(value)}
    try:
        now = float(values.get("now", call_time))
        history = _parse_actions("history", values, None)
        session = sorted(_parse_actions("session", values, now), key=lambda action: action.seconds)
        start = min([now, *(action.seconds for action in session)])  # as at the endpoint
        return _Request(values.get("user_id"), history, session, start, ListOptions(_parse_k(values)))
    except InputError as error:
        raise InputError(f"Row {label}: {error}") from error


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _parse_k(values: Mapping[str, Any]) -> int:
    k = int(values.get("k", _DEFAULT_K))
    if k < 1:
        raise InputError(f"k is {k}. Ask for at least 1 item")
    return k


def _parse_actions(name: str, values: Mapping[str, Any], default_seconds: float | None) -> list[Action]:
    """Returns the actions of `history` or `session`.

    Args:
        name: the column of their items.
        values: the row's values that are not missing.
        default_seconds: time of actions without one; None if they need one.
    """
    items = _column(name, values)
    count = len(items)
    default_times = None if default_seconds is None else [default_seconds] * count
    columns = {
        f"{name}_event_types": _column(f"{name}_event_types", values, [VIEW] * count),
        f"{name}_times": _column(f"{name}_times", values, default_times),
        f"{name}_queries": _column(f"{name}_queries", values, [""] * count),
    }
    for column, entries in columns.items():
        if len(entries) != count:
            raise InputError(f"{column} has {len(entries)} entries, but {name} has {count}. Give one per action")
    if f"{name}_event_types" not in values and any(map(_text, columns[f"{name}_queries"])):
        raise InputError(f"{name}_queries has a query. Give {name}_event_types, too: `search` for this action")
    return [_parse_action(name, *action) for action in enumerate(zip(items, *columns.values(), strict=True))]


def _column(name: str, values: Mapping[str, Any], default: Sequence[Any] | None = None) -> Sequence[Any]:
    entries = values.get(name, default)
    if entries is None:
        raise InputError(f"{name} is missing. Give a list, which may be empty")
    return entries  # type: ignore[no-any-return]


def _parse_action(name: str, index: int, action: tuple[Any, Any, Any, Any]) -> Action:
    """Returns an action from its item, event type, time and query; `name` and `index` say where it is."""
    item, event_type, seconds, query = action
    if event_type not in EVENT_TYPE_CODES:
        known = ", ".join(EVENT_TYPE_CODES)
        raise InputError(f"{name}_event_types[{index}] is {event_type!r}. Use one of {known}")
    if not math.isfinite(seconds):
        raise InputError(f"{name}_times[{index}] is {seconds}. Give seconds since 1970")
    item_id, is_search = _text(item), event_type == SEARCH
    query = _text(query) if is_search else ""
    if is_search and not query:
        raise InputError(f"{name}_queries[{index}] is empty, but the action is a search. Give its query")
    if not is_search and not item_id:
        raise InputError(f"{name}[{index}] is {item!r}, but the action is a {event_type}. Give an item id as text")
    return Action(item_id, event_type, float(seconds), query=query)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""  # MLflow turns a missing text in a list into NaN


mlflow.models.set_model(SessionRecommender())
