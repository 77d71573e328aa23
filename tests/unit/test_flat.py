"""Flat files as canonical rows, whatever is in them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion import reading
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.flat import read_flat
from recsys_tasks.ingestion.mapping import Mapping
from recsys_tasks.ingestion.times import to_utc

HEADER = "user,item,type,time,note"
ROW = "u,i,view,2024-07-01T12:00:00Z,n"
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=12)
per_example = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _mapping(**changes: object) -> Mapping:
    return Mapping.model_validate(
        {
            "source": "shop",
            "format": "csv",
            "on_error": "quarantine",
            "columns": {"user_id": "user", "item_id": "item", "event_type": "type", "event_time": "time"},
        }
        | changes
    )


def _read(path: Path, **changes: object) -> tuple[list[dict[str, object]], SourceBatch]:
    batch = read_flat(_mapping(**changes), path)
    rows = [row for found in batch.rows["events"] for row in found.to_pylist()]
    return rows, batch


def _write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


@per_example
@given(rows=st.lists(st.tuples(texts, texts), max_size=20))
def test_whatever_text_a_csv_writer_writes_comes_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(HEADER.split(","))
    writer.writerows((user, "i", "view", "2024-07-01T12:00:00Z", note) for user, note in rows)
    (tmp_path / "f.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    found, batch = _read(tmp_path / "f.csv")
    assert batch.bad_lines == []
    assert [row["user_id"] or "" for row in found] == [user for user, _ in rows]
    notes = [json.loads(str(row["properties"])).get("note", "") for row in found]
    assert notes == [note for _, note in rows]


@per_example
@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=20))
def test_a_block_at_once_and_line_by_line_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, str]]
) -> None:
    with (tmp_path / "f.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER.split(","), *((a, "i", "view", "t", b) for a, b in rows)])
    at_once, _ = _read(tmp_path / "f.csv")
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_parse_block", lambda *_: None)
        line_by_line, _ = _read(tmp_path / "f.csv")
    assert at_once == line_by_line


def test_each_row_has_the_number_of_its_line(tmp_path: Path) -> None:
    file = _write(tmp_path / "f.csv", HEADER, "", ROW, 'u,i,view,t,"two', 'lines"', ROW, "u,i", ROW)
    rows, batch = _read(file)
    assert [row["row_number"] for row in rows] == [3, 5, 6, 8]
    assert [(line.number, line.reason) for line in batch.bad_lines] == [(7, "2 fields where the header has 5")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("u,i", "2 fields where the header has 5"),
        ("u,i,view,t,n,more", "6 fields where the header has 5"),
        (b"u,\xff,view,t,n", "not UTF-8"),
        (b"u,\x00,view,t,n", "NUL"),
        ('u,"i,view,t,n', "fields where the header has 5"),
        ("u,i,view,t," + "9" * (3 << 20), "longer than 1 MB"),
    ],
)
def test_a_broken_line_is_set_aside_and_the_others_are_read(tmp_path: Path, line: str | bytes, problem: str) -> None:
    rows, batch = _read(_write(tmp_path / "f.csv", HEADER, ROW, line, ROW, ROW))
    assert [row["row_number"] for row in rows] == [2, 4, 5]
    ((number, reason),) = [(bad.number, bad.reason) for bad in batch.bad_lines]
    assert number == 3
    assert problem in reason
    with pytest.raises(MalformedFile, match=r"f\.csv, line 3: "):
        _read(tmp_path / "f.csv", on_error="reject")


def test_a_tenth_of_bad_rows_costs_the_tenth_alone(tmp_path: Path) -> None:
    lines = [ROW if number % 10 else "u,i" for number in range(1, 20_001)]
    rows, batch = _read(_write(tmp_path / "f.csv", HEADER, *lines))
    assert (len(rows), len(batch.bad_lines)) == (18_000, 2_000)
    assert [line.number for line in batch.bad_lines[:2]] == [11, 21]


def test_formula_cells_and_long_numbers_are_texts(tmp_path: Path) -> None:
    long = "9" * 100_000
    rows, batch = _read(_write(tmp_path / "f.csv", HEADER, f"=1+1,{long},view,t,@x"))
    assert (rows[0]["user_id"], rows[0]["item_id"], batch.bad_lines) == ("=1+1", long, [])


@pytest.mark.parametrize(("content", "rows"), [("", 0), (HEADER, 0), (HEADER + "\n", 0), (f"{HEADER}\r\n{ROW}\r\n", 1)])
def test_a_header_alone_is_no_row(tmp_path: Path, content: str, rows: int) -> None:
    (tmp_path / "f.csv").write_bytes(content.encode())
    if content:
        assert len(_read(tmp_path / "f.csv")[0]) == rows
    else:
        with pytest.raises(MalformedFile, match="no column 'user'; the file has none"):
            _read(tmp_path / "f.csv")


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedFile, match="the header has 'note' more than once"):
        _read(_write(tmp_path / "f.csv", HEADER + ",note"))


def test_a_file_cut_off_in_the_middle_is_named_with_the_line(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join([HEADER, *(f"u{n},i,view,t,n" for n in range(100_000))]).encode())
    (tmp_path / "f.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MalformedFile, match=r"f\.csv\.gz, line \d+: the file cannot be read from here on"):
        _read(tmp_path / "f.csv.gz")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_files_are_decompressed_by_their_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"f.csv{suffix}"
    with pa.output_stream(str(path), compression="detect") as file:
        file.write(f"{HEADER}\n{ROW}\n".encode())
    assert len(_read(path)[0]) == 1


def test_columns_that_nobody_mapped_become_properties_and_are_reported(tmp_path: Path) -> None:
    file = _write(tmp_path / "f.csv", HEADER + ",shop,secret", ROW + ',"a ""quoted"" \\ shop",x')
    rows, batch = _read(file, ignore=["secret"])
    assert json.loads(str(rows[0]["properties"])) == {"note": "n", "shop": 'a "quoted" \\ shop'}
    assert batch.columns == [*HEADER.split(","), "shop", "secret"]


def test_types_of_a_parquet_file_are_kept_in_properties(tmp_path: Path) -> None:
    at = datetime(2024, 7, 1, 12, tzinfo=UTC)
    row = {"user": 7, "item": "i", "type": "view", "time": at, "n": 1.5, "ok": True, "none": None, "tags": ["a"]}
    pq.write_table(pa.Table.from_pylist([row, row | {"item": "a\x00b"}]), tmp_path / "f.parquet")
    rows, batch = _read(tmp_path / "f.parquet", format="parquet")
    assert [line.number for line in batch.bad_lines] == [2]
    assert (rows[0]["user_id"], rows[0]["event_time"]) == ("7", "2024-07-01T12:00:00.000000Z")
    assert json.loads(str(rows[0]["properties"])) == {"n": 1.5, "ok": True, "tags": ["a"]}


def test_what_json_lines_say_beside_the_mapped_fields_is_kept(tmp_path: Path) -> None:
    record = {"user": "u", "item": 5, "type": "seen", "time": "2024-07-01T12:00:00Z", "n": 1, "deep": {"a": [1]}}
    file = _write(tmp_path / "f.jsonl", json.dumps(record), "", "{", json.dumps(record))
    rows, batch = _read(file, format="jsonl", event_types={"seen": "view"}, id_prefix="x-")
    assert [row["row_number"] for row in rows] == [1, 4]
    assert (rows[0]["user_id"], rows[0]["item_id"], rows[0]["event_type"]) == ("x-u", "x-5", "view")
    assert json.loads(str(rows[0]["properties"])) == {"n": 1, "deep": {"a": [1]}}
    assert [line.number for line in batch.bad_lines] == [3]


moments = st.datetimes(datetime(1971, 1, 1), datetime(2037, 1, 1)).map(lambda at: at.replace(fold=0))  # noqa: DTZ001
zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Shanghai", "America/New_York"])


def _instant(text: object) -> datetime:
    return datetime.fromisoformat(str(text))


@settings(deadline=None)
@given(at=moments, zone=zones)
def test_local_times_are_those_of_their_zone(at: datetime, zone: str) -> None:
    local = at.replace(tzinfo=ZoneInfo(zone))
    instant = local.astimezone(UTC)
    if instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None) != at:
        return  # a time that the clocks jumped over
    (found,) = to_utc(pa.array([at.isoformat()]), "iso8601", zone).to_pylist()
    assert _instant(found) == instant
    (found,) = to_utc(pa.array([at.strftime("%d.%m.%Y %H:%M:%S")]), "%d.%m.%Y %H:%M:%S", zone).to_pylist()
    assert _instant(found) == instant.replace(microsecond=0)


@settings(deadline=None)
@given(at=moments)
def test_seconds_and_milliseconds_since_1970(at: datetime) -> None:
    instant = at.replace(tzinfo=UTC, microsecond=at.microsecond // 1000 * 1000)
    millis = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    (by_millis,) = to_utc(pa.array([str(millis)]), "unix_ms", "UTC").to_pylist()
    (by_seconds,) = to_utc(pa.array([f"{millis / 1000:.3f}"]), "unix_s", "UTC").to_pylist()
    assert _instant(by_millis) == instant
    assert abs(_instant(by_seconds) - instant) < timedelta(milliseconds=1)


@pytest.mark.parametrize("time_format", ["iso8601", "unix_s", "unix_ms", "%Y-%m-%d", "%d %b %Y"])
def test_a_time_that_cannot_be_read_stays_as_it_was_and_harms_no_other(time_format: str) -> None:
    good = {"iso8601": "2024-07-01", "%d %b %Y": "01 Jul 2024", "%Y-%m-%d": "2024-07-01"}.get(time_format, "0")
    bad = ["soon", "9" * 40, "2024-13-45T99:00", ""]
    found = to_utc(pa.array([good, None, *bad]), time_format, "UTC").to_pylist()
    assert found[0].endswith("Z")
    assert found[1:] == [None, *bad]


def test_mixed_zones_in_one_column() -> None:
    given_times = ["2024-07-01T12:00:00+02:00", "2024-07-01T12:00:00", "2024-07-01T10:00:00Z"]
    found = to_utc(pa.array(given_times), "iso8601", "Europe/Berlin").to_pylist()
    assert {_instant(text) for text in found} == {datetime(2024, 7, 1, 10, tzinfo=UTC)}
