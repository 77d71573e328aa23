"""Rival servers for the endpoint benchmark: `python benchmarks/rivals.py pytorch|vmis_knn|precomputed BUNDLE PORT`.

Plain FastAPI in one process: with the same network in PyTorch on one thread and the same histories, with VMIS-kNN over
the same sessions, or with one precomputed list for each user, as servers like Gorse keep them in a cache (here in the
memory of the process, which is faster than Redis). They accept the same requests and return lists of the same length,
without filters, rules, explanations, live state or impression logging.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from recsys_tasks.engine.bundle import read_bundle
from recsys_tasks.features.sequences import build_timeline, session_inputs
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.model.files import load_model
from recsys_tasks.model.incremental import score_items
from recsys_tasks.model.tensors import Events, Query
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, VIEW

_HISTORY = 512
_SESSION = 5  # events per session, as in benchmarks.bundles
_LISTED = 100
Scores = Callable[[str | None, list[int], float], np.ndarray]
Ranked = list[tuple[int, float]]
"""Item numbers and scores, best first."""
Rank = Callable[[str | None, list[int], float, int], Ranked]


class SessionEvent(BaseModel):
    """An event of the session."""

    item_id: str
    event_time: datetime


class Request(BaseModel):
    """Body of a recommendation request."""

    user_id: str | None = None
    session: list[SessionEvent] = []
    time: datetime
    k: int = 20


def app(folder: Path, rank: Rank) -> FastAPI:
    """Returns a server that ranks items for a user's session."""
    vocabulary = read_bundle(folder).vocabulary
    found = FastAPI()

    @found.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @found.post("/v1/recommendations")
    async def recommendations(request: Request) -> dict[str, object]:
        numbers = vocabulary.numbers([event.item_id for event in request.session]).tolist()
        ranked = rank(request.user_id, numbers, request.time.timestamp(), request.k)
        items = [
            {"item_id": vocabulary.item_id(number), "title": vocabulary.title(number), "score": score}
            for number, score in ranked
        ]
        return {"model_version": "1", "items": items}

    return found


def _rank_by(scores: Scores) -> Rank:
    """Returns a ranking by scores [V]."""

    def rank(user_id: str | None, session: list[int], now: float, k: int) -> Ranked:
        item_scores = scores(user_id, session, now)
        best = np.argpartition(-item_scores, k)[:k]
        best = best[np.argsort(-item_scores[best])]
        return list(zip(best.tolist(), item_scores[best].tolist(), strict=True))

    return rank


def precomputed(folder: Path) -> Rank:
    """Returns the lists that were computed before: items of the user's history by frequency, then popular ones."""
    bundle = read_bundle(folder)
    numbers = np.arange(len(bundle.vocabulary.item_ids) + FIRST_ITEM)
    popular = [(int(number), 0.0) for number in numbers[FIRST_ITEM : FIRST_ITEM + _LISTED]]
    lists: dict[str | None, Ranked] = {}
    for user_id in bundle.histories.row_of:
        items, counts = np.unique(bundle.histories.of(user_id)[0], return_counts=True)
        best = np.argsort(-counts, kind="stable")[:_LISTED]
        own = list(zip(items[best].tolist(), counts[best].astype(float).tolist(), strict=True))
        known = {number for number, _ in own}
        lists[user_id] = [*own, *(entry for entry in popular if entry[0] not in known)][:_LISTED]

    def rank(user_id: str | None, session: list[int], now: float, k: int) -> Ranked:
        seen = set(session)
        return [entry for entry in lists.get(user_id, popular) if entry[0] not in seen][:k]

    return rank


def pytorch(folder: Path) -> Rank:
    """Returns the ranking of the network in PyTorch."""
    torch.set_num_threads(1)
    bundle, network = read_bundle(folder), load_model(folder).network

    def scores(user_id: str | None, session: list[int], now: float) -> np.ndarray:
        past, kinds, times, _ = (column[-_HISTORY:] for column in bundle.histories.of(user_id))
        count = len(session)
        item = np.concatenate([past, session, [0]]).astype(np.int64)
        kind = np.concatenate([kinds, np.full(count, EVENT_TYPE_CODES[VIEW]), [0]]).astype(np.int64)
        seconds = np.concatenate([times, np.full(count + 1, now)])
        numbers = np.minimum(np.arange(len(item)), len(past))
        began = np.where(numbers == len(past), now, seconds)
        timeline = build_timeline(np.zeros_like(item), numbers, item, kind, seconds, began)
        first, target = np.asarray([len(past)]), np.asarray([len(item) - 1])
        events, query = (
            {name: torch.from_numpy(values) for name, values in part.items()}
            for part in session_inputs(timeline, first, target, _HISTORY)
        )
        with torch.inference_mode():
            answer: np.ndarray = score_items(network, Events(**events), Query(**query)).softmax(-1).numpy()[0]
        return answer

    return _rank_by(scores)


def vmis_knn(folder: Path) -> Rank:
    """Returns the ranking of VMIS-kNN."""
    bundle = read_bundle(folder)
    item = bundle.histories.item.astype(np.int64)
    neighbors = SessionNeighbors.from_events(np.arange(len(item)) // _SESSION, item, len(bundle.vocabulary))

    def scores(user_id: str | None, session: list[int], now: float) -> np.ndarray:
        found = neighbors.candidates(np.asarray(session, np.int64))
        answer = np.zeros(len(bundle.vocabulary))
        answer[found.items] = found.scores
        return answer

    return _rank_by(scores)


RIVALS: dict[str, Callable[[Path], Rank]] = {"pytorch": pytorch, "vmis_knn": vmis_knn, "precomputed": precomputed}


if __name__ == "__main__":
    _, rival, where, port = sys.argv
    uvicorn.run(app(Path(where), RIVALS[rival](Path(where))), port=int(port), log_level="warning")
