"""Synthetic bundles: untrained networks for any number of items and users."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import torch

from recsys_tasks.engine.catalog import CatalogColumns
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import build_timeline
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.export import export_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.neighbors import count_item_neighbors
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import build_network
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, VIEW
from recsys_tasks.promotion.build import golden_requests, seal_with_golden, write_data

_END = datetime(2024, 6, 1, tzinfo=UTC)
_SESSION = 5
_CONCURRENT_USERS, _SESSION_EVENTS, _EVENT_INTERVAL = 100, 20, timedelta(seconds=30)


def make_bundle(
    folder: Path, version: str, run_id: str, items: int, users: int, history: int, embedding_dim: int, seed: int
) -> Path:
    """Writes a bundle to a new folder and returns it; `history`: events per user. Items follow Zipf's law."""
    folder.mkdir(parents=True)
    snapshot = _snapshot(items, users, history)
    torch.manual_seed(seed)
    vocabulary = snapshot.vocabulary
    config = NetworkConfig(
        num_items=len(vocabulary),
        num_content_tokens=len(vocabulary.token_names),
        embedding_dim=embedding_dim,
        neighbor_tokens=20,
        session_neighbor_weight=1.0,
    )
    network = build_network(config, vocabulary)
    timeline = snapshot.timeline
    network.item_neighbors = count_item_neighbors(timeline.session, timeline.item, len(vocabulary), 50)
    network.session_neighbors = SessionNeighbors.from_events(timeline.session, timeline.item, len(vocabulary))
    save_model(TrainedModel(network.eval(), snapshot.vocabulary), folder)
    export_graphs(network, folder)
    write_data(folder, CatalogColumns.empty(items), snapshot, _END.timestamp())
    lineage = {"model_version": version, "run_id": run_id, "snapshot_id": "s", "cutoff": _END.isoformat()}
    seal_with_golden(folder, lineage, golden_requests(snapshot))
    return folder


def build_requests(items: int, users: int, count: int, seed: int = 0) -> list[bytes]:
    """Returns request bodies: a hundred users at a time, one request of each after every event of a session."""
    random = np.random.default_rng(seed)
    found: list[bytes] = []
    while len(found) < count:
        users_now = random.integers(0, users, _CONCURRENT_USERS)
        events = [
            [{"item_id": f"i{item}", "event_time": _time_after(position)} for position, item in enumerate(session)]
            for session in random.integers(0, items, (_CONCURRENT_USERS, _SESSION_EVENTS)).tolist()
        ]
        found += [
            json.dumps({"user_id": f"u{user}", "session": session[:length], "time": _time_after(length)}).encode()
            for length in range(1, _SESSION_EVENTS + 1)
            for user, session in zip(users_now.tolist(), events, strict=True)
        ]
    return found[:count]


def _time_after(events: int) -> str:
    return (_END + events * _EVENT_INTERVAL).isoformat()


def _snapshot(items: int, users: int, history: int) -> EncodedSnapshot:
    random = np.random.default_rng(0)
    ranks = np.minimum(random.zipf(1.2, users * history), items)
    user = np.repeat(np.arange(users), history)
    session = np.arange(users * history) // _SESSION
    at = _END.timestamp() - 86_400.0 * (1 + (history - 1 - np.arange(users * history) % history) // _SESSION)
    kind = np.full(len(ranks), EVENT_TYPE_CODES[VIEW])
    timeline = build_timeline(user, session, ranks - 1 + FIRST_ITEM, kind, at, at)
    vocabulary = Vocabulary(
        item_ids=tuple(f"i{number}" for number in range(items)),
        titles=tuple(f"Item {number}" for number in range(items)),
        category_paths=tuple(f"D{number % 20} > C{number % 300}" for number in range(items)),
        brands=tuple(f"B{number % 1_000}" for number in range(items)),
        counts=tuple(np.bincount(ranks - 1, minlength=items).tolist()),
    )
    split = np.zeros(int(session[-1]) + 1, np.int8)
    return EncodedSnapshot(timeline, vocabulary, [f"u{number}" for number in range(users)], split)
