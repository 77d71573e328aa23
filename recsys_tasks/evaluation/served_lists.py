"""Evaluation by the endpoint's engine, so that the evaluated lists are those that callers get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys_tasks.engine.bundle import Bundle, Histories
from recsys_tasks.engine.catalog import Catalog, CatalogColumns
from recsys_tasks.engine.engine import Answer, Engine
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.evaluation.metrics import MISSED
from recsys_tasks.evaluation.protocol import LIST_LENGTH, PredictionTasks, RankingResult
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.serving_data import history_columns
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM

_EVENT_TYPES = {code: name for name, code in EVENT_TYPE_CODES.items()}


def answer_tasks(
    folder: Path, encoded: EncodedSnapshot, tasks: PredictionTasks, catalog: CatalogColumns | None = None
) -> Callable[[int], Answer]:
    """Returns a function that answers the task of a number as the endpoint would at the start of its session.

    Args:
        folder: exported model.
        encoded: snapshot, encoded with the model's vocabulary.
        tasks: prediction tasks.
        catalog: item metadata; None for a catalog in which everything is always available.
    """
    timeline, vocabulary = encoded.timeline, encoded.vocabulary
    bundle = Bundle.from_model(folder, vocabulary)
    users = timeline.user[tasks.first]
    columns = history_columns(timeline, timeline.user_start[users], tasks.first)
    # The endpoint has no history of visitors without an id.
    row_of = {str(row): row for row, user in enumerate(users.tolist()) if encoded.user_ids[user] is not None}
    bundle = replace(bundle, histories=Histories(row_of, popularity=bundle.histories.popularity, **columns))
    if catalog is not None:
        bundle = replace(bundle, catalog=Catalog(vocabulary, catalog))
    engine = Engine(bundle)

    def answer(row: int) -> Answer:
        first, target = int(tasks.first[row]), int(tasks.target[row])
        session = session_actions(encoded, first, target)
        return engine.recommend(str(row), (), session, float(timeline.session_seconds[first]), ListOptions(LIST_LENGTH))

    return answer


def rank_served(
    folder: Path, encoded: EncodedSnapshot, tasks: PredictionTasks, catalog: CatalogColumns | None = None
) -> RankingResult:
    """Ranks the targets of tasks in the lists that the endpoint would answer with; see `answer_tasks`."""
    answer = answer_tasks(folder, encoded, tasks, catalog)
    lists = np.zeros((len(tasks), LIST_LENGTH), np.int64)
    number_of = encoded.vocabulary.number_of
    for row in range(len(tasks)):
        listed = [number_of[item.item_id] for item in answer(row).items]
        lists[row, : len(listed)] = listed
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
