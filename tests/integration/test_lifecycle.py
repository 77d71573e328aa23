"""Lifecycle of a row after landing: quarantine, replay, correction, retraction, erasure and lineage."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from recsys_tasks.errors import BatchRejected, InputError
from recsys_tasks.features.snapshot import SnapshotParameters, build_snapshot
from recsys_tasks.ingestion import landing_folder, removal, replay
from recsys_tasks.ingestion.landing import land_batches
from recsys_tasks.ingestion.load import LoadReport, load_batch
from recsys_tasks.ingestion.quarantine import QuarantineFilter
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.settings import Settings
from recsys_tasks.steps import ingestion
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation.batch import validate_batch
from recsys_tasks.warehouse import statement
from tests.integration.ingesting import (
    LONG_AGO,
    count,
    csv_line,
    dump_contents,
    ingest,
    set_old_mtime,
    write_csv,
    write_mapping,
)
from tests.shops import fill

OPEN = "select count(*) from quarantine where resolved_at is null"


def _replay(warehouse: Engine, home: Path, **chosen: str) -> list[int]:
    inserted = []
    for found in replay.build_replay_batches(warehouse, QuarantineFilter(**chosen)):
        (batch_id,) = land_batches(warehouse, [found.batch])
        validate_batch(warehouse, batch_id, Folder.of(home / "gx"), max_bad_share=1.0, retention_start=LONG_AGO)
        inserted.append(load_batch(warehouse, batch_id).inserted)
        replay.mark_resolved(warehouse, found)
    return inserted


def test_quarantined_rows_are_replayed_after_their_item_arrives(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path, implies_items=False)
    with warehouse.begin() as connection:
        connection.execute(
            text("insert into item_versions (item_id, valid_from, batch, source) values ('i1', '-infinity', 0, 't')")
        )
    rows = [csv_line(1, what="i1"), csv_line(2, what="i1"), csv_line(3, what="i2"), csv_line(4, what="i3")]
    (report,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "f.csv", rows))
    assert (report.inserted, report.quarantined) == (2, 2)
    with warehouse.begin() as connection:
        kept = connection.execute(text("select rule, value, raw ->> 'event_id' from quarantine order by 2")).all()
        assert kept == [("item_known", "i2", "e3"), ("item_known", "i3", "e4")]
        connection.execute(
            text("insert into item_versions (item_id, valid_from, batch, source) values ('i2', '-infinity', 0, 't')")
        )
    assert _replay(warehouse, tmp_path, rule="item_known") == [1]
    assert count(warehouse, OPEN) == 1  # i3 is still unknown and quarantined once
    assert _replay(warehouse, tmp_path) == [0]
    assert count(warehouse, OPEN) == 1
    assert count(warehouse, "select count(*) from events") == 3


def test_a_row_fixed_in_quarantine_is_replayed(warehouse: Engine, tmp_path: Path) -> None:
    rows = [csv_line(1), csv_line(2), csv_line(3, did="glance")]
    ingest(warehouse, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "f.csv", rows))
    with warehouse.begin() as connection:
        connection.execute(text("""update quarantine set raw = raw || '{"event_type": "view"}'"""))
    assert _replay(warehouse, tmp_path, source="shop") == [1]
    assert count(warehouse, OPEN) == 0
    assert _replay(warehouse, tmp_path) == []


def test_bad_rows_do_not_affect_the_other_rows(warehouse: Engine, tmp_path: Path) -> None:
    """Half of the bad rows are unparseable, half break a rule."""
    bad = {0: "torn", 10: csv_line(10, price="-1")}
    rows = [bad.get(n % 20, csv_line(n)) for n in range(2_000)]
    (report,) = ingest(warehouse, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "f.csv", rows))
    assert (report.read, report.inserted, report.quarantined) == (2_000, 1_800, 200)
    with warehouse.connect() as connection:
        rules = connection.execute(text("select rule, count(*) from quarantine group by rule order by rule")).all()
    assert rules == [("price_not_negative", 100), ("readable", 100)]


def test_an_event_id_with_conflicting_content_is_kept_once_and_reported(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path)
    rows = [csv_line(1), csv_line(2), csv_line(2), csv_line(2, price="7")]
    (first,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "a.csv", rows))
    assert (first.inserted, first.duplicates, first.conflicts, first.quarantined) == (2, 1, 1, 1)
    later = [csv_line(1, when="2024-07-05T00:00:00Z"), csv_line(2)]
    (second,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "b.csv", later))
    assert (second.inserted, second.duplicates, second.conflicts) == (0, 1, 1)
    with warehouse.connect() as connection:
        kept = connection.execute(
            text("select value from quarantine where rule = 'event_id_conflict' order by 1")
        ).all()
    assert [row.value for row in kept] == ["e1", "e2"]
    assert count(warehouse, "select count(*) from events where price = 1.50") == 2


def test_sources_number_their_events_alike(warehouse: Engine, tmp_path: Path) -> None:
    contents: dict[int, LoadReport] = {}
    for shop, options in (("a", {}), ("b", {}), ("c", {"on_conflict": "replace"}), ("b", {"id_prefix": "de-"})):
        source = write_mapping(tmp_path, source=f"shop_{shop}", **options)
        rows = [csv_line(n, price=len(contents) + 1) for n in range(1, 11)]
        file = write_csv(tmp_path / f"{len(contents)}.csv", rows)
        (contents[len(contents)],) = ingest(warehouse, tmp_path, source, file)
    assert [(report.inserted, report.conflicts) for report in contents.values()] == 4 * [(10, 0)]
    with warehouse.connect() as connection:
        stored = connection.execute(text("select source, event_id, price from events where event_id ~ 'e1$'")).all()
    assert sorted(stored) == [
        ("shop_a", "e1", 1),
        ("shop_b", "de-e1", 4),
        ("shop_b", "e1", 2),
        ("shop_c", "e1", 3),
    ]


def test_many_conflicting_ids_reject_a_batch_and_few_warn(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path)
    ingest(warehouse, tmp_path, source, write_csv(tmp_path / "a.csv", [csv_line(n) for n in range(10)]))
    before = dump_contents(warehouse)
    file = write_csv(tmp_path / "b.csv", [csv_line(n, price="7", what="new") for n in range(10)])
    with pytest.raises(BatchRejected, match=r"10 of its 10 rows have the id of another event of source 'shop'"):
        ingest(warehouse, tmp_path, source, file)
    after = dump_contents(warehouse)
    assert [after[name] for name in ("events", "items", "users", "days")] == [
        before[name] for name in ("events", "items", "users", "days")
    ]
    with pytest.raises(BatchRejected, match="event_id_conflict"):
        ingest(warehouse, tmp_path, source, file)  # not forgotten by a retry
    (report,) = ingest(warehouse, tmp_path, source, file, bad=1.0)
    assert (report.inserted, report.conflicts) == (0, 10)
    few = [csv_line(n, price="7" if n == 3 else "1.50") for n in range(20)]
    (report,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "c.csv", few))
    assert (report.inserted, report.duplicates, report.conflicts) == (10, 9, 1)
    with warehouse.connect() as connection:
        (warning,) = connection.scalars(
            text("select warnings from batches where batch_id = :id"), {"id": report.batch_id}
        ).one()
    assert "1 of its 20 rows" in warning


def test_on_conflict_replace_replaces_the_event_and_marks_both_days_changed(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path, on_conflict="replace")
    ingest(warehouse, tmp_path, source, write_csv(tmp_path / "a.csv", [csv_line(1), csv_line(2)]))
    moved = [csv_line(1, when="2024-07-20T00:00:00Z", price="5"), csv_line(1, when="2024-07-21T00:00:00Z", price="6")]
    (report,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "b.csv", moved))
    assert (report.inserted, report.conflicts) == (1, 1)
    with warehouse.connect() as connection:
        rows = connection.execute(text("select event_id, price, event_time::date::text from events order by 1")).all()
        days = connection.scalars(text("select day::text from batch_days where change_number = 2 order by 1")).all()
    assert [(row[0], float(row[1]), row[2]) for row in rows] == [("e1", 6.0, "2024-07-21"), ("e2", 1.5, "2024-07-03")]
    assert days == ["2024-07-02", "2024-07-21"]


def test_a_batch_of_a_wrong_mapping_is_retracted_and_ingested_again(warehouse: Engine, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "f.csv", [csv_line(1), csv_line(2)])
    wrong = write_mapping(tmp_path, id_prefix="wrong-")
    (report,) = ingest(warehouse, tmp_path, wrong, file)
    removed = removal.retract(warehouse, report.batch_id, "the prefix was wrong")
    assert removed == removal.RemovalReport(events=2, restored=0, days=2)
    assert count(warehouse, "select count(*) from events") == 0
    assert count(warehouse, "select count(*) from users") == 0
    with pytest.raises(BatchRejected, match="was retracted: the prefix was wrong"):
        ingest(warehouse, tmp_path, wrong, file)
    (again,) = ingest(warehouse, tmp_path, write_mapping(tmp_path), file)
    assert again.inserted == 2
    assert removal.retract(warehouse, report.batch_id, "again").events == 0
    with pytest.raises(InputError, match="only a loaded batch can be retracted"):
        removal.retract(warehouse, "shop-unknown", "again")


def test_a_forgotten_user_leaves_no_trace_and_old_files_do_not_restore_it(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path)
    rows = [csv_line(n) for n in range(20)] + [csv_line(50, who="u3", price="-1")]
    ingest(warehouse, tmp_path, source, write_csv(tmp_path / "a.csv", [*rows, "torn,u3", "torn,u33"]))
    report = removal.forget(warehouse, ["u3"])
    assert report.events == 3
    assert removal.forget(warehouse, ["u3"]).events == 0
    again = [csv_line(n + 100, who="u3") for n in range(2)] + [csv_line(200)]
    again.append(csv_line(201, who="u3", when="no time"))
    (reread,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "b.csv", again), bad=0.0)
    assert (reread.inserted, reread.quarantined, reread.forgotten, reread.duplicates) == (1, 0, 3, 0)
    (none,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "d.csv", again[:2]), bad=0.0)
    assert (none.read, none.inserted, none.forgotten, none.duplicates) == (2, 0, 2, 0)
    assert _dump_all_tables(warehouse).replace("u33", "").count("u3") == 0
    assert "torn,u33" in _dump_all_tables(warehouse)
    assert _replay(warehouse, tmp_path) == []
    back = write_csv(
        tmp_path / "c.csv",
        [csv_line(300, who="u3", when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60)))],
    )
    (returned,) = ingest(warehouse, tmp_path, source, back)
    assert returned.inserted == 1


def _dump_all_tables(warehouse: Engine) -> str:
    """Returns all rows of all tables as text."""
    with warehouse.connect() as connection:
        tables = connection.scalars(
            text(
                "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in"
                " ('pg_catalog', 'information_schema')"
            )
        ).all()
        return " ".join(
            str(row) for table in tables for row in connection.execute(text(f"select to_jsonb(t) from {table} t"))
        )


def test_a_new_column_is_kept_in_properties_and_reported(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path)
    ingest(warehouse, tmp_path, source, write_csv(tmp_path / "a.csv", [csv_line(1)]))
    wider = tmp_path / "b.csv"
    wider.write_text(
        "id,who,what,did,when,price,channel\n" + csv_line(2) + ",app\n" + csv_line(1) + ",web\n", encoding="utf-8"
    )
    (batch_id,) = land_batches(warehouse, read_source(source, [wider]))
    report = validate_batch(
        warehouse, batch_id, Folder.of(tmp_path / "gx"), max_bad_share=0.5, retention_start=LONG_AGO
    )
    assert report.new_columns == ["channel"]
    assert "new columns: channel" in report.summary
    load_batch(warehouse, batch_id)
    assert count(warehouse, "select count(*) from events where properties ->> 'channel' = 'app'") == 1


def test_a_changed_item_gets_a_new_version(warehouse: Engine, tmp_path: Path) -> None:
    lines = [
        'source = "goods"',
        'kind = "items"',
        'format = "csv"',
        "[columns]",
        'item_id = "id"',
        'title = "name"',
        'price = "price"',
        'valid_from = "since"',
    ]
    (tmp_path / "goods.toml").write_text("\n".join(lines), encoding="utf-8")
    for number, content in enumerate(("a,Lamp,10,\nb,Pen,1,\n", "a,Lamp,12,2024-05-01T00:00:00Z\nb,Pen,1,\n")):
        (tmp_path / f"{number}.csv").write_text("id,name,price,since\n" + content, encoding="utf-8")
        (report,) = ingest(warehouse, tmp_path, str(tmp_path / "goods.toml"), tmp_path / f"{number}.csv")
    assert (report.inserted, report.duplicates) == (1, 1)
    with warehouse.connect() as connection:
        prices = connection.execute(
            text("select valid_from::text, price from item_versions where item_id = 'a' order by valid_from")
        ).all()
        assert connection.scalar(text("select price from items where item_id = 'a'")) == 12
    assert [(row[0], int(row[1])) for row in prices] == [("-infinity", 10), ("2024-05-01 00:00:00+00", 12)]


@pytest.mark.parametrize(("kind", "column"), [("items", "item_id"), ("users", "user_id")])
def test_a_value_that_changes_and_returns_within_a_file_has_a_version_each(
    warehouse: Engine, tmp_path: Path, kind: str, column: str
) -> None:
    """The last version in the file equals the stored one, but another one of the file is between them."""
    mapping = tmp_path / f"{kind}.toml"
    mapping.write_text(
        f'source = "shop"\nkind = "{kind}"\nformat = "csv"\ndelimiter = ";"\n'
        f'[columns]\n{column} = "id"\nproperties = "about"\nvalid_from = "since"\n',
        encoding="utf-8",
    )
    versions = [("-infinity", 1), ("2024-05-01", 2), ("2024-05-08", 2), ("2024-06-01", 1), ("2024-07-01", 1)]
    for name, rows in (("first", versions[:1]), ("later", versions[1:]), ("all", versions)):
        lines = [f'a;"{{""size"": {size}}}";{since}' for since, size in rows]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id;about;since", *lines]), encoding="utf-8")
    reports = [ingest(warehouse, tmp_path, str(mapping), tmp_path / f"{name}.csv")[0] for name in ("first", "later")]
    assert [(report.inserted, report.duplicates) for report in reports] == [(1, 0), (2, 2)]
    (again,) = ingest(warehouse, tmp_path, str(mapping), tmp_path / "all.csv")
    assert (again.inserted, again.duplicates) == (0, 5)
    with warehouse.connect() as connection:
        stored = connection.execute(
            text(
                "select valid_from::text, properties ->> 'size' from"
                f" {kind.removesuffix('s')}_versions order by valid_from"
            )
        ).all()
    assert [tuple(row) for row in stored] == [
        ("-infinity", "1"),
        ("2024-05-01 00:00:00+00", "2"),
        ("2024-06-01 00:00:00+00", "1"),
    ]


def test_files_of_the_landing_folder_are_listed_once_per_state(warehouse: Engine, tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    (landing / "shop").mkdir(parents=True)
    write_mapping(landing / "shop")
    file = write_csv(landing / "shop" / "a.csv", [csv_line(1)])
    write_csv(landing / "shop" / "b.csv.part", [csv_line(2)])
    assert landing_folder.find_new_files(warehouse, landing) == []  # modified too recently
    set_old_mtime(file)
    (found,) = landing_folder.find_new_files(warehouse, landing)
    assert (found.source, found.path) == (str(landing / "shop" / "mapping.toml"), str(file))
    reports = ingest(warehouse, tmp_path, found.source, Path(found.path))
    landing_folder.record_landed_file(warehouse, found, [report.batch_id for report in reports])
    assert landing_folder.find_new_files(warehouse, landing) == []
    set_old_mtime(write_csv(file, [csv_line(1), csv_line(2)]))
    assert len(landing_folder.find_new_files(warehouse, landing)) == 1


def test_files_in_folders_below_belong_to_the_source_and_others_are_named(warehouse: Engine, tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    for folder in ("shop/dt=2026-11-01/hour=1", "shop/special", "shop/_temporary", "shop/.hidden", "otto"):
        (landing / folder).mkdir(parents=True)
    write_mapping(landing / "shop")
    write_mapping(landing / "shop" / "special", source="special")
    names = ["shop/a.csv", "shop/dt=2026-11-01/hour=1/b.csv.gz", "shop/special/c.TXT", "otto/d.jsonl"]
    names += ["shop/part-00000"]
    names += [
        "shop/README.txt",
        "shop/photo.PNG",
        "shop/dt=2026-11-01/_SUCCESS",
        "shop/b.csv.PART",
        "shop/_temporary/e.csv",
        "lost.csv",
    ]
    for name in names:
        set_old_mtime(write_csv(landing / name, [csv_line(1)]))
    (tmp_path / "elsewhere").mkdir()
    set_old_mtime(write_csv(tmp_path / "elsewhere" / "f.csv", [csv_line(1)]))
    (landing / "linked").symlink_to(tmp_path / "elsewhere")
    (landing / "shop" / "again").symlink_to(landing)
    found = {file.path: file.source for file in landing_folder.find_new_files(warehouse, landing)}
    assert found == {
        f"{landing}/shop/a.csv": f"{landing}/shop/mapping.toml",
        f"{landing}/shop/dt=2026-11-01/hour=1/b.csv.gz": f"{landing}/shop/mapping.toml",
        f"{landing}/shop/special/c.TXT": f"{landing}/shop/special/mapping.toml",
        f"{landing}/shop/part-00000": f"{landing}/shop/mapping.toml",
        f"{landing}/otto/d.jsonl": "otto",
        f"{landing}/linked/f.csv": "linked",
    }
    skipped = landing_folder.find_skipped_files(landing)
    assert {path.removeprefix(f"{landing}/") for path in skipped} == {"shop/README.txt", "shop/photo.PNG", "lost.csv"}
    assert "no folder of a source" in skipped[f"{landing}/lost.csv"]


def test_rows_appended_during_ingestion_are_read_by_the_next_run(
    warehouse: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Settings(home=tmp_path)
    monkeypatch.setattr(ingestion, "engine", lambda: warehouse)
    monkeypatch.setattr(ingestion, "settings", lambda: chosen)
    shop = Path(chosen.landing_folder) / "shop"
    shop.mkdir(parents=True)
    write_mapping(shop)
    file = set_old_mtime(write_csv(shop / "a.csv", [csv_line(1)]))
    load_batches, grown = ingestion.load_batches, [[csv_line(1), csv_line(2)]]

    def load_while_the_file_grows(batch_ids: Sequence[str]) -> list[LoadReport]:
        if grown:
            set_old_mtime(write_csv(file, grown.pop()))
        return load_batches(batch_ids)

    monkeypatch.setattr(ingestion, "load_batches", load_while_the_file_grows)
    assert [[report.inserted for report in ingestion.ingest_landing()[0]] for _ in range(3)] == [[1], [1], []]


def test_lineage_leads_from_a_recommendation_to_its_source_files(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    (report,) = ingest(
        warehouse, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "f.csv", [csv_line(n) for n in range(40)])
    )
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path / "snapshots"), SnapshotParameters(0.1, 0.1, 2))
    shown = {"properties": json.dumps({"model_version": "3"})}
    with warehouse.begin() as connection:
        connection.execute(
            text(
                "insert into promotions (model_version, run_id, snapshot_id, decision, reasons)"
                " values ('3', 'run', :snapshot, 'promoted', '[]')"
            ),
            {"snapshot": snapshot.snapshot_id},
        )
        connection.execute(
            text(
                "insert into events (event_id, event_key, user_id, item_id, event_type, event_time, request_id,"
                " position, properties, source, batch, content) select 'x' || n, n, 'u1', 'i' || n, 'impression',"
                " timestamptz '2024-07-01Z', 'request', n, cast(:properties as jsonb), 'feedback', 1, 0"
                " from generate_series(1, 3) n"
            ),
            shown,
        )
        lineage = connection.execute(statement("status/lineage"), {"request_id": "request"}).all()
        batches = connection.scalars(
            text("select batch_id from snapshot_batches where snapshot_id = :id"), {"id": snapshot.snapshot_id}
        ).all()
        origin = connection.execute(
            text(
                "select batches.origin, events.row_number from events inner join batches"
                " on events.batch = batches.number where event_id = 'e5'"
            )
        ).one()
    assert [row.item_id for row in lineage] == ["i1", "i2", "i3"]
    assert {(row.run_id, row.snapshot_id) for row in lineage} == {("run", snapshot.snapshot_id)}
    assert report.batch_id in batches
    assert (origin.origin, origin.row_number) == (str(tmp_path / "f.csv"), 7)


def _day(number: int, rows: int) -> list[str]:
    """A file's rows of one day of July, an even number of them in every hour."""
    return [
        csv_line(1_000 * number + row, when=f"2024-07-{number:02d}T{row * 24 // max(rows, 1):02d}:{row % 60:02d}:00Z")
        for row in range(rows)
    ]


def test_the_volume_of_a_file_is_compared_with_the_usual_days(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path)
    for number in range(1, 5):
        ingest(warehouse, tmp_path, source, write_csv(tmp_path / f"{number}.csv", _day(number, 300)))
    for name, rows in (("empty", []), ("tiny", _day(5, 19))):  # a weekday without a past counts as half a usual one
        with pytest.raises(BatchRejected, match="fewer than a fifth or more than ten times the usual events per day"):
            ingest(warehouse, tmp_path, source, write_csv(tmp_path / f"{name}.csv", rows))
    (small,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "small.csv", _day(6, 60)))
    late = [csv_line(8_000 + n, when="2024-07-01T09:00:00Z") for n in range(7)]
    (missed,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "late.csv", late))
    assert missed.inserted == 7
    late = [csv_line(9_000 + n, when="2024-06-01T00:00:00Z") for n in range(5)]
    (usual,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "usual.csv", [*late, *_day(7, 280)]))
    with warehouse.connect() as connection:
        batches = connection.execute(text("select batch_id, warnings from batches")).all()
    warnings = {row.batch_id: row.warnings for row in batches}
    assert ["fewer than half" in warning for warning in warnings[small.batch_id]] == [True]
    assert not warnings[usual.batch_id]


def test_a_quiet_weekday_is_compared_with_its_own_past(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path)
    for number in range(1, 15):  # the first of July 2024 is a Monday
        file = write_csv(tmp_path / f"{number}.csv", _day(number, 55 if number % 7 == 0 else 300))
        ingest(warehouse, tmp_path, source, file)
    with warehouse.connect() as connection:
        warned = connection.scalars(text("select origin from batches where warnings <> '{}' order by number")).all()
    assert [Path(origin).stem for origin in warned] == ["7", "14"]  # two Sundays are needed to know them
    (sunday,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "sunday.csv", _day(21, 55)))
    query = f"select warnings from batches where batch_id = '{sunday.batch_id}'"
    with warehouse.connect() as connection:
        (warning,) = connection.scalar(text(query))
    assert "events missing_days is 6" in warning


def test_files_of_hours_are_not_compared_with_days(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path)
    for hour, rows in ((10, 300), (11, 320), (3, 12)):
        lines = [csv_line(1_000 * hour + n, when=f"2024-07-01T{hour:02d}:{n % 60:02d}:00Z") for n in range(rows)]
        (report,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / f"{hour}.csv", lines))
        assert report.inserted == rows


def test_a_rejected_batch_is_landed_again_with_the_mended_mapping(
    warehouse: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "engine", lambda: warehouse)
    monkeypatch.setattr(ingestion, "settings", lambda: Settings(home=tmp_path))
    file = write_csv(tmp_path / "f.csv", [csv_line(n, did="glance") for n in range(5)])
    source = write_mapping(tmp_path)
    rejected = ingestion.land_source(source, [str(file)])
    assert not ingestion.any_rejected(rejected)
    with pytest.raises(BatchRejected):
        ingestion.validate_batches(rejected)
    assert ingestion.any_rejected(rejected)
    with Path(source).open("a", encoding="utf-8") as mapping:
        mapping.write('\n[event_types]\nglance = "view"\n')
    mended = ingestion.land_source(source, [str(file)])
    assert mended != rejected
    ingestion.validate_batches(mended)
    assert [report.inserted for report in ingestion.load_batches(mended)] == [5]
