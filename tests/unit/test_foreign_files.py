"""Files of other shops by mapping alone: headers, encodings, number formats, expressions, nested records."""

from __future__ import annotations

import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys_tasks.errors import ConfigurationError, MalformedFile
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.flat_files import read_flat_file
from recsys_tasks.ingestion.mapping import SourceMapping, load_mapping
from recsys_tasks.ingestion.number_formats import read_numbers

COLUMNS = {"user_id": "user", "item_id": "item", "event_type": "type", "event_time": "at"}
TIME = "2024-05-01T10:00:00Z"
LINE = f"u1,i1,view,{TIME}\n"
HEADER = "user,item,type,at\n"
Rows = dict[str, list[dict[str, Any]]]


def mapping(**keys: Any) -> SourceMapping:
    """A mapping of CSV files with the columns user, item, type and at."""
    return SourceMapping.model_validate(
        {"source": "shop", "format": "csv", "on_error": "quarantine", "columns": COLUMNS} | keys
    )


def read(path: Path, source: SourceMapping) -> tuple[Rows, SourceBatch]:
    """All rows of a file by kind, without the columns that are null."""
    batch = read_flat_file(source, path)
    rows = {kind: [row for part in parts for row in part.to_pylist()] for kind, parts in batch.rows.items()}
    return {
        kind: [{name: value for name, value in row.items() if value is not None} for row in found]
        for kind, found in rows.items()
    }, batch


def read_text(folder: Path, text: str, written_in: str = "utf-8", **keys: Any) -> list[dict[str, Any]]:
    """The events of a file with this text."""
    (folder / "f.csv").write_bytes(text.encode(written_in))
    return read(folder / "f.csv", mapping(**keys))[0]["events"]


def read_records(folder: Path, records: list[dict[str, Any]], **keys: Any) -> Rows:
    """The rows of a JSONL file with these records, by kind."""
    path = folder / "f.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return read(path, mapping(format="jsonl", **keys))[0]


class TestHeader:
    def test_a_file_without_header_gets_its_names_from_the_mapping_and_loses_no_line(self, tmp_path: Path) -> None:
        events = read_text(tmp_path, LINE * 3, header=["user", "item", "type", "at"])
        assert [(row["row_number"], row["user_id"], row["item_id"]) for row in events] == [
            (number, "u1", "i1") for number in (1, 2, 3)
        ]

    def test_a_line_with_another_number_of_fields_is_a_bad_line(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_text(LINE + "u1,i1,view\n", encoding="utf-8")
        rows, batch = read(tmp_path / "f.csv", mapping(header=["user", "item", "type", "at"]))
        assert len(rows["events"]) == 1
        assert [line.reason for line in batch.bad_lines] == ["3 fields where the header has 4"]

    def test_a_missing_header_is_named_as_a_cause(self, tmp_path: Path) -> None:
        with pytest.raises(MalformedFile, match="if the file has no header, name its columns in `header`"):
            read_text(tmp_path, LINE * 2)

    def test_a_first_line_that_looks_like_data_is_a_warning(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_text("1,2,view,1511544070\n3,4,view,1511544071\n", encoding="utf-8")
        columns = {"user_id": "1", "item_id": "2", "event_type": "view", "event_time": "1511544070"}
        _, batch = read(tmp_path / "f.csv", mapping(columns=columns, time_format="unix_s"))
        assert ["looks like data: 1, 2, view, 1511544070" in warning for warning in batch.warnings] == [True]

    def test_lines_before_the_header_are_skipped_and_counted(self, tmp_path: Path) -> None:
        events = read_text(tmp_path, "Export of 1 May\n\n" + HEADER + LINE, skip_lines=2)
        assert [row["row_number"] for row in events] == [4]

    def test_a_delimiter_may_have_several_characters(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_text(f"u1::i:2::view::{TIME}\nu::i\n", encoding="utf-8")
        rows, batch = read(tmp_path / "f.csv", mapping(delimiter="::", header=["user", "item", "type", "at"]))
        assert [(row["user_id"], row["item_id"]) for row in rows["events"]] == [("u1", "i:2")]
        assert [line.raw for line in batch.bad_lines] == ["u::i"]

    @pytest.mark.parametrize("delimiter", ["::", "§"])
    def test_a_delimiter_within_quotes_stays(self, tmp_path: Path, delimiter: str) -> None:
        line = delimiter.join(["u1", f'"a{delimiter}b"', "view", TIME])
        header = ["user", "item", "type", "at"]
        (event,) = read_text(tmp_path, line + "\n", delimiter=delimiter, header=header)
        assert event["item_id"] == f"a{delimiter}b"


class TestEncoding:
    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-8-sig", "gb18030"])
    def test_text_in_a_named_encoding_is_read(self, tmp_path: Path, encoding: str) -> None:
        query = "电脑" if encoding in ("gb18030", "utf-16", "utf-16-le") else "Käse"
        events = read_text(tmp_path, HEADER + f"{query},i1,view,{TIME}\n", encoding, encoding=encoding)
        assert [row["user_id"] for row in events] == [query]

    def test_utf_16_is_known_by_its_byte_order_mark(self, tmp_path: Path) -> None:
        assert len(read_text(tmp_path, HEADER + LINE, "utf-16")) == 1

    def test_bytes_outside_the_encoding_are_a_bad_line(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_bytes(HEADER.encode() + b"\x81,i1,view,t\n" + LINE.encode())
        rows, batch = read(tmp_path / "f.csv", mapping(encoding="cp1252"))
        assert len(rows["events"]) == 1
        assert [(line.number, "encoding" in line.reason) for line in batch.bad_lines] == [(2, True)]

    def test_half_a_character_at_the_end_of_utf_16_rejects_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_bytes((HEADER + LINE).encode("utf-16") + b"\x00")
        with pytest.raises(MalformedFile, match="cannot be read beyond this line"):
            read(tmp_path / "f.csv", mapping())

    def test_an_unknown_encoding_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="unknown encoding 'latin-99'"):
            mapping(encoding="latin-99")

    def test_a_zip_archive_of_one_file_is_read(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "f.csv.zip", "w") as archive:
            archive.writestr("export/f.csv", HEADER + LINE)
            archive.writestr("__MACOSX/._f.csv", "x")
        assert len(read(tmp_path / "f.csv.zip", mapping())[0]["events"]) == 1

    def test_a_zip_archive_of_several_files_is_rejected(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
            archive.writestr("a.csv", HEADER)
            archive.writestr("b.csv", HEADER)
        with pytest.raises(MalformedFile, match=r"2 files \(a.csv, b.csv\)"):
            read(tmp_path / "f.zip", mapping())

    def test_a_damaged_zip_archive_is_rejected(self, tmp_path: Path) -> None:
        (tmp_path / "f.zip").write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(MalformedFile):
            read(tmp_path / "f.zip", mapping())


class TestNumbers:
    @pytest.mark.parametrize(
        ("keys", "text", "expected"),
        [
            ({"decimal": ","}, "12,50", "12.50"),
            ({"decimal": ","}, "1.234", "1234"),
            ({"decimal": ","}, "1.234.567,5", "1234567.5"),
            ({"decimal": ",", "thousands": " "}, "1\u00a0234,5", "1234.5"),
            ({"decimal": ",", "thousands": "'"}, "1'234,5", "1234.5"),
            ({"thousands": ","}, "1,234.5", "1234.5"),
            ({"decimal": ","}, "-3", "-3"),
        ],
    )
    def test_numbers_are_read_with_the_signs_of_the_mapping(
        self, tmp_path: Path, keys: dict[str, str], text: str, expected: str
    ) -> None:
        line = LINE.replace(",", ";").rstrip() + f";{text}\n"
        columns = COLUMNS | {"price": "price"}
        header = HEADER.replace(",", ";").rstrip() + ";price\n"
        (event,) = read_text(tmp_path, header + line, delimiter=";", columns=columns, **keys)
        assert event["price"] == expected

    @pytest.mark.parametrize("text", ["1.5", "12.34", "1,234.5", "12,", "1.2345", "x"])
    def test_what_is_no_number_with_these_signs_is_never_another_number(self, text: str) -> None:
        (found,) = read_numbers(pa.array([text]), ",", ".").to_pylist()
        assert found == f"{text} (with the decimal separator ,)"

    @given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from([(",", "."), (",", " "), (".", ","), (",", "")]))
    def test_a_written_number_is_read_back(self, number: Decimal, signs: tuple[str, str]) -> None:
        decimal, thousands = signs
        text = f"{number:,.2f}".replace(",", "T").replace(".", decimal).replace("T", thousands)
        assert Decimal(read_numbers(pa.array([text]), *signs)[0].as_py()) == number

    def test_the_signs_must_differ(self) -> None:
        with pytest.raises(ValidationError, match="decimal and thousands are both"):
            mapping(decimal=",", thousands=",")

    def test_numbers_of_parquet_have_no_decimal_sign(self, tmp_path: Path) -> None:
        columns = {"user": ["u"], "item": ["i"], "type": ["view"], "at": [TIME], "price": [1.5]}
        pq.write_table(pa.table(columns), tmp_path / "f.parquet")
        source = mapping(format="parquet", decimal=",", columns=COLUMNS | {"price": "price"})
        assert read(tmp_path / "f.parquet", source)[0]["events"][0]["price"] == "1.5"


class TestExpressions:
    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            ({"concat": ["user", "item"], "separator": "-"}, "u1-i1"),
            ({"coalesce": ["missing", "item"]}, "i1"),
            ({"split": "item", "separator": "i", "part": 2}, "1"),
            ({"split": "item", "separator": "i", "part": -1}, "1"),
            ({"split": "item", "separator": "i", "part": 3}, None),
            ({"lower": "type"}, "view"),
            ({"map": "item", "values": {"i1": "one"}}, "one"),
            ({"constant": "same"}, "same"),
            ({"lower": {"concat": ["type", {"constant": "X"}]}}, "viewx"),
        ],
    )
    def test_a_column_may_be_an_expression(self, tmp_path: Path, expression: dict[str, Any], expected: object) -> None:
        columns = COLUMNS | {"session_id": expression}
        (event,) = read_text(
            tmp_path, HEADER + LINE, columns=columns, optional=["missing"] if "missing" in str(expression) else []
        )
        assert event.get("session_id") == expected

    @pytest.mark.parametrize(
        ("expression", "message"),
        [
            ({}, "an expression has one of"),
            ({"lower": "a", "constant": "b"}, "an expression has one of"),
            ({"split": "a"}, "split needs a separator and a part"),
            ({"map": "a"}, "map needs values"),
            ({"lower": "a", "part": 1}, "part belongs to split"),
            ({"eval": "1 + 1"}, "Extra inputs are not permitted"),
        ],
    )
    def test_an_invalid_expression_is_refused(self, expression: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            mapping(columns=COLUMNS | {"session_id": expression})

    def test_the_reason_of_an_invalid_expression_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "mapping.toml"
        path.write_text(
            'source = "shop"\nformat = "csv"\n[columns]\n'
            'user_id = {split = "url"}\nevent_type = "t"\nevent_time = "at"\n',
            encoding="utf-8",
        )
        with pytest.raises(ConfigurationError, match=r"columns.user_id: split needs a separator and a part"):
            load_mapping(str(path))

    def test_white_space_is_trimmed_where_the_mapping_says_so(self, tmp_path: Path) -> None:
        text = " user ,item,type,at\n" + f" u1 , ,view,{TIME}\n"
        (event,) = read_text(tmp_path, text, trim=True)
        assert event["user_id"] == "u1"
        assert "item_id" not in event


def test_ignored_event_types_are_counted_and_no_rows(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(HEADER + LINE + LINE.replace("view", "fav"), encoding="utf-8")
    rows, batch = read(tmp_path / "f.csv", mapping(ignore_event_types=["fav"]))
    assert len(rows["events"]) == 1
    assert batch.ignored_rows == 1
    assert batch.bad_lines == []


class TestItemsOfEvents:
    def test_events_tell_of_items_and_users(self, tmp_path: Path) -> None:
        text = "user,item,type,at,name,city\n" + "".join(
            f"u1,{item},view,2024-05-0{day}T10:00:00Z,{name},Bonn\n"
            for day, item, name in (
                (1, "i1", "Tea"),
                (2, "i1", "Tea"),
                (3, "i1", "Tea"),
                (4, "i1", "Green tea"),
                (5, "", "x"),
            )
        )
        (tmp_path / "f.csv").write_text(text, encoding="utf-8")
        source = mapping(items={"title": "name"}, users={"properties": {"concat": ["city"]}})
        rows, _ = read(tmp_path / "f.csv", source)
        assert [(row["item_id"], row["title"], row["valid_from"][:10]) for row in rows["items"]] == [
            ("i1", "Tea", "2024-05-01"),
            ("i1", "Tea", "2024-05-03"),
            ("i1", "Green tea", "2024-05-04"),
        ]
        assert [row["user_id"] for row in rows["users"]] == ["u1", "u1"]
        assert len(rows["events"]) == 5

    def test_events_without_attributes_or_a_valid_time_change_no_item(self, tmp_path: Path) -> None:
        lines = [
            f"u,i1,view,{TIME},Shoe",
            f"u,i1,purchase,{TIME.replace('10', '11')},",
            "u,i1,view,n/a,Boot",
            "u,i1,view,,Boot",
        ]
        (tmp_path / "f.csv").write_text("\n".join(["user,item,type,at,name", *lines, ""]), encoding="utf-8")
        rows, _ = read(tmp_path / "f.csv", mapping(items={"title": "name"}))
        assert [row["title"] for row in rows["items"]] == ["Shoe"]
        assert len(rows["events"]) == 4

    def test_bad_lines_are_reported_once(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_text(HEADER + LINE + "u1\n", encoding="utf-8")
        _, batch = read(tmp_path / "f.csv", mapping(items={"title": "item"}))
        assert len(batch.bad_lines) == 1

    def test_items_need_an_id(self) -> None:
        columns = {"user_id": "user", "event_type": "type", "event_time": "at"}
        with pytest.raises(ValidationError, match="items needs a column for item_id"):
            mapping(columns=columns, items={"title": "name"})


class TestNestedRecords:
    COLUMNS: ClassVar[dict[str, Any]] = {
        "event_id": "order",
        "user_id": "customer.id",
        "item_id": "lines[].sku",
        "quantity": "lines[].count",
        "event_type": "type",
        "event_time": "at",
    }

    def test_each_array_element_is_a_row_with_an_id_of_its_own(self, tmp_path: Path) -> None:
        order = {"order": 7, "customer": {"id": 1}, "type": "purchase", "at": TIME}
        lines = [{"sku": "a", "count": 2}, {"sku": "b", "count": 1, "gift": True}]
        rows = read_records(tmp_path, [order | {"lines": lines}], columns=self.COLUMNS)["events"]
        assert [(row["event_id"], row["user_id"], row["item_id"], row["quantity"]) for row in rows] == [
            ("7#1", "1", "a", "2"),
            ("7#2", "1", "b", "1"),
        ]
        assert "properties" not in rows[0]
        assert json.loads(rows[1]["properties"]) == {"lines": {"gift": True}}
        assert [row["row_number"] for row in rows] == [1, 2]

    def test_a_record_without_elements_stays_a_row(self, tmp_path: Path) -> None:
        order = {"order": 7, "customer": {"id": 1}, "type": "purchase", "at": TIME}
        rows = read_records(
            tmp_path, [order | {"lines": []}, order | {"lines": [{"sku": "a", "count": 1}]}], columns=self.COLUMNS
        )
        assert [row.get("item_id") for row in rows["events"]] == [None, "a"]
        assert [row["event_id"] for row in rows["events"]] == ["7#0", "7#1"]

    def test_a_path_that_no_record_has_rejects_the_file(self, tmp_path: Path) -> None:
        columns = {"user_id": "customer.id", "item_id": "item", "event_type": "type", "event_time": "at"}
        with pytest.raises(MalformedFile, match=r"no column 'customer.id'"):
            read_records(
                tmp_path, [{"customer": {"name": "x"}, "item": "i", "type": "view", "at": TIME}], columns=columns
            )

    def test_a_field_named_like_the_path_comes_first(self, tmp_path: Path) -> None:
        columns = {"user_id": "customer.id", "item_id": "item", "event_type": "type", "event_time": "at"}
        record = {"customer.id": "flat", "item": "i", "type": "view", "at": TIME}
        assert read_records(tmp_path, [record], columns=columns)["events"][0]["user_id"] == "flat"

    def test_a_nested_field_can_be_ignored(self, tmp_path: Path) -> None:
        columns = {"user_id": "customer.id", "item_id": "item", "event_type": "type", "event_time": "at"}
        customer = {"id": "c1", "mail": "x@example.com", "city": "Bonn"}
        record = {"customer": customer, "item": "i", "type": "view", "at": TIME}
        (row,) = read_records(tmp_path, [record], columns=columns, ignore=["customer.mail"])["events"]
        assert json.loads(row["properties"]) == {"customer": {"city": "Bonn"}}

    def test_elements_of_two_arrays_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="the elements of one array"):
            mapping(format="jsonl", columns=COLUMNS | {"price": "a[].price", "quantity": "b[].n"})

    def test_arrays_belong_to_jsonl(self) -> None:
        with pytest.raises(ValidationError, match=r"paths with \[\] apply to jsonl only"):
            mapping(columns=COLUMNS | {"price": "a[].price"})
