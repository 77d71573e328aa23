"""Drafts of mappings: a draft can be read, and reads the file that it was made for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion.flat_files import read_flat_file
from recsys_tasks.ingestion.inference import draft_mapping
from recsys_tasks.ingestion.mapping import SourceMapping, load_mapping


def draft(path: Path) -> SourceMapping:
    """The mapping that the draft for a file describes."""
    target = path.with_name("draft.toml")
    target.write_text(draft_mapping(path), encoding="utf-8")
    return load_mapping(str(target))


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, read with the draft."""
    mapping = draft(path)
    return [row for part in read_flat_file(mapping, path).rows[mapping.kind] for row in part.to_pylist()]


def write(folder: Path, text: str, name: str = "visits.csv", encoding: str = "utf-8") -> Path:
    """Writes a file; returns its path."""
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_columns_are_found_by_name_and_times_by_their_values(tmp_path: Path) -> None:
    path = write(tmp_path, "Visitor_ID;SKU;Action;Datum;Preis\nu1;i1;buy;01.05.2024 10:00;1.234,50\n")
    (row,) = read(path)
    assert (row["user_id"], row["item_id"], row["event_type"]) == ("u1", "i1", "purchase")
    assert row["event_time"].startswith("2024-05-01T10:00:00")
    assert row["price"] == "1234.50"


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("1511544070", "unix_s"),
        ("1511544070123", "unix_ms"),
        ("1511544070123456", "unix_us"),
        ("2024-05-01 10:00:00", "iso8601"),
        ("20240501", "%Y%m%d"),
        ("31/12/2024", "%d/%m/%Y"),
    ],
)
def test_the_time_format_is_found(tmp_path: Path, time: str, expected: str) -> None:
    assert draft(write(tmp_path, f"user,item,time\nu,i,{time}\n")).time_format == expected


def test_a_file_without_header_gets_names_to_fill_in(tmp_path: Path) -> None:
    text = draft_mapping(write(tmp_path, "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,pv,1511561733\n"))
    assert 'header = ["column_1", "column_2", "column_3", "column_4", "column_5"]' in text
    assert 'event_time = "column_5"' in text
    assert "# not found by name: event_id, user_id" in text


@pytest.mark.parametrize(("delimiter", "format_"), [("::", "csv"), ("\t", "tsv"), ("|", "csv"), (",", "csv")])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str, format_: str) -> None:
    lines = [["user", "item", "time"], ["u1", "i1", "1511544070"], ["u2", "i2", "1511544071"]]
    path = write(tmp_path, "".join(delimiter.join(line) + "\n" for line in lines))
    assert draft(path).format == format_
    assert [row["user_id"] for row in read(path)] == ["u1", "u2"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
def test_the_encoding_is_found(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "user,item,time\nKäthe,i1,1511544070\n", encoding=encoding)
    assert [row["user_id"] for row in read(path)] == ["Käthe"]


def test_nested_records_become_paths(tmp_path: Path) -> None:
    record = {"customer": {"id": "u1"}, "lines": [{"sku": "a"}, {"sku": "b"}], "timestamp": "2024-05-01T10:00:00Z"}
    path = write(tmp_path, json.dumps(record) + "\n", "orders.jsonl")
    mapping = draft(path)
    assert mapping.array == "lines"
    assert [row["item_id"] for row in read(path)] == ["a", "b"]


def test_parquet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"user": [1], "item": [2], "event": ["view"], "timestamp": [1511544070]}), path)
    (row,) = read(path)
    assert (row["user_id"], row["event_time"][:10]) == ("1", "2017-11-24")


def test_a_list_of_items_is_no_list_of_events(tmp_path: Path) -> None:
    mapping = draft(write(tmp_path, "sku,title,category\ni1,Tea,Drinks\n"))
    assert (mapping.kind, mapping.columns["title"]) == ("items", "title")


def test_unknown_event_types_are_left_to_a_person(tmp_path: Path) -> None:
    text = draft_mapping(write(tmp_path, "user,item,type,time\nu,i,pv,1511544070\nu,i,fav,1511544070\n"))
    assert '"pv" = "view"' in text
    assert '# "fav" = ?  # 1 rows' in text


@pytest.mark.parametrize("text", ["", "user,item,time\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(MalformedFile, match="no row to infer"):
        draft_mapping(write(tmp_path, text))
