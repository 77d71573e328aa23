"""Ingestion of all source types into a real warehouse: landing, validation, loading."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from recsys_tasks.engine.catalog import Catalog
from recsys_tasks.engine.filters import FilterEvaluator
from recsys_tasks.errors import BatchRejected, MalformedFile
from recsys_tasks.features.encoded_snapshot import build_vocabulary
from recsys_tasks.features.serving_data import catalog_columns
from recsys_tasks.features.snapshot import SnapshotParameters, build_snapshot
from recsys_tasks.ingestion.landing import land_batches
from recsys_tasks.ingestion.load import LoadReport, load_batch
from recsys_tasks.ingestion.removal import retract
from recsys_tasks.ingestion.retention import refresh_statistics
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.interval import Interval
from recsys_tasks.settings import settings
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation.batch import ValidationReport, validate_batch
from recsys_tasks.warehouse import statement
from recsys_tasks.wire.filters import Filter
from tests.integration.ingesting import LONG_AGO, count
from tests.shops import START, add_batch, event, fill, write_lines

GOOD: dict[str, object] = {
    "event_id": "e1",
    "user_id": "u1",
    "item_id": "i1",
    "event_type": "view",
    "event_time": "2024-01-01T10:00:00Z",
}


def _ingest(
    warehouse: Engine, tmp_path: Path, source: str, *paths: Path, interval: Interval | None = None, bad: float = 0.5
) -> tuple[list[ValidationReport], list[LoadReport]]:
    batch_ids = land_batches(warehouse, read_source(source, paths, interval))
    validated = [
        validate_batch(warehouse, batch, Folder.of(tmp_path / "gx"), max_bad_share=bad, retention_start=LONG_AGO)
        for batch in batch_ids
    ]
    return validated, [load_batch(warehouse, batch) for batch in batch_ids]


def _add_item(warehouse: Engine, *item_ids: str) -> None:
    with warehouse.begin() as connection:
        for item_id in item_ids:
            connection.execute(
                text("insert into item_versions (item_id, valid_from, batch, source) values (:i, '-infinity', 0, 't')"),
                {"i": item_id},
            )


def _mapping(tmp_path: Path, format_: str, **extra: str) -> str:
    lines = [
        'source = "shop"',
        f'format = "{format_}"',
        "implies_items = true",
        "implies_users = true",
        *(f"{key} = {value}" for key, value in extra.items()),
        "[columns]",
        'user_id = "who"',
        'item_id = "what"',
        'event_type = "did"',
        'event_time = "when"',
        "[event_types]",
        'seen = "view"',
    ]
    path = tmp_path / "shop.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_a_csv_with_a_mapping_becomes_events_in_utc(warehouse: Engine, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("who,what,did,when\nu,i,seen,2024-07-01 12:00:00\n", encoding="utf-8")
    mapping = _mapping(
        tmp_path, "csv", time_format='"%Y-%m-%d %H:%M:%S"', time_zone='"Europe/Berlin"', id_prefix='"x-"'
    )
    _, (report,) = _ingest(warehouse, tmp_path, mapping, file)
    assert (report.read, report.inserted, report.quarantined) == (1, 1, 0)
    with warehouse.connect() as connection:
        row = connection.execute(text("select * from events")).one()
    assert (row.user_id, row.item_id, row.event_type) == ("x-u", "x-i", "view")
    assert row.event_time == datetime(2024, 7, 1, 10, tzinfo=UTC)


def test_the_same_file_again_under_another_name_changes_nothing(warehouse: Engine, tmp_path: Path) -> None:
    mapping = _mapping(tmp_path, "csv")
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    for file in (first, second):
        file.write_text("who,what,did,when\nu,i,seen,2024-07-01T12:00:00\n", encoding="utf-8")
    _ingest(warehouse, tmp_path, mapping, first)
    _, (again,) = _ingest(warehouse, tmp_path, mapping, second)
    assert (again.inserted, again.duplicates) == (0, 1)
    assert count(warehouse, "select count(*) from events") == 1


def test_overlapping_files_load_each_event_once(warehouse: Engine, tmp_path: Path) -> None:
    mapping = _mapping(tmp_path, "csv")
    head, rows = "who,what,did,when\n", [f"u,i{n},seen,2024-07-01T12:00:00\n" for n in range(10)]
    for name, part in (("a.csv", rows[:7]), ("b.csv", rows[4:])):
        (tmp_path / name).write_text(head + "".join(part), encoding="utf-8")
    _ingest(warehouse, tmp_path, mapping, tmp_path / "a.csv", tmp_path / "b.csv")
    assert count(warehouse, "select count(*) from events") == 10


def test_bad_rows_are_quarantined_with_a_reason_and_the_rest_is_loaded(warehouse: Engine, tmp_path: Path) -> None:
    _add_item(warehouse, "i1")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    bad: dict[str, dict[str, object]] = {
        "event_type_known": {"event_type": "like"},
        "event_time_is_time": {"event_time": "yesterday"},
        "event_time_not_in_future": {"event_time": tomorrow},
        "user_or_session_present": {"user_id": None},
        "item_present": {"item_id": None},
        "item_known": {"item_id": "nothing"},
        "quantity_positive": {"quantity": -1},
        "quantity_is_number": {"quantity": "1e999999999"},
        "price_not_negative": {"price": -0.5},
        "price_is_number": {"price": "1e400"},
        "properties_are_finite": {"properties": {"size": {"cm": 10**400}}},
        "ids_are_short": {"user_id": "u" * 3_000},
        "query_present": {"event_type": "search", "item_id": None},
    }
    records = [{**GOOD, **change, "event_id": rule} for rule, change in bad.items()]
    records += [{**GOOD, "event_id": f"good-{n}"} for n in range(20)]
    file = write_lines(tmp_path / "feedback.jsonl", records)
    (validated,), (report,) = _ingest(warehouse, tmp_path, "feedback", file)
    assert validated.rules == dict.fromkeys(bad, 1)
    assert (report.read, report.inserted, report.quarantined) == (33, 20, 13)
    with warehouse.connect() as connection:
        kept = connection.execute(text("select rule, reason, raw ->> 'event_id' as id from quarantine")).all()
    assert {row.rule: row.id for row in kept} == {rule: rule for rule in bad}
    assert all(row.reason for row in kept)
    assert (tmp_path / "gx" / "data_docs" / "index.html").exists()


@pytest.mark.parametrize("price", ["1e400", "-1e400", "1e-400", "Infinity", "NaN", "1" + 400 * "0"])
def test_an_item_whose_price_no_reader_can_hold_is_quarantined(warehouse: Engine, tmp_path: Path, price: str) -> None:
    file = tmp_path / "items.csv"
    file.write_text(f"id,price\ni1,2.5\ni2,{price}\n", encoding="utf-8")
    mapping = tmp_path / "items.toml"
    lines = ['source = "shop"', 'kind = "items"', 'format = "csv"', "[columns]", 'item_id = "id"', 'price = "price"']
    mapping.write_text("\n".join(lines), encoding="utf-8")
    (validated,), _ = _ingest(warehouse, tmp_path, str(mapping), file)
    assert validated.rules == {"price_is_number": 1}


def test_numbers_that_no_reader_can_hold_stop_no_snapshot(warehouse: Engine, tmp_path: Path) -> None:
    """Rows that earlier versions stored, and properties of impressions, in which a caller writes what it likes."""
    fill(warehouse)
    build_snapshot(warehouse, Folder.of(tmp_path), SnapshotParameters(0.1, 0.1, 2))
    shown = event("u1", "shown", "i1", START) | {"event_type": "impression"}
    add_batch(warehouse, [shown])
    with warehouse.begin() as connection:
        connection.execute(text("update item_versions set price = 1e400 where item_id = 'i1'"))
        connection.execute(
            text(
                "update events set request_id = 'r', position = 1, properties = cast(:properties as jsonb)"
                " where event_type = 'impression'"
            ),
            {"properties": json.dumps({"score": "high", "sampled": 0, "milliseconds": 1e300, "results": "many"})},
        )
    snapshot = build_snapshot(
        warehouse, Folder.of(tmp_path), SnapshotParameters(0.1, 0.1, 2), START + timedelta(days=1)
    )
    assert (
        dict(zip(*snapshot.item_table().select(["item_id", "price"]).to_pydict().values(), strict=True))["i1"] is None
    )
    with warehouse.begin() as connection:
        day = {"day": START.date(), "day_start": START, "day_end": START + timedelta(days=1)}
        assert connection.execute(statement("monitoring/search_rates"), {"begins": START, "ends": day["day_end"]}).one()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"event_id": "x"', "not a JSON object"),
        ('["a list"]', "not a JSON object"),
        ('{"event_id": "a\\u0000b"}', "NUL"),
        ("\x00", "NUL"),
        ("[" * 5_000, "not a JSON object"),
    ],
)
def test_a_malformed_line_is_quarantined_with_its_number(
    warehouse: Engine, tmp_path: Path, line: str, problem: str
) -> None:
    _add_item(warehouse, "i1")
    file = tmp_path / "feedback.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{line}\n", encoding="utf-8")
    _, (report,) = _ingest(warehouse, tmp_path, "feedback", file)
    assert (report.inserted, report.quarantined) == (1, 1)
    with warehouse.connect() as connection:
        kept = connection.execute(text("select * from quarantine")).one()
    assert kept.row_number == 2
    assert problem in kept.reason


def test_on_error_reject_loads_nothing_of_a_malformed_file_and_names_the_line(
    warehouse: Engine, tmp_path: Path
) -> None:
    file = tmp_path / "events.csv"
    file.write_text("who,what,did,when\nu,i,seen,2024-07-01T12:00:00\nu,i\n", encoding="utf-8")
    with pytest.raises(MalformedFile, match=r"events\.csv, line 3: 2 fields where the header has 4"):
        _ingest(warehouse, tmp_path, _mapping(tmp_path, "csv"), file)
    assert count(warehouse, "select count(*) from batches") == 0


@pytest.mark.parametrize("kind", ["truncated gzip", "truncated parquet"])
def test_a_truncated_file_is_named_and_nothing_of_it_is_loaded(warehouse: Engine, tmp_path: Path, kind: str) -> None:
    rows = [{"who": f"u{n}", "what": "i", "did": "seen", "when": "2024-07-01T12:00:00"} for n in range(5_000)]
    if kind == "truncated gzip":
        file, format_ = tmp_path / "events.csv.gz", "csv"
        text_rows = "".join(",".join(row.values()) + "\n" for row in rows)
        whole = gzip.compress(f"who,what,did,when\n{text_rows}".encode())
    else:
        file, format_ = tmp_path / "events.parquet", "parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
        whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MalformedFile, match=file.name):
        _ingest(warehouse, tmp_path, _mapping(tmp_path, format_), file)
    assert count(warehouse, "select count(*) from batches") == 0


def test_blank_lines_and_a_byte_order_mark_are_skipped(warehouse: Engine, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_bytes(b"\xef\xbb\xbfwho,what,did,when\n\nu,i,seen,2024-07-01T12:00:00\n\n")
    _, (report,) = _ingest(warehouse, tmp_path, _mapping(tmp_path, "csv"), file)
    assert (report.read, report.inserted) == (1, 1)


def test_a_corrected_mapping_makes_a_new_batch_of_the_same_file(warehouse: Engine, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("who,what,did,when\nu,i,seen,2024-07-01T12:00:00\n", encoding="utf-8")
    right = Path(_mapping(tmp_path, "csv"))
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(right.read_text(encoding="utf-8").replace('seen = "view"', ""), encoding="utf-8")
    _, (first,) = _ingest(warehouse, tmp_path, str(wrong), file, bad=1.0)
    _, (again,) = _ingest(warehouse, tmp_path, str(right), file)
    assert (first.inserted, first.quarantined, again.inserted) == (0, 1, 1)


def test_a_missing_column_rejects_the_file_before_anything_is_written(warehouse: Engine, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("who,what,did\nu,i,seen\n", encoding="utf-8")
    with pytest.raises(MalformedFile, match="no column 'when'; the file has who, what, did"):
        _ingest(warehouse, tmp_path, _mapping(tmp_path, "csv"), file)
    assert count(warehouse, "select count(*) from batches") == 0


def test_a_batch_with_too_many_bad_rows_is_rejected_and_nothing_is_loaded(warehouse: Engine, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "f.jsonl", [{**GOOD, "event_id": f"e{n}"} for n in range(10)])  # i1 is unknown
    with pytest.raises(BatchRejected, match=r"too many rows are bad.*item_known \(10\)"):
        _ingest(warehouse, tmp_path, "feedback", file)
    assert count(warehouse, "select count(*) from events") == 0
    assert count(warehouse, "select count(*) from batches where status = 'rejected'") == 1


def test_loading_a_first_catalog_does_not_scan_the_table_for_each_row(warehouse: Engine, tmp_path: Path) -> None:
    """Planner statistics of empty tables, as after maintenance of an empty warehouse, must not cause a scan per row."""
    count_of = 5_000
    refresh_statistics(warehouse)
    for kind, column in (("items", "item_id"), ("users", "user_id")):
        mapping = tmp_path / f"{kind}.toml"
        mapping.write_text(
            f'source = "{kind}"\nkind = "{kind}"\nformat = "jsonl"\n[columns]\n{column} = "id"', encoding="utf-8"
        )
        file = tmp_path / f"{kind}.jsonl"
        write_lines(file, [{"id": f"n{number}"} for number in range(count_of)])
        _ingest(warehouse, tmp_path, str(mapping), file)
    warehouse.dispose()  # closed sessions flush their statistics shortly after
    for table in ("item_versions", "user_versions"):
        statistics = f"pg_stat_user_tables where relname = '{table}'"
        while count(warehouse, f"select n_tup_ins from {statistics}") < count_of:
            warehouse.dispose()
        blocks = f"select heap_blks_hit + heap_blks_read from pg_statio_user_tables where relname = '{table}'"
        assert count(warehouse, blocks) < 10 * count_of


@pytest.fixture
def eight_households(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The default source has the purchases of eight households only."""
    monkeypatch.setenv("RECSYS_SAMPLE_USERS", "8")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.mark.usefixtures("eight_households")
def test_a_sample_of_eight_households_of_the_default_source_is_loaded(warehouse: Engine, tmp_path: Path) -> None:
    weeks = [datetime(2017, 1, 1, tzinfo=UTC), datetime(2017, 12, 4, tzinfo=UTC), datetime(2017, 12, 11, tzinfo=UTC)]
    for start, end in pairwise(weeks):
        validated, reports = _ingest(warehouse, tmp_path, "complete_journey", interval=Interval(start, end))
    _, again = _ingest(warehouse, tmp_path, "complete_journey", interval=Interval(weeks[0], weeks[1]))
    assert not any("price" in warning for report in validated for warning in report.warnings)
    assert all(report.read == report.inserted + report.duplicates + report.quarantined for report in reports)
    assert all(report.inserted == 0 for report in again)
    assert count(warehouse, "select count(*) from users") == 8
    assert count(warehouse, "select count(distinct user_id) from events") == 8
    assert count(warehouse, "select count(*) from items where title is not null") > 60_000
    assert count(warehouse, "select count(*) from events where properties ? 'store_id'") == count(
        warehouse, "select count(*) from events"
    )


@pytest.mark.usefixtures("eight_households")
def test_items_of_the_default_source_have_a_version_per_change_of_their_weekly_price(
    warehouse: Engine, tmp_path: Path
) -> None:
    """Consecutive intervals, cut within weeks, give the versions of the whole year; an overlapping one adds nothing."""
    year = Interval(datetime(2017, 1, 1, tzinfo=UTC), datetime(2018, 1, 1, tzinfo=UTC))
    cuts = [datetime(2017, 4, 13, 9, tzinfo=UTC), datetime(2017, 8, 1, tzinfo=UTC)]  # a Thursday and a Tuesday
    _, (_, whole) = _ingest(warehouse, tmp_path, "complete_journey", interval=year)
    versions = _price_versions(warehouse)
    assert len(versions) > len({item_id for item_id, *_ in versions}) > 2_000
    retract(warehouse, whole.batch_id, "to ingest it in parts")
    assert _price_versions(warehouse) == []
    for start, end in pairwise([year.start, *cuts, year.end]):
        _ingest(warehouse, tmp_path, "complete_journey", interval=Interval(start, end))
    assert _price_versions(warehouse) == versions
    _, (_, overlap) = _ingest(warehouse, tmp_path, "complete_journey", interval=Interval(cuts[0], year.end))
    assert (overlap.inserted, overlap.already_loaded) == (0, False)
    assert all(
        (item_id, price) != (next_id, next_price)
        for (item_id, _, price, _), (next_id, _, next_price, _) in pairwise(versions)
    )
    assert all(price > 0 and price == round(price, 2) and title for _, _, price, title in versions)
    assert _is_within_unit_prices(warehouse)


@pytest.mark.usefixtures("eight_households")
def test_a_snapshot_of_the_default_source_filters_by_the_price_at_its_cutoff(warehouse: Engine, tmp_path: Path) -> None:
    _ingest(warehouse, tmp_path, "complete_journey")
    versions = _price_versions(warehouse)
    parameters = SnapshotParameters(validation_share=0.1, test_share=0.1, min_item_events=1)
    for cutoff in (datetime(2017, 6, 1, tzinfo=UTC), datetime(2017, 11, 1, 12, tzinfo=UTC)):
        expected = {item_id: float(price) for item_id, since, price, _ in versions if since <= cutoff}
        snapshot = build_snapshot(warehouse, Folder.of(tmp_path / "snapshots"), parameters, cutoff)
        found = {row["item_id"]: row["price"] for row in snapshot.item_table().to_pylist()}
        assert {item_id: price for item_id, price in found.items() if price is not None} == expected
        vocabulary = build_vocabulary(snapshot)
        catalog = Catalog(vocabulary, catalog_columns(snapshot.item_table(), vocabulary))
        cheap = FilterEvaluator(catalog).mask(Filter(field="price", at_most=2.0))
        chosen = {vocabulary.item_id(number) for number in np.flatnonzero(cheap).tolist()}
        assert chosen == {item_id for item_id in vocabulary.item_ids if expected.get(item_id, 99) <= 2}
        assert 100 < len(chosen) < len(vocabulary.item_ids)


def _price_versions(warehouse: Engine) -> list[tuple[str, datetime, Decimal, str]]:
    """Returns id, start, price and title of all versions with a price, by item and time."""
    with warehouse.connect() as connection:
        rows = connection.execute(
            text(
                "select item_id, valid_from, price, title from item_versions where price is not null"
                " order by item_id, valid_from"
            )
        ).all()
    return [tuple(row) for row in rows]


def _is_within_unit_prices(warehouse: Engine) -> bool:
    """Whether each price is between the lowest and the highest unit price of the week before it became valid."""
    outside = """
        select count(*) from item_versions as versions
        where versions.price is not null and not exists (
            select 1 from events
            where events.item_id = versions.item_id
            and events.event_time <= versions.valid_from
            and events.event_time > versions.valid_from - interval '7 days'
            having versions.price between min(events.price) - 0.005 and max(events.price) + 0.005
        )"""
    return count(warehouse, outside) == 0


def test_the_retailrocket_log_is_loaded(warehouse: Engine, tmp_path: Path, shared_events: Path) -> None:
    _, (report,) = _ingest(warehouse, tmp_path, "retailrocket", shared_events / "retailrocket-week.tsv")
    assert report.read == 38_741
    assert report.inserted + report.duplicates + report.quarantined == report.read
    types = "select count(*) from events where event_type = "
    assert count(warehouse, f"{types}'add_to_cart'") > 2_000
    assert count(warehouse, f"{types}'purchase'") > 600


def test_views_queries_and_purchases_of_diginetica_are_loaded(warehouse: Engine, tmp_path: Path) -> None:
    files = {
        "diginetica_views": "sessionId;userId;itemId;timeframe;eventdate\n1;NA;81766;526309;2016-05-09\n"
        "1;7;31331;1031018;2016-05-09\n",
        "diginetica_queries": "queryId;sessionId;userId;timeframe;duration;eventdate;searchstring.tokens;categoryId;"
        'items;is.test\n1;1;NA;16327074;311;2016-05-09;"16655,244087";0;"7518,71,30";false\n'
        '3;1;7;29;223;2016-05-09;;1131;"9,8";false\n',
        "diginetica_purchases": "sessionId;userId;timeframe;eventdate;ordernumber;itemId\n1;7;1;2016-05-10;5;31331\n",
    }
    for source, content in files.items():
        (tmp_path / f"{source}.csv").write_text(content, encoding="utf-8")
        _, (report,) = _ingest(warehouse, tmp_path, source, tmp_path / f"{source}.csv")
        assert report.inserted == report.read
    with warehouse.connect() as connection:
        rows = connection.execute(
            text("select event_type, user_id, item_id, query, event_time from events order by event_time")
        ).all()
    assert [(row.event_type, row.user_id, row.item_id, row.query) for row in rows] == [
        ("search", "dn-7", None, "(category)"),
        ("view", None, "dn-81766", None),
        ("view", "dn-7", "dn-31331", None),
        ("search", None, None, "16655,244087"),
        ("purchase", "dn-7", "dn-31331", None),
    ]
    assert rows[1].event_time == datetime(2016, 5, 9, 0, 8, 46, 309_000, tzinfo=UTC)


def test_the_otto_sample_is_loaded(warehouse: Engine, tmp_path: Path, shared_events: Path) -> None:
    _, (report,) = _ingest(warehouse, tmp_path, "otto", shared_events / "otto-sample.jsonl")
    assert report.quarantined == 0
    assert count(warehouse, "select count(distinct session_id) from events") == 20


def test_landing_validating_and_loading_are_idempotent(warehouse: Engine, tmp_path: Path) -> None:
    _add_item(warehouse, "i1")
    file = write_lines(tmp_path / "f.jsonl", [{**GOOD, "event_id": f"e{n}"} for n in range(10)])
    (batch,) = land_batches(warehouse, read_source("feedback", [file]))
    assert land_batches(warehouse, read_source("feedback", [file])) == [batch]  # landed again before it is validated
    validate_batch(warehouse, batch, Folder.of(tmp_path / "gx"), max_bad_share=0.5, retention_start=LONG_AGO)
    assert land_batches(warehouse, read_source("feedback", [file])) == [batch]  # validated, then landed again
    validate_batch(warehouse, batch, Folder.of(tmp_path / "gx"), max_bad_share=0.5, retention_start=LONG_AGO)
    assert load_batch(warehouse, batch).inserted == 10
    assert load_batch(warehouse, batch).inserted == 0
    assert count(warehouse, "select count(*) from events") == 10
