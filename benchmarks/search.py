"""Search: relevance beside other engines on judged queries, and latency and indexing by the size of the catalog.

`python benchmarks/search.py quality FOLDER` reads products.parquet (item_id, title, product_type, brand, description,
attributes as JSON) and ratings.csv (query, item_id, rating) from FOLDER. All engines index the same texts. This
project's rows are measured at an endpoint whose model was trained on random views: it knows nothing of the queries.
`python benchmarks/search.py speed --items 10000 100000` searches one at a time at an endpoint with one worker.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pandas as pd
import psycopg
import tantivy
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.endpoints import resident_memory_mb, running_endpoint
from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.client import RecommenderClient
from recsys_tasks.engine.bundle import pack
from recsys_tasks.engine.catalog import CatalogColumns
from recsys_tasks.engine.category_meaning import NO_NAMES, CategoryNames
from recsys_tasks.evaluation.search import RESULTS, JudgedQuery, evaluate_search, read_judged_queries
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import QUERY_WORDS, build_timeline
from recsys_tasks.features.serving_data import category_names
from recsys_tasks.features.text_encoder import load_text_encoder
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.export import export_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, build_network, train
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, VIEW
from recsys_tasks.promotion.build import golden_requests, seal_with_golden, write_data
from recsys_tasks.storage.folder import Folder
from recsys_tasks.warehouse import embedded
from recsys_tasks.wire.items import SearchResult
from recsys_tasks.wire.messages import SearchRequest, SearchResponse

_TOKEN = "benchmark"  # noqa: S105
_END = 1.7e9
_VIEWS_PER_ITEM, _MAX_VIEWS, _SESSION = 10, 200_000, 5
_NO_CATEGORY = "1"  # in the judged products
_WORD = re.compile(r"\w+")
_METRICS = ("ndcg_10", "ndcg_10_judged", "recall_100", "mrr", "zero_hit_rate")
Search = Callable[[SearchRequest], SearchResponse]


class Product(NamedTuple):
    """The texts of a product."""

    item_id: str
    title: str
    category: str
    brand: str
    description: str
    attributes: str

    @property
    def text(self) -> str:
        """All texts, for engines with one field."""
        return " ".join(self[1:])


def main() -> None:
    """Runs one of the two measurements and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    quality = kinds.add_parser("quality")
    quality.add_argument("folder", type=Path)
    quality.set_defaults(run=lambda args: compare_quality(args.folder, args.json))
    speed = kinds.add_parser("speed")
    speed.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    speed.add_argument("--searches", type=int, default=1_000)
    speed.set_defaults(run=lambda args: measure_speed(args.items, args.searches, args.json))
    for part in (quality, speed):
        part.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run(args)


def compare_quality(folder: Path, json_path: str | None) -> None:
    """Prints the metrics of all engines on the judged queries."""
    products, judged = _read_products(folder / "products.parquet"), read_judged_queries(folder / "ratings.csv")
    rows = []
    with tempfile.TemporaryDirectory() as work:
        engines: dict[str, Callable[[Path, Sequence[Product]], Iterator[Search]]] = {
            "this project": _own_endpoint,
            "this project without a sentence encoder": _own_endpoint_without_encoder,
            "bm25s": _bm25s,
            "SQLite FTS5": _sqlite,
            "PostgreSQL full text": _postgres,
            "tantivy": _tantivy,
        }
        for name, engine in engines.items():
            with contextmanager(engine)(Path(work) / name.replace(" ", "-"), products) as search:
                rows.append({"engine": name, **_measure(judged, search)})
    host = host_info("tantivy", "bm25s", "icu4py")
    print_table(f"{len(judged)} judged queries, {len(products):,} products", rows, host)
    write_json(json_path, {"rows": rows, "host": host})


def _measure(judged: Sequence[JudgedQuery], search: Search) -> dict[str, str]:
    began = time.perf_counter()
    metrics = evaluate_search(judged, search)["all"]
    milliseconds = 1e3 * (time.perf_counter() - began) / len(judged)
    return {name: f"{metrics[name]:.4f}" for name in _METRICS} | {"ms": f"{milliseconds:.1f}"}


def _read_products(path: Path) -> list[Product]:
    table = pd.read_parquet(path).fillna("")
    columns = zip(
        *(
            table[name].astype(str)
            for name in ("item_id", "title", "product_type", "brand", "description", "attributes")
        ),
        strict=True,
    )
    return [
        Product(item, title, "" if kind == _NO_CATEGORY else kind, brand, description, _attribute_text(attributes))
        for item, title, kind, brand, description, attributes in columns
    ]


def _attribute_text(attributes: str) -> str:
    return " , ".join(map(str, json.loads(attributes).values())) if attributes else ""


def _own_endpoint_without_encoder(work: Path, products: Sequence[Product]) -> Iterator[Search]:
    return _own_endpoint(work, products, "none")


def _own_endpoint(work: Path, products: Sequence[Product], encoder: str = "auto") -> Iterator[Search]:
    item_ids, titles, categories, brands = (
        tuple(getattr(product, name) for product in products) for name in ("item_id", "title", "category", "brand")
    )
    vocabulary = Vocabulary(item_ids, titles, categories, brands, (_VIEWS_PER_ITEM,) * len(products))
    columns = CatalogColumns.empty(len(products))
    columns.properties = [{"description": p.description, "attributes": p.attributes} for p in products]
    names = category_names(vocabulary, load_text_encoder(encoder, work / "encoder"), Folder.of(work / "vectors"))
    _write_bundle(work / "bundle", vocabulary, columns, names)
    os.environ["RECSYS_TEXT_ENCODER"] = encoder
    with _serving(work / "bundle", work / "home") as (url, _), RecommenderClient(url, timeout_seconds=10) as client:
        yield client.search


@contextmanager
def _serving(bundle: Path, home: Path) -> Iterator[tuple[str, int]]:
    """Serves a bundle; yields the endpoint's URL and process id."""
    os.environ["RECSYS_ADMIN_TOKEN"] = _TOKEN
    with running_endpoint(home) as (url, process):
        header = {"Authorization": f"Bearer {_TOKEN}"}
        httpx.put(f"{url}/v1/admin/model", content=pack(bundle), headers=header, timeout=600).raise_for_status()
        yield url, process


def _write_bundle(
    folder: Path, vocabulary: Vocabulary, columns: CatalogColumns, names: CategoryNames = NO_NAMES
) -> None:
    """Writes the bundle of a model that was trained on random views."""
    random = np.random.default_rng(0)
    count = min(_VIEWS_PER_ITEM * len(vocabulary.item_ids), _MAX_VIEWS)
    session = np.arange(count) // _SESSION
    at = _END - 3_600.0 * (session.max() - session)
    item = random.integers(FIRST_ITEM, len(vocabulary), count)
    kind = np.full(count, EVENT_TYPE_CODES[VIEW])
    timeline = build_timeline(session // 4, session, item, kind, at, at)
    users: list[str | None] = [f"u{number}" for number in range(int(timeline.user_start.size) - 1)]
    encoded = EncodedSnapshot(timeline, vocabulary, users, np.zeros(int(session[-1]) + 1, np.int8))
    torch.manual_seed(0)
    config = NetworkConfig(
        num_items=len(vocabulary), num_content_tokens=len(vocabulary.token_names), query_words=QUERY_WORDS
    )
    network = build_network(config, vocabulary)
    stops = timeline.user_start[1:]
    data = TrainingData(timeline, vocabulary.training_counts(), stops, stops, np.ones(count, np.float32))
    train(network, data, TrainingConfig(epochs=1, num_negatives=128), lambda _: 0.0)
    save_model(TrainedModel(network.eval(), vocabulary), folder)
    export_graphs(network, folder)
    write_data(folder, columns, encoded, _END, (), names)
    lineage = {"model_version": "1", "run_id": "r", "snapshot_id": "s", "cutoff": "2023-11-14T22:13:20+00:00"}
    seal_with_golden(folder, lineage, golden_requests(encoded))


def _answer(item_ids: Sequence[str]) -> SearchResponse:
    items = [SearchResult(item_id, "", 0.0, "search", "") for item_id in item_ids]
    return SearchResponse("", "", None, True, False, fallback=not items, items=items)


def _bm25s(_: Path, products: Sequence[Product]) -> Iterator[Search]:
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize([product.text for product in products], show_progress=False), show_progress=False)

    def search(request: SearchRequest) -> SearchResponse:
        tokens = bm25s.tokenize(request.query, show_progress=False)
        numbers, scores = index.retrieve(tokens, k=RESULTS, show_progress=False)
        found = zip(numbers[0].tolist(), scores[0].tolist(), strict=True)
        return _answer([products[number].item_id for number, score in found if score > 0])

    yield search


def _sqlite(_: Path, products: Sequence[Product]) -> Iterator[Search]:
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "create virtual table items using fts5(item_id unindexed, title, category, brand, description, attributes,"
        " tokenize='porter unicode61')"
    )
    connection.executemany("insert into items values (?, ?, ?, ?, ?, ?)", products)

    def search(request: SearchRequest) -> SearchResponse:
        words = " OR ".join(f'"{word}"' for word in _WORD.findall(request.query))
        statement = "select item_id from items where items match ? order by bm25(items) limit ?"
        return _answer([row[0] for row in connection.execute(statement, (words, RESULTS))])

    yield search
    connection.close()


def _postgres(work: Path, products: Sequence[Product]) -> Iterator[Search]:
    server = embedded.start(work)
    url = embedded.url(server, "postgres").replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute("create table items (item_id text, words tsvector)")
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into items values (%s, setweight(to_tsvector('english', %s), 'A')"
                " || setweight(to_tsvector('english', %s), 'B') || to_tsvector('english', %s))",
                [(p.item_id, p.title, f"{p.category} {p.brand}", f"{p.description} {p.attributes}") for p in products],
            )
        connection.execute("create index on items using gin (words)")

        def search(request: SearchRequest) -> SearchResponse:
            words = " or ".join(_WORD.findall(request.query))
            statement = (
                "select item_id from items, websearch_to_tsquery('english', %s) query where words @@ query"
                " order by ts_rank_cd(words, query, 1) desc, item_id limit %s"
            )
            return _answer([row[0] for row in connection.execute(statement, (words, RESULTS))])

        yield search
    server.cleanup()


def _tantivy(_: Path, products: Sequence[Product]) -> Iterator[Search]:
    fields = ("title", "category", "brand", "description", "attributes")
    builder = tantivy.SchemaBuilder().add_text_field("item_id", stored=True)
    for name in fields:
        builder.add_text_field(name, tokenizer_name="en_stem")
    index = tantivy.Index(builder.build())
    writer = index.writer(64 << 20, num_threads=1)
    for product in products:
        writer.add_document(tantivy.Document(**{name: getattr(product, name) for name in ("item_id", *fields)}))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def search(request: SearchRequest) -> SearchResponse:
        query = index.parse_query(" ".join(_WORD.findall(request.query)), list(fields))
        hits = searcher.search(query, RESULTS).hits
        return _answer([searcher.doc(address)["item_id"][0] for _, address in hits])

    yield search


def measure_speed(sizes: Sequence[int], searches: int, json_path: str | None) -> None:
    """Prints latencies of single searches over HTTP, the time until the endpoint is ready, and its memory."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as work:
            folder, random = Path(work), np.random.default_rng(0)
            titles = _make_titles(size, random)
            categories = tuple(f"D{number % 20} > C{number % 300}" for number in range(size))
            ids, brands = (
                tuple(f"{letter}{n % limit}" for n in range(size)) for letter, limit in (("i", size), ("B", 1_000))
            )
            vocabulary = Vocabulary(ids, titles, categories, brands, (1,) * size)
            _write_bundle(folder / "bundle", vocabulary, CatalogColumns.empty(size))
            began = time.perf_counter()
            with _serving(folder / "bundle", folder / "home") as (url, process), RecommenderClient(url) as client:
                ready = time.perf_counter() - began
                latencies = _latencies(client, titles, searches, random)
                memory = f"{resident_memory_mb(process):.0f}"
                rows.append(
                    {"items": f"{size:,}", "deployed after s": f"{ready:.1f}", **latencies, "memory MB": memory}
                )
    host = host_info("tantivy", "icu4py", "uvicorn")
    print_table("Searches one at a time at an endpoint with one worker", rows, host)
    write_json(json_path, {"rows": rows, "host": host})


def _make_titles(size: int, random: np.random.Generator) -> tuple[str, ...]:
    """Titles of 3 to 9 words of a vocabulary whose frequencies follow Zipf's law."""
    letters = np.asarray(list("abcdefghijklmnoprstuvw"))
    words = np.asarray(["".join(random.choice(letters, length)) for length in random.integers(3, 10, 50_000)])
    lengths = random.integers(3, 10, size)
    drawn = words[np.minimum(random.zipf(1.1, int(lengths.sum())) - 1, len(words) - 1)]
    return tuple(" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1]))


def _latencies(
    client: RecommenderClient, titles: Sequence[str], searches: int, random: np.random.Generator
) -> dict[str, str]:
    """Latencies by kind of request: one to three words of a title each, alone, with facets, or as a prefix."""
    queries = []
    for number in random.integers(0, len(titles), searches).tolist():
        words = titles[number].split()
        start = int(random.integers(0, len(words)))
        queries.append(" ".join(words[start : start + int(random.integers(1, 4))]))
    kinds: dict[str, Callable[[str], object]] = {
        "search": lambda query: client.search(SearchRequest(query=query, record=False)),
        "facets": lambda query: client.search(SearchRequest(query=query, record=False, facets=["category", "brand"])),
        "suggest": lambda query: client.suggest(query[: max(3, len(query) - 2)]),
    }
    found = {}
    for kind, ask in kinds.items():
        seconds = []
        for query in queries:
            began = time.perf_counter()
            ask(query)
            seconds.append(time.perf_counter() - began)
        p50, p99 = 1e3 * np.percentile(seconds, [50, 99])
        found[f"{kind} p50 / p99 ms"] = f"{p50:.1f} / {p99:.1f}"
    return found


if __name__ == "__main__":
    main()
