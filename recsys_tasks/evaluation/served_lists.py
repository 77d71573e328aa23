"""Evaluation by the endpoint's engine, so that the evaluated lists are those that callers get."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys_tasks.engine.bundle import Bundle, Histories
from recsys_tasks.engine.catalog import Catalog, CatalogColumns
from recsys_tasks.engine.engine import Answer, Engine
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.engine.second_stage import CandidateFeatures, Candidates
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.evaluation.metrics import MISSED
from recsys_tasks.evaluation.protocol import LIST_LENGTH, PredictionTasks, RankingResult
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.features.serving_data import history_columns
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM

_SESSION_SECONDS = 30 * 60.0
_EVENT_TYPES = {code: name for name, code in EVENT_TYPE_CODES.items()}


class Moments(NamedTuple):
    """Moments at which users are shown a list [B], as places in a timeline.

    Attributes:
        user: index of the user.
        first: first event of the running session. The history are the user's events before it that are earlier than
            `seconds`: sessions overlap, and the engine leaves the others out.
        stop: end of the session's events so far; equal to `first` for none.
        seconds: start of the session, or the moment itself before the session's first event.
    """

    user: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    seconds: np.ndarray

    @classmethod
    def of_tasks(cls, timeline: Timeline, tasks: PredictionTasks) -> Moments:
        """Returns the moments before the targets of tasks."""
        return cls(timeline.user[tasks.first], tasks.first, tasks.target, timeline.session_seconds[tasks.first])

    @classmethod
    def of_users(cls, timeline: Timeline, user: np.ndarray, seconds: np.ndarray) -> Moments:
        """Returns moments of users [B] at times [B]. A session, with an id or without, runs for 30 minutes after its
        latest event."""
        found = [_moment(timeline, *pair) for pair in zip(user.tolist(), seconds.tolist(), strict=True)]
        first, stop, start = (np.asarray(column) for column in zip(*found, strict=True)) if found else [np.zeros(0)] * 3
        return cls(user, first.astype(np.int64), stop.astype(np.int64), start)


def _moment(timeline: Timeline, user: int, at: float) -> tuple[int, int, float]:
    begin, end = timeline.user_start[user : user + 2].tolist()
    seconds = np.where(timeline.seconds[begin:end] < at, timeline.seconds[begin:end], -np.inf)
    latest = begin + int(seconds.argmax())
    if at - timeline.seconds[latest] > _SESSION_SECONDS or not np.isfinite(seconds.max()):
        before = begin + int(np.searchsorted(timeline.session_seconds[begin:end], at))
        return before, before, at
    first = int(timeline.session_start[timeline.session[latest]])
    return first, latest + 1, float(timeline.session_seconds[latest])


def answer_moments(
    folder: Path, encoded: EncodedSnapshot, moments: Moments, catalog: CatalogColumns | None, k: int
) -> Callable[[int], Answer]:
    """Returns a function that answers the moment of a number as the endpoint would, without live signals.

    Args:
        folder: exported model.
        encoded: snapshot, encoded with the model's vocabulary.
        moments: places in its timeline.
        catalog: item metadata; None for a catalog in which everything is always available.
        k: length of the lists.
    """
    engine, options = _engine_at(folder, encoded, moments, catalog), ListOptions(k)

    def answer(row: int) -> Answer:
        return engine.recommend(str(row), (), *_session_at(encoded, moments, row), options)

    return answer


def list_candidates(
    folder: Path, encoded: EncodedSnapshot, moments: Moments, catalog: CatalogColumns | None
) -> Iterator[Candidates | None]:
    """Yields the candidates of the second stage at moments; None where the model does not score the items. See
    `answer_moments`."""
    engine = _engine_at(folder, encoded, moments, catalog)
    features = CandidateFeatures(engine.bundle)
    for row in range(len(moments.user)):
        yield engine.candidates(str(row), *_session_at(encoded, moments, row), features)


def _session_at(encoded: EncodedSnapshot, moments: Moments, row: int) -> tuple[list[Action], float]:
    """The actions of the session at a moment, and its start."""
    return session_actions(encoded, int(moments.first[row]), int(moments.stop[row])), float(moments.seconds[row])


def _engine_at(folder: Path, encoded: EncodedSnapshot, moments: Moments, catalog: CatalogColumns | None) -> Engine:
    """An engine in which the user of each moment is known by its number, with the history until then."""
    timeline, vocabulary = encoded.timeline, encoded.vocabulary
    bundle = Bundle.from_model(folder, vocabulary)
    columns = history_columns(timeline, timeline.user_start[moments.user], moments.first)
    # The endpoint has no history of visitors without an id.
    row_of = {str(row): row for row, user in enumerate(moments.user.tolist()) if encoded.user_ids[user] is not None}
    bundle = replace(bundle, histories=Histories(row_of, popularity=bundle.histories.popularity, **columns))
    if catalog is not None:
        bundle = replace(bundle, catalog=Catalog(vocabulary, catalog))
    return Engine(bundle)


def list_served(
    folder: Path, encoded: EncodedSnapshot, moments: Moments, catalog: CatalogColumns | None, k: int
) -> np.ndarray:
    """Returns the item numbers [B, k] that the endpoint would list at moments, padded with 0; see `answer_moments`."""
    answer = answer_moments(folder, encoded, moments, catalog, k)
    lists = np.zeros((len(moments.user), k), np.int64)
    number_of = encoded.vocabulary.number_of
    for row in range(len(lists)):
        listed = [number_of[item.item_id] for item in answer(row).items]
        lists[row, : len(listed)] = listed
    return lists


def rank_served(
    folder: Path, encoded: EncodedSnapshot, tasks: PredictionTasks, catalog: CatalogColumns | None = None
) -> RankingResult:
    """Ranks the targets of tasks in the lists that the endpoint would answer with; see `answer_moments`."""
    moments = Moments.of_tasks(encoded.timeline, tasks)
    lists = list_served(folder, encoded, moments, catalog, LIST_LENGTH)
    target = encoded.timeline.item[tasks.target]
    hit = (lists == target[:, None]) & (target[:, None] >= FIRST_ITEM)
    return RankingResult(np.where(hit.any(1), 1 + hit.argmax(1), MISSED), lists)


def session_actions(encoded: EncodedSnapshot, first: int, target: int) -> list[Action]:
    """Returns the events from `first` to before `target` as actions of a running session.

    A search is represented by the words of its query that the model knows.
    """
    timeline, vocabulary = encoded.timeline, encoded.vocabulary
    actions = []
    for index in range(first, target):
        number, words = int(timeline.item[index]), timeline.queries[timeline.text[index]]
        item_id = vocabulary.item_id(number) if number >= FIRST_ITEM else ""
        query = " ".join(vocabulary.token_names[word] for word in words.tolist() if word)
        actions.append(
            Action(item_id, _EVENT_TYPES[int(timeline.kind[index])], float(timeline.seconds[index]), query=query)
        )
    return actions
