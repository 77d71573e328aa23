"""Synthetic shops for tests: each user repeatedly buys from a few preferred items."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sqlalchemy import Engine, text

from recsys_tasks.engine.bundle import DECODER, ENCODER
from recsys_tasks.evaluation.baselines import BaselineData
from recsys_tasks.evaluation.protocol import TRAINING, VALIDATION, select_prediction_tasks
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.ingestion.changes import record_change
from recsys_tasks.locks import file_lock
from recsys_tasks.model.export import export_graphs, export_vectors
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, build_network, train
from recsys_tasks.model.windows import training_stops
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, SEARCH, UNKNOWN_ITEM
from recsys_tasks.simulation.baskets import Baskets
from recsys_tasks.training.recipe import with_item_neighbors

START = datetime(2024, 1, 1, 8, tzinfo=UTC)
ITEMS = 40
COLORS = ("red", "green", "blue", "yellow")
# Gate rules that a model trained for a few seconds passes.
LENIENT_GATE_RULES = """
[baselines]
names = ["popularity"]
metrics = ["mrr_20"]
[champion]
metric = "mrr_20"
confidence = 0.95
min_gain = 0.0
min_questions = 20
"""
QUERIES = (*COLORS, "nothing of the kind")


def vocabulary(items: int = ITEMS) -> Vocabulary:
    """Returns a vocabulary of items `i0`, `i1`, … in two departments."""
    return Vocabulary(
        item_ids=tuple(f"i{number}" for number in range(items)),
        titles=tuple(f"Item {number}, {COLORS[number % 4]}" for number in range(items)),
        category_paths=tuple(f"D{number % 2} > C{number % 5}" for number in range(items)),
        brands=("",) * items,
        counts=tuple(range(items + 10, 10, -1)),
    )


def encoded_shop(users: int = 60, sessions: int = 8, seed: int = 0) -> EncodedSnapshot:
    """Returns a shop whose users buy four of their eight preferred items once a week; the last weeks are held out."""
    random = np.random.default_rng(seed)
    rows = []
    session = 0
    for user in range(users):
        preferred = random.choice(ITEMS, 8, replace=False)
        for week in range(sessions):
            at = START.timestamp() + week * 7 * 86_400 + user * 60
            rows += [(user, session, int(item), at) for item in random.choice(preferred, 4, replace=False)]
            session += 1
    user_codes, session_codes, items, at_times = (np.asarray(column) for column in zip(*rows, strict=True))
    kinds = np.full(len(rows), EVENT_TYPE_CODES[PURCHASE])
    seconds = at_times.astype(np.float64)
    timeline = build_timeline(user_codes, session_codes, items + FIRST_ITEM, kinds, seconds, seconds)
    week_of = (timeline.session_first_seconds - START.timestamp()) // (7 * 86_400)
    split = (week_of >= sessions - 2).astype(np.int8) + (week_of >= sessions - 1)
    return EncodedSnapshot(timeline, vocabulary(), [f"u{user}" for user in range(users)], split)


def training_data(shop: EncodedSnapshot) -> TrainingData:
    """Returns a shop's training events; the learning-rate decay also uses the validation events."""
    stops, final_stops = (training_stops(shop.timeline, shop.split, last) for last in (TRAINING, VALIDATION))
    data = TrainingData(shop.timeline, shop.vocabulary.training_counts(), stops, final_stops)
    return with_item_neighbors(data)


def baseline_data(shop: EncodedSnapshot) -> BaselineData:
    """Returns what baselines of a shop are fitted to."""
    return BaselineData(training_data(shop), select_prediction_tasks(shop, VALIDATION))


def small_config(words: Vocabulary, **sizes: Any) -> NetworkConfig:
    """Returns the configuration of a narrow network for a vocabulary."""
    return NetworkConfig(
        **{"num_items": len(words), "num_content_tokens": len(words.token_names), "embedding_dim": 16, **sizes}
    )


def train_small_network(timeline: Timeline, users: int, epochs: int, **sizes: Any) -> Recommender:
    """Trains a small network without history on the first users of a timeline in which each user has one session."""
    words = vocabulary()
    stops = timeline.user_start[1:].copy()
    stops[users:] = timeline.user_start[users:-1]
    counts = np.bincount(timeline.item, minlength=len(words))
    torch.manual_seed(0)
    network = build_network(small_config(words, history=False, embedding_dim=32, **sizes), words)
    config = TrainingConfig(epochs=epochs, seconds=600, num_negatives=0, batch_tokens=256, patience=epochs)
    train(network, TrainingData(timeline, counts, stops, stops), config, lambda _: 0.0)
    return network


def random_timeline(seed: int, users: int = 5) -> Timeline:
    """Returns a timeline of users with sessions of one to six events over some weeks; some items are unknown."""
    random = np.random.default_rng(seed)
    user, session, item, kind, seconds, session_start, query = ([] for _ in range(7))
    number = 0
    for index in range(users):
        now = START.timestamp()
        for _ in range(int(random.integers(1, 7))):
            now += float(random.exponential(3 * 86_400))
            at = now
            for _ in range(int(random.integers(1, 7))):
                user.append(index)
                session.append(number)
                kind.append(int(random.integers(1, 5)))
                is_search = kind[-1] == EVENT_TYPE_CODES[SEARCH]
                item.append(UNKNOWN_ITEM if is_search else int(random.integers(1, FIRST_ITEM + ITEMS)))
                query.append(f"item {QUERIES[random.integers(len(QUERIES))]}" if is_search else "")
                seconds.append(at)
                session_start.append(now)
                at += float(random.exponential(60))
            number += 1
    queries, text = vocabulary().encode_queries(query)
    users_of, sessions_of, items_of, kinds_of = (np.asarray(column, np.int64) for column in (user, session, item, kind))
    times, starts = np.asarray(seconds), np.asarray(session_start)
    return build_timeline(users_of, sessions_of, items_of, kinds_of, times, starts, text, queries)


def fill(engine: Engine, users: int = 30, weeks: int = 10, seed: int = 0) -> None:
    """Loads a shop like `encoded_shop` into a warehouse, bypassing ingestion."""
    random = np.random.default_rng(seed)
    events = []
    for user in range(users):
        preferred = random.choice(ITEMS, 8, replace=False)
        for week in range(weeks):
            at = START + timedelta(days=7 * week, minutes=user)
            for item in random.choice(preferred, 4, replace=False):
                events.append(event(f"u{user}", f"s{user}-{week}", f"i{item}", at))
    add_batch(engine, events)
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into item_versions (item_id, valid_from, batch, title, source)"
                " select 'i' || n, '-infinity', 0, 'Item ' || n, 't' from generate_series(0, 39) n"
            )
        )


def add_batch(engine: Engine, events: Sequence[Mapping[str, object]]) -> int:
    """Loads the events with new ids as one batch, bypassing ingestion; returns the batch's number."""
    with engine.begin() as connection:
        number = connection.scalar(
            text(
                "insert into batches (batch_id, source, origin, status, read_rows)"
                " values ('b' || gen_random_uuid(), 't', 't', 'loaded', 0) returning number"
            )
        )
        batch_id = connection.scalar(text("select batch_id from batches where number = :number"), {"number": number})
        days: Counter[date] = Counter()
        for row in events:
            at = datetime.fromisoformat(str(row["event_time"]))
            connection.execute(
                text("select create_event_month(date_trunc('month', cast(:at as date))::date)"), {"at": at}
            )
            inserted = connection.execute(_INSERT, {"query": None, **row, "batch": number}).rowcount
            days[at.astimezone(UTC).date()] += inserted
        record_change(connection, str(batch_id), days.items())
    return int(number or 0)


_INSERT = text(
    "insert into events (event_id, event_key, user_id, session_id, item_id, event_type, event_time, query, source,"
    " batch, content) select :event_id, hashtextextended(:event_id, 0), :user_id, :session_id, :item_id, :event_type,"
    " cast(:event_time as timestamptz), cast(:query as text), 't', :batch, 0"
    " where not exists (select 1 from events where event_id = :event_id)"
)


def empty(engine: Engine) -> None:
    """Empties a warehouse."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "truncate events, held_events, batch_days, feature_partitions, snapshots, item_versions, user_versions,"
                " held_item_versions, held_user_versions, quarantine,"
                " batches cascade"
            )
        )


def event(user: str, session: str, item: str, at: datetime) -> dict[str, object]:
    """Returns a purchase as a row of `events`."""
    return {
        "event_id": f"{session}-{item}",
        "user_id": user,
        "session_id": session,
        "item_id": item,
        "event_type": PURCHASE,
        "event_time": at.isoformat(),
    }


def write_lines(path: Path, records: list[dict[str, object]]) -> Path:
    """Writes records as a JSONL file; returns its path."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def build_once(folders: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Returns a folder that `build` fills once for all tests of a run, in whichever worker; not to be written to."""
    shared = folders.getbasetemp() if os.environ.get("PYTEST_XDIST_WORKER") is None else folders.getbasetemp().parent
    with file_lock(shared / f"{name}.lock"):
        if not (shared / name).is_dir():
            building = folders.mktemp("building")
            build(building)
            building.rename(shared / name)
    return shared / name


class Exported(NamedTuple):
    """A network, the folder of its model files and graphs (not to be written to), and its vocabulary."""

    network: Recommender
    folder: Path
    vocabulary: Vocabulary


def export_small_network(
    folders: pytest.TempPathFactory, num_items: int = ITEMS, neighbors: np.ndarray | None = None, **sizes: Any
) -> Exported:
    """Returns a network with random weights and its exported graphs.

    An export takes ten seconds, so that the graphs of one configuration are shared by all tests of a run.
    """
    torch.manual_seed(0)
    words = vocabulary(num_items)
    network = build_network(small_config(words, **sizes), words, neighbors).eval()
    name = "-".join(["export", str(num_items), *(f"{key}{value}" for key, value in sorted(sizes.items()))])

    def export(folder: Path) -> None:
        save_model(TrainedModel(network, words), folder)
        export_graphs(network, folder)

    return Exported(network, build_once(folders, name, export), words)


def share_graphs(network: Recommender, exported: Exported, folder: Path) -> None:
    """Like `export_graphs`, with the graphs of an exported network of the same sizes: an export takes seven seconds.

    The network gets the other one's weights, but for the items.
    """
    own, others = network.state_dict(), exported.network.state_dict()
    network.load_state_dict({name: own[name] if name.startswith("items.") else others[name] for name in own})
    folder.mkdir(parents=True, exist_ok=True)
    export_vectors(network.eval(), folder)
    for name in (ENCODER, DECODER):
        shutil.copy(exported.folder / name, folder / name)


def baskets_of(lists: Sequence[Sequence[int]], category_of: np.ndarray) -> Baskets:
    """Baskets with the items of each list, and the category of each item [I]."""
    session = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
    item = np.asarray([item for items in lists for item in items], np.int64)
    return Baskets(session, item, category_of[item], len(category_of), int(category_of.max()) + 1)
