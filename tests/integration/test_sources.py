"""Sources before and after ingestion: dry runs, quarantine as a file, late deliveries."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from recsys_tasks.cli import main
from recsys_tasks.errors import BatchRejected, ConfigurationError, InputError
from recsys_tasks.ingestion import quarantine, replay, source_alerts
from recsys_tasks.ingestion.landing import land_batches
from recsys_tasks.ingestion.load import load_batch
from recsys_tasks.ingestion.quarantine import QuarantineFilter
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.settings import Settings
from recsys_tasks.steps import comparison, ingestion
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation.batch import validate_batch
from recsys_tasks.validation.dry_run import DryRunReport, dry_run
from tests.integration.ingesting import LONG_AGO, count, csv_line, dump_contents, ingest, write_csv, write_mapping


def _dry_run(warehouse: Engine, source: str, *paths: Path) -> list[DryRunReport]:
    return [
        dry_run(warehouse, batch, max_bad_share=0.5, retention_start=LONG_AGO) for batch in read_source(source, paths)
    ]


def _replay(warehouse: Engine, home: Path, keys: set[quarantine.RowKey]) -> int:
    inserted = 0
    for found in replay.build_replay_batches(warehouse, keys=keys):
        (batch_id,) = land_batches(warehouse, [found.batch])
        validate_batch(warehouse, batch_id, Folder.of(home / "gx"), max_bad_share=1.0, retention_start=LONG_AGO)
        inserted += load_batch(warehouse, batch_id).inserted
        replay.mark_resolved(warehouse, found)
    return inserted


class TestDryRun:
    def test_it_reports_typed_rows_and_reasons_and_leaves_no_trace(self, warehouse: Engine, tmp_path: Path) -> None:
        source = write_mapping(tmp_path)
        lines = [csv_line(1), csv_line(2), csv_line(3), csv_line(4, price="dear"), "not a row"]
        before = dump_contents(warehouse)
        (report,) = _dry_run(warehouse, source, write_csv(tmp_path / "f.csv", lines))
        assert (report.read, report.valid, report.problems) == (5, {"events": 3}, [])
        assert report.examples["events"][0]["event_time"].isoformat() == "2024-07-02T12:01:00+00:00"
        assert {broken.rule: broken.rows for broken in report.quarantined} == {"price_is_number": 1, "readable": 1}
        broken = next(broken for broken in report.quarantined if broken.rule == "price_is_number")
        assert broken.examples[0]["value"] == "dear"
        assert broken.examples[0]["raw"]["event_id"] == "e4"
        assert "dear" in "\n".join(report.lines())
        assert dump_contents(warehouse) == before
        assert count(warehouse, "select count(*) from sources") == 0
        assert count(warehouse, "select count(*) from pg_namespace where nspname like 'landing%'") == 0

    def test_it_says_why_a_batch_would_be_rejected(self, warehouse: Engine, tmp_path: Path) -> None:
        source = write_mapping(tmp_path)
        path = write_csv(tmp_path / "f.csv", [csv_line(number, price="dear") for number in range(9)])
        (report,) = _dry_run(warehouse, source, path)
        assert report.problems
        assert "would be rejected" in "\n".join(report.lines())

    def test_a_loaded_file_can_be_tried_again(self, warehouse: Engine, tmp_path: Path) -> None:
        source, path = write_mapping(tmp_path), write_csv(tmp_path / "f.csv", [csv_line(1)])
        ingest(warehouse, tmp_path, source, path)
        (report,) = _dry_run(warehouse, source, path)
        assert report.valid == {"events": 1}
        assert count(warehouse, "select count(*) from batches where status = 'loaded'") == 1


class TestQuarantine:
    @pytest.fixture
    def shop(self, warehouse: Engine, tmp_path: Path) -> Engine:
        """A warehouse with two events of a shop, and two in quarantine."""
        lines = [csv_line(1), csv_line(2), csv_line(3, price="dear"), csv_line(4, did="lick", price="cheap")]
        ingest(warehouse, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "f.csv", lines))
        return warehouse

    def test_the_summary_counts_rows_by_rule(self, shop: Engine) -> None:
        found = quarantine.summarize(shop, QuarantineFilter())
        assert [(row["source"], row["rule"], row["num_rows"]) for row in found] == [
            ("shop", "price_is_number", 2),
            ("shop", "event_type_known", 1),
        ]
        assert quarantine.summarize(shop, QuarantineFilter(source="another")) == []

    def test_rows_are_corrected_in_a_file_and_only_these_are_loaded(self, shop: Engine, tmp_path: Path) -> None:
        rows = quarantine.read_rows(shop, QuarantineFilter(rule="price_is_number"))
        assert [row.rules for row in rows] == [["price_is_number"], ["event_type_known", "price_is_number"]]
        file = tmp_path / "rows.jsonl"
        quarantine.write_rows(rows, file)
        first = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
        first["row"]["price"] = 2.5  # people write numbers
        file.write_text(json.dumps(first), encoding="utf-8")
        corrected = quarantine.read_corrections(file)
        quarantine.correct(shop, corrected)
        assert _replay(shop, tmp_path, {row.key for row in corrected}) == 1
        assert count(shop, "select count(*) from events where event_id = 'e3' and price = 2.5") == 1
        assert [row.row["event_id"] for row in quarantine.read_rows(shop, QuarantineFilter())] == ["e4"]  # type: ignore[index]

    def test_an_exported_file_can_be_imported_as_a_whole(
        self, shop: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Rows that cannot be corrected there are not exported: of rejected batches, and lines that are no row."""
        bad = [csv_line(number, price="dear") for number in range(10, 19)]
        with pytest.raises(InputError):
            ingest(shop, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "bad.csv", bad))
        lines = [csv_line(20), csv_line(21), "no row"]
        ingest(shop, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "lines.csv", lines))
        monkeypatch.setattr(ingestion, "engine", lambda: shop)
        monkeypatch.setattr(ingestion, "settings", lambda: Settings(home=tmp_path))
        file = tmp_path / "rows.jsonl"
        assert main(["quarantine", "--export", str(file)]) == 0
        text = (
            file.read_text(encoding="utf-8").replace('"dear"', "2.5").replace('"cheap"', '""').replace("lick", "view")
        )
        file.write_text(text, encoding="utf-8")
        assert main(["quarantine", "--import", str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["quarantined"] == 0
        assert count(shop, "select count(*) from events where event_id in ('e3', 'e4')") == 2
        assert main(["quarantine", "--show", "20"]) == 0
        assert capsys.readouterr().out.count("price is not a finite number") == len(bad)

    def test_a_resolved_row_is_not_corrected_and_neither_are_the_others(self, shop: Engine, tmp_path: Path) -> None:
        rows = quarantine.read_rows(shop, QuarantineFilter())
        with shop.begin() as connection:
            connection.execute(
                text("update quarantine set resolved_at = now() where row_number = :n"), {"n": rows[1].row_number}
            )
        quarantine.write_rows(rows, tmp_path / "rows.jsonl")
        corrected = quarantine.read_corrections(tmp_path / "rows.jsonl")
        changed = [
            quarantine.QuarantinedRow(row.batch_id, row.kind, row.row_number, {"price": "1"}) for row in corrected
        ]
        with pytest.raises(InputError, match="Nothing was imported"):
            quarantine.correct(shop, changed)
        (row,) = quarantine.read_rows(shop, QuarantineFilter())
        assert row.row["price"] == "dear"  # type: ignore[index]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{", "line 1"),
            ('{"batch_id": "b", "kind": "lines", "row_number": 1, "row": "x"}', "correct it in its file"),
            (
                '{"batch_id": "b", "kind": "events", "row_number": 1, "row": {"prize": 1}}',
                "prize is not a column of events",
            ),
            ('{"batch_id": "b", "kind": "events", "row_number": 1, "row": "x"}', "`row` is not an object"),
        ],
    )
    def test_a_line_that_is_no_correction_is_named(self, tmp_path: Path, line: str, message: str) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text(line, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            quarantine.read_corrections(file)

    def test_rows_of_rejected_batches_are_counted_apart(self, shop: Engine, tmp_path: Path) -> None:
        path = write_csv(tmp_path / "bad.csv", [csv_line(number, price="dear") for number in range(10, 19)])
        with pytest.raises(InputError):
            ingest(shop, tmp_path, write_mapping(tmp_path), path)
        with shop.connect() as connection:
            row = connection.execute(text("select * from source_status where source = 'shop'")).one()
        assert (row.quarantined_rows, row.rejected_rows, row.rejected_batches) == (2, 9, 1)


def test_ignored_events_are_counted_apart(warehouse: Engine, tmp_path: Path) -> None:
    source = write_mapping(tmp_path, ignore_event_types=["fav"])
    (report,) = ingest(
        warehouse, tmp_path, source, write_csv(tmp_path / "f.csv", [csv_line(1), csv_line(2, did="fav")])
    )
    assert (report.read, report.inserted, report.ignored, report.quarantined) == (1, 1, 1, 0)


class TestFreshness:
    def test_a_late_source_is_reported_once_until_it_delivers(self, warehouse: Engine, tmp_path: Path) -> None:
        source = write_mapping(tmp_path, expected_every_hours=24)
        ingest(warehouse, tmp_path, source, write_csv(tmp_path / "f.csv", [csv_line(1)]))
        assert source_alerts.find_late_sources(warehouse) == []
        self._age(warehouse)
        (late,) = source_alerts.find_late_sources(warehouse)
        assert str(late).startswith("shop should deliver every 24 hours; last delivery: ")
        source_alerts.mark_source_alerted(warehouse, late.source)
        assert source_alerts.find_late_sources(warehouse) == []
        ingest(warehouse, tmp_path, source, write_csv(tmp_path / "g.csv", [csv_line(2)]))
        assert source_alerts.find_late_sources(warehouse) == []
        self._age(warehouse)
        assert len(source_alerts.find_late_sources(warehouse)) == 1

    def test_an_alert_is_sent_until_it_arrives(
        self, warehouse: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ingestion, "engine", lambda: warehouse)
        source, arrives, sent = write_mapping(tmp_path, expected_every_hours=24), iter([False, True]), []
        ingest(warehouse, tmp_path, source, write_csv(tmp_path / "f.csv", [csv_line(1, who="NaN")]))
        self._age(warehouse)

        def send(alert: source_alerts.LateSource | source_alerts.BatchWarnings) -> bool:
            sent.append(type(alert).__name__)
            return next(arrives, True)

        for _ in range(3):
            ingestion.alert_late_sources(send)
        for _ in range(2):
            ingestion.alert_warnings(send)
        assert sent == ["LateSource", "LateSource", "BatchWarnings"]

    def test_a_replay_is_no_delivery(self, warehouse: Engine, tmp_path: Path) -> None:
        source = write_mapping(tmp_path, expected_every_hours=24, implies_items=True)
        ingest(
            warehouse,
            tmp_path,
            source,
            write_csv(tmp_path / "f.csv", [csv_line(1), csv_line(2), csv_line(3, price="x")]),
        )
        self._age(warehouse)
        rows = quarantine.read_rows(warehouse, QuarantineFilter())
        _replay(warehouse, tmp_path, {row.key for row in rows})
        assert [late.source for late in source_alerts.find_late_sources(warehouse)] == ["shop"]

    def test_a_source_without_a_promise_is_never_late(self, warehouse: Engine, tmp_path: Path) -> None:
        ingest(warehouse, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "f.csv", [csv_line(1)]))
        self._age(warehouse)
        assert source_alerts.find_late_sources(warehouse) == []

    def test_warnings_are_reported_once(self, warehouse: Engine, tmp_path: Path) -> None:
        (report,) = ingest(
            warehouse, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "f.csv", [csv_line(1, who="NaN")])
        )
        (found,) = source_alerts.find_warnings(warehouse)
        assert found.batch_id == report.batch_id
        assert "NaN" in found.warnings[0]
        source_alerts.mark_warnings_alerted(warehouse, [found.batch_id])
        assert source_alerts.find_warnings(warehouse) == []

    @staticmethod
    def _age(warehouse: Engine) -> None:
        """Makes all deliveries two days older."""
        with warehouse.begin() as connection:
            connection.execute(text("update batches set finished_at = finished_at - interval '2 days'"))
            connection.execute(text("update sources set first_seen_at = first_seen_at - interval '2 days'"))


def test_items_of_events_have_a_version_per_change(warehouse: Engine, tmp_path: Path) -> None:
    mapping = Path(write_mapping(tmp_path, implies_items=False))
    mapping.write_text(mapping.read_text(encoding="utf-8") + '\n[items]\ntitle = "name"\n', encoding="utf-8")
    path = tmp_path / "f.csv"
    names = ["Tea", "Tea", "Green tea", "Tea"]
    lines = [
        csv_line(day, what="i1", when=f"2024-07-0{day}T12:00:00Z") + f",{name}"
        for day, name in enumerate(names, start=1)
    ]
    path.write_text("\n".join(["id,who,what,did,when,price,name", *lines, ""]), encoding="utf-8")
    (report,) = ingest(warehouse, tmp_path, str(mapping), path)
    assert report.quarantined == 0
    with warehouse.connect() as connection:
        versions = connection.execute(
            text("select title, valid_from::date::text from item_versions where not implied order by valid_from")
        ).all()
    assert [tuple(version) for version in versions] == [
        ("Tea", "2024-07-01"),
        ("Green tea", "2024-07-03"),
        ("Tea", "2024-07-04"),
    ]


class TestProfileOfIds:
    def test_swapped_columns_reject_a_batch(self, warehouse: Engine, tmp_path: Path) -> None:
        source = write_mapping(tmp_path)
        ingest(warehouse, tmp_path, source, write_csv(tmp_path / "f.csv", map(csv_line, range(200))))
        swapped = [csv_line(n, who=f"i{n % 11}", what=f"u{n % 7}") for n in range(200, 400)]
        with pytest.raises(BatchRejected, match="the columns are swapped"):
            ingest(warehouse, tmp_path, source, write_csv(tmp_path / "g.csv", swapped))
        ingest(warehouse, tmp_path, source, write_csv(tmp_path / "h.csv", map(csv_line, range(200, 400))))

    def test_a_source_without_users_is_not_swapped(self, warehouse: Engine, tmp_path: Path) -> None:
        ingest(warehouse, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "f.csv", map(csv_line, range(200))))
        anonymous = Path(write_mapping(tmp_path, source="kiosk"))
        anonymous.write_text(anonymous.read_text(encoding="utf-8").replace("user_id", "session_id"), encoding="utf-8")
        lines = [csv_line(n, what=f"u{n % 7}") for n in range(200)]  # its items are numbered like the users of the shop
        (report,) = ingest(warehouse, tmp_path, str(anonymous), write_csv(tmp_path / "g.csv", lines))
        assert report.inserted == 200

    def test_equal_numbers_for_users_and_items_are_not_swapped(self, warehouse: Engine, tmp_path: Path) -> None:
        source = write_mapping(tmp_path)
        for name, start in (("f", 0), ("g", 200)):
            lines = [csv_line(n, who=n % 7, what=n % 11) for n in range(start, start + 200)]
            (report,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / f"{name}.csv", lines))
            assert report.inserted == 200

    @pytest.mark.parametrize(
        ("changes", "warning"),
        [
            ({"who": "crawler"}, "one user has more than half of the events"),
            ({"what": "new-{n}"}, "many more items than usual are new"),
            ({"who": "new-{n}"}, "many more users than usual are new"),
        ],
    )
    def test_unusual_users_and_items_are_a_warning(
        self, warehouse: Engine, tmp_path: Path, changes: dict[str, str], warning: str
    ) -> None:
        source = write_mapping(tmp_path)
        for start in (0, 200, 400):
            path = write_csv(tmp_path / f"{start}.csv", map(csv_line, range(start, start + 200)))
            ingest(warehouse, tmp_path, source, path)
        lines = [csv_line(n, **{name: value.format(n=n) for name, value in changes.items()}) for n in range(600, 800)]
        (report,) = ingest(warehouse, tmp_path, source, write_csv(tmp_path / "odd.csv", lines))
        with warehouse.connect() as connection:
            query = text("select warnings from batches where batch_id = :id")
            warnings = connection.scalar(query, {"id": report.batch_id})
        assert any(warning in found for found in warnings)


class TestContracts:
    @pytest.mark.parametrize(
        ("contract", "words"),
        [
            ('required = ["price"]', "price is missing in 2 rows, first in row 3"),
            ('unique = ["item_id"]', "item_id repeats in 2 rows, first in row 2"),
            ('values = {user_id = ["u1", "u2"]}', "user_id is not one of u1, u2 in 2 rows, first in row 4"),
            ("ranges = {price = {max = 1}}", "price is above 1 in 2 rows, first in row 2"),
            ('types = {"properties.color" = "number"}', "properties.color is no number in 1 rows, first in row 3"),
        ],
    )
    def test_a_violated_constraint_rejects_the_batch_and_names_the_row(
        self, warehouse: Engine, tmp_path: Path, contract: str, words: str
    ) -> None:
        with pytest.raises(BatchRejected, match=f"violate version 3 of the contract: {re.escape(words)}"):
            ingest(warehouse, tmp_path, *self._write(tmp_path, f"version = 3\n{contract}"))
        (page,) = (tmp_path / "gx/data_docs/validations").rglob("*.html")
        first_failing_row = words.rpartition(" ")[2]
        assert f"<td>{first_failing_row}</td>" in page.read_text(encoding="utf-8")

    def test_a_violation_may_only_warn(self, warehouse: Engine, tmp_path: Path) -> None:
        contract = 'version = 1\nseverity = "warning"\nrequired = ["price"]'
        (report,) = ingest(warehouse, tmp_path, *self._write(tmp_path, contract))
        assert report.inserted == 4
        with warehouse.connect() as connection:
            stored, warnings = connection.execute(text("select contract, warnings from batches")).one()
        assert (stored["contract"]["version"], stored["kind"]) == (1, "events")
        assert any("price is missing" in warning for warning in warnings)

    def test_a_kept_contract_is_no_finding(self, warehouse: Engine, tmp_path: Path) -> None:
        contract = 'version = 1\nrequired = ["user_id"]\nunique = ["event_id"]\nranges = {price = {min = 1}}'
        ingest(warehouse, tmp_path, *self._write(tmp_path, contract))
        assert count(warehouse, "select cardinality(warnings) from batches") == 0

    def test_a_column_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        source, path = self._write(tmp_path, 'version = 1\nrequired = ["prize"]')
        with pytest.raises(ConfigurationError, match="prize is not a column of events"):
            next(iter(read_source(source, [path])))

    @staticmethod
    def _write(folder: Path, contract: str) -> tuple[str, Path]:
        """Writes a mapping with a contract, and a file; returns the paths of both."""
        mapping = Path(write_mapping(folder))
        mapping.write_text(mapping.read_text(encoding="utf-8") + f"\n[contract]\n{contract}\n", encoding="utf-8")
        rows = [
            csv_line(1, who="u1", what="a", price="1.5") + ",1",
            csv_line(2, who="u2", what="b", price="") + ",red",
            csv_line(3, who="u3", what="a", price="2.5") + ",3",
            csv_line(4, who="u4", what="c", price="") + ",4",
        ]
        path = folder / "f.csv"
        path.write_text("\n".join(["id,who,what,did,when,price,color", *rows, ""]), encoding="utf-8")
        return str(mapping), path


def test_two_batches_are_compared(warehouse: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "engine", lambda: warehouse)
    monkeypatch.setattr(comparison, "settings", lambda: Settings(home=tmp_path))
    source = write_mapping(tmp_path)
    first, second = (
        ingest(warehouse, tmp_path, source, write_csv(tmp_path / f"{who}.csv", lines))[0].batch_id
        for who, lines in (
            ("a", [csv_line(1, who="a", what="x"), csv_line(2, who="b", what="x")]),
            (
                "b",
                [csv_line(3, who="b", what="y"), csv_line(4, who="b", what="y"), csv_line(5, who="b", did="purchase")],
            ),
        )
    )
    found = comparison.diff(first, second)
    assert found.ids == {"users": (1, [], ["a"]), "items": (0, ["i5", "y"], ["x"])}
    assert found.figures["read_rows"] == (2, 3)
    assert found.figures["stored purchase events"] == (None, 1)
    assert "stored view events" not in found.figures
    assert "1 in both, 0 new, 1 gone (a)" in "\n".join(found.lines())
    with pytest.raises(InputError, match="not both ids of batches"):
        comparison.diff(first, "unknown")
