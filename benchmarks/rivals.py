"""Rival servers for the endpoint benchmark: `python benchmarks/rivals.py pytorch|vmis_knn BUNDLE PORT`.

Plain FastAPI in one process: with the same network in PyTorch on one thread and the same histories, or with VMIS-kNN
over the same sessions. They accept the same requests and return the same lists, without filters, rules, explanations,
live state or impression logging.
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
from recsys_tasks.model.files import load_model
from recsys_tasks.model.incremental import score_items
from recsys_tasks.model.neighbors import NeighborConfig, SessionNeighbors
from recsys_tasks.model.tensors import Events, Query
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, VIEW

_HISTORY = 512
_SESSION = 5  # events per session, as in benchmarks.bundles
Scores = Callable[[str | None, list[int], float], np.ndarray]


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


def app(folder: Path, scores: Scores) -> FastAPI:
    """Returns a server that ranks items by scores [V] of a user's session."""
    vocabulary = read_bundle(folder).vocabulary
    found = FastAPI()

    @found.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @found.post("/v1/recommendations")
    async def recommendations(request: Request) -> dict[str, object]:
        numbers = vocabulary.numbers([event.item_id for event in request.session]).tolist()
        item_scores = scores(request.user_id, numbers, request.time.timestamp())
        best = np.argpartition(-item_scores, request.k)[: request.k]
        best = best[np.argsort(-item_scores[best])]
        items = [
            {"item_id": vocabulary.item_id(n), "title": vocabulary.title(n), "score": float(item_scores[n])}
            for n in best.tolist()
        ]
        return {"model_version": "1", "items": items}

    return found


def pytorch(folder: Path) -> Scores:
    """Returns the scores of the network in PyTorch."""
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

    return scores


def vmis_knn(folder: Path) -> Scores:
    """Returns the scores of VMIS-kNN."""
    bundle = read_bundle(folder)
    item = bundle.histories.item.astype(np.int64)
    neighbors = SessionNeighbors(np.arange(len(item)) // _SESSION, item, len(bundle.vocabulary), NeighborConfig())

    def scores(user_id: str | None, session: list[int], now: float) -> np.ndarray:
        known = [number for number in session if number >= FIRST_ITEM] or [0]
        answer: np.ndarray = neighbors.scores(np.asarray([known])).toarray()[0]
        return answer

    return scores


RIVALS: dict[str, Callable[[Path], Scores]] = {"pytorch": pytorch, "vmis_knn": vmis_knn}


if __name__ == "__main__":
    _, rival, where, port = sys.argv
    uvicorn.run(app(Path(where), RIVALS[rival](Path(where))), port=int(port), log_level="warning")
