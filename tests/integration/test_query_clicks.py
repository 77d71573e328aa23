"""What people choose after a search teaches the search: words that no item has, synonyms and translations."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from recsys_tasks.engine.query_clicks import LearnedQuery
from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.search import JudgedQuery, evaluate_search
from recsys_tasks.features.encoded_snapshot import build_vocabulary, encode_snapshot
from recsys_tasks.features.query_clicks import learn_query_clicks
from recsys_tasks.features.sequences import QUERY_WORDS
from recsys_tasks.features.serving_data import catalog_columns
from recsys_tasks.features.snapshot import SnapshotParameters, build_snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.export import export_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.training_loop import TrainingConfig, build_network, train
from recsys_tasks.names import PURCHASE, SEARCH, VIEW
from recsys_tasks.promotion.build import golden_requests, seal_with_golden, write_data
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from recsys_tasks.steps.search import read_choices
from recsys_tasks.storage.folder import Folder
from recsys_tasks.training.task import training_data
from recsys_tasks.wire.messages import SearchRequest, SearchResponse
from tests.conftest import fresh_warehouse
from tests.integration.endpoints import install_bundle
from tests.shops import ITEMS, START, add_batch, event, fill, small_config

MEANT = {"diaper": ["i30", "i31", "i32"], "尿不湿": ["i30", "i31"], "brandless": ["i33"]}
NOISY = {"qwortsel": ["i5", "i6", "i7", "i8", "i9"], "щуцк": ["i10", "i11", "i12"], "夺夼": ["i20"]}


class Learned(NamedTuple):
    """What a snapshot with clicked searches teaches."""

    queries: dict[str, LearnedQuery]
    vocabulary: Vocabulary
    bundle: Path


@pytest.fixture(scope="module")
def learned(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = tmp_path_factory.mktemp("clicks")
    with fresh_warehouse(postgres) as warehouse:
        fill(warehouse)
        rows = [row for query, items in MEANT.items() for row in _clicked_searches(query, items, people=12)]
        rows += _noisy_searches()
        rows += _clicked_searches("rare", ["i34"], people=4)  # too few people
        rows += _clicked_searches("spam", ["i35"], people=1, times=50)  # one visitor, many times
        add_batch(warehouse, rows)
        snapshot = build_snapshot(warehouse, Folder.of(folder), SnapshotParameters(0.1, 0.1, 2))
    vocabulary = build_vocabulary(snapshot)
    encoded = encode_snapshot(snapshot, vocabulary)
    torch.manual_seed(0)
    network = build_network(small_config(vocabulary, query_words=QUERY_WORDS), vocabulary)
    train(network, training_data(encoded), TrainingConfig(epochs=1, num_negatives=32), lambda _: 0)
    bundle, queries = folder / "bundle", learn_query_clicks(snapshot)
    save_model(TrainedModel(network, vocabulary), bundle)
    export_graphs(network, bundle)
    columns = catalog_columns(snapshot.item_table(), vocabulary)
    write_data(bundle, columns, encoded, snapshot.cutoff.timestamp(), queries)
    lineage = {"model_version": "1", "run_id": "r", "snapshot_id": "s", "cutoff": snapshot.cutoff.isoformat()}
    seal_with_golden(bundle, lineage, golden_requests(encoded))
    return Learned({query.query: query for query in queries}, vocabulary, bundle)


def _clicked_searches(query: str, items: list[str], people: int, times: int = 1) -> list[dict[str, object]]:
    """Searches of new people, each followed by a view of one of the items and, an hour later, of another item."""
    rows = []
    for person in range(people):
        for time in range(times):
            user, session = f"{query}-{person}", uuid.uuid4().hex
            at = START + timedelta(days=1, hours=person, minutes=time)
            rows += [
                {**event(user, session, "", at), "event_type": SEARCH, "item_id": None, "query": query.upper() + " "},
                {**event(user, session, items[person % len(items)], at + timedelta(seconds=30)), "event_type": VIEW},
                {**event(user, session, "i1", at + timedelta(hours=1)), "event_type": VIEW},
            ]
    return rows


def _noisy_searches() -> list[dict[str, object]]:
    """A hundred searches of thirty people for each word; every fifth person chooses anything."""
    random, rows = np.random.default_rng(0), []
    for query, items in NOISY.items():
        for search in range(100):
            user, session = f"{query}-{search % 30}", uuid.uuid4().hex
            at = START + timedelta(days=2, minutes=30 * search)
            item = f"i{random.integers(ITEMS)}" if random.random() < 0.2 else str(random.choice(items))
            rows += [
                {**event(user, session, "", at), "event_type": SEARCH, "item_id": None, "query": query},
                {**event(user, session, item, at + timedelta(seconds=30)), "event_type": VIEW},
            ]
    return rows


@pytest.fixture(scope="module")
def client(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("endpoint")
    install_bundle(home, learned.bundle)
    with TestClient(create_app(Settings(home=home))) as client:
        yield client


def test_queries_of_enough_people_are_learned_with_what_they_chose(learned: Learned) -> None:
    assert set(learned.queries) == {*MEANT, *NOISY}
    for query, items in MEANT.items():
        assert learned.queries[query].people == 12
        assert set(learned.queries[query].item_ids) == set(items), "not what was viewed an hour later"


@pytest.mark.parametrize("query", [*MEANT, "Diapers", "DIAPER"])
def test_words_that_no_item_has_find_what_people_chose(client: TestClient, query: str) -> None:
    answer = client.post("/v1/search", json={"query": query, "record": False, "explain": True}).json()
    meant = MEANT[query.lower().removesuffix("s") if query.isascii() and query != "brandless" else query]
    assert answer["fallback"] is False
    assert {item["item_id"] for item in answer["items"][: len(meant)]} == set(meant)
    assert answer["items"][0]["signals"]["clicks"] > 0


def test_a_fifth_of_mistaken_choices_hardly_disturbs_the_order(client: TestClient) -> None:
    judged = [JudgedQuery(query, dict.fromkeys(items, 1)) for query, items in NOISY.items()]

    def search(request: SearchRequest) -> SearchResponse:
        answer = client.post("/v1/search", content=msgspec.json.encode(request))
        return msgspec.json.decode(answer.content, type=SearchResponse)

    assert evaluate_search(judged, search)["all"]["ndcg_10"] >= 0.8


def test_what_too_few_people_chose_is_not_found(client: TestClient) -> None:
    for query in ("rare", "spam"):
        assert client.post("/v1/search", json={"query": query, "record": False}).json()["fallback"]


def test_learned_queries_are_suggested(client: TestClient) -> None:
    assert client.get("/v1/suggest", params={"q": "dia"}).json()["queries"] == ["diaper"]
    assert client.get("/v1/suggest", params={"q": "spa"}).json()["queries"] == []


def test_the_model_reads_query_words_that_no_item_has(learned: Learned) -> None:
    assert {"diaper", "brandless"} <= set(learned.vocabulary.token_names)
    assert learned.vocabulary.encode_query("diaper").any()
    assert not learned.vocabulary.encode_query("spam").any()


def test_choices_from_result_lists_are_judgements(warehouse: Engine) -> None:
    now = datetime.now(UTC)
    rows = []
    for person, (item, kind) in enumerate([("i1", VIEW), ("i1", PURCHASE), ("i2", VIEW), ("i3", VIEW), ("i3", VIEW)]):
        search = event(f"p{person}", f"s{person}", "search", now - timedelta(days=1))
        rows += [
            {**search, "event_type": SEARCH, "item_id": None, "query": " Red  WINE"},
            {**event(f"p{person}", f"s{person}", item, now - timedelta(hours=23)), "event_type": kind},
        ]
    add_batch(warehouse, rows)
    with warehouse.begin() as connection:  # the last person chose elsewhere
        connection.execute(
            text(
                "update events set request_id = session_id || '-search'"
                " where event_type <> 'search' and session_id <> 's4'"
            )
        )
    (judged,) = read_choices(warehouse, days=7)
    assert (judged.query, judged.searches, judged.ratings) == ("red wine", 5, {"i1": 3}), (
        "i2 and i3 have one person each"
    )
    with pytest.raises(InputError, match="No item was chosen"):
        read_choices(warehouse, days=0)
