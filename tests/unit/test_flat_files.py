# ruff: noqa: DTZ001 (local times have no zone)
"""Flat-file adapter: round trips, malformed lines, types and times."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Literal
from unittest import mock
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion import file_readers
from recsys_tasks.ingestion.batch import BadLine, SourceBatch
from recsys_tasks.ingestion.file_readers import TextFormat
from recsys_tasks.ingestion.flat_files import read_flat_file
from recsys_tasks.ingestion.ids import float_to_text
from recsys_tasks.ingestion.mapping import SourceMapping
from recsys_tasks.ingestion.times import add_milliseconds, time_converter, to_utc

HEAD = b"who,what,did,when\n"
GOOD = b"u,i,view,2024-07-01T10:00:00Z\n"
TEXTS = st.text(st.one_of(st.sampled_from(',"\n\r\t \\é'), st.characters(codec="utf-8", exclude_characters="\0")))
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(lambda moment: moment.replace(fold=0))
Row = dict[str, object]


def _mapping(format_: str = "csv", **more: object) -> SourceMapping:
    columns = {"user_id": "who", "item_id": "what", "event_type": "did", "event_time": "when"}
    return SourceMapping.model_validate({"source": "shop", "format": format_, "columns": columns} | more)


def _read(path: Path, mapping: SourceMapping) -> tuple[list[Row], SourceBatch]:
    batch = read_flat_file(mapping, path)
    return [row for part in batch.rows[mapping.kind] for row in part.to_pylist()], batch


def _read_bytes(tmp_path: Path, content: bytes, name: str = "f.csv", **more: object) -> tuple[list[Row], SourceBatch]:
    path = tmp_path / name
    path.write_bytes(content)
    more = {"on_error": "quarantine"} | more
    return _read(path, _mapping(path.suffixes[0][1:], **more))


def _read_table(tmp_path: Path, *, more: dict[str, object] | None = None, **columns: object) -> list[Row]:
    base = {"who": ["u"], "what": ["i"], "did": ["view"], "when": ["2024-07-01T10:00:00Z"]}
    pq.write_table(pa.table(base | columns), tmp_path / "f.parquet")
    return _read(tmp_path / "f.parquet", _mapping("parquet", **(more or {})))[0]


def _bad(batch: SourceBatch) -> list[tuple[int, str]]:
    return [(line.number, line.reason) for line in batch.bad_lines]


@given(
    st.lists(st.tuples(TEXTS, TEXTS, TEXTS)),
    st.sampled_from(
        [("\r\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL)]
    ),  # Python quotes a bare \r only in these modes
    st.sampled_from(",\t"),
    st.integers(1, 99),
)
def test_a_csv_round_trip_returns_the_same_table(
    rows: list[tuple[str, ...]], style: tuple[str, Literal[0, 1]], delimiter: str, block_bytes: int
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=style[0], quoting=style[1])
    writer.writerows([("a", "b", "c"), *rows])
    content = text.getvalue().encode()
    reader = csv.reader((line.decode() for line in io.BytesIO(content)), delimiter=delimiter)
    numbers = [reader.line_num for _ in reader][1:]
    bad: list[BadLine] = []
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(file_readers, "_BLOCK_BYTES", block_bytes):
        path = Path(folder) / "f"
        path.write_bytes(content)
        blocks = list(file_readers.read_csv(path, TextFormat(delimiter), lambda header: None, bad.append))
    assert bad == []
    assert [number for block in blocks for number in block.numbers.to_pylist()] == numbers
    columns = ([value for block in blocks for value in block.columns[name].to_pylist()] for name in "abc")
    assert list(zip(*columns, strict=True)) == rows


@settings(max_examples=1_500)
@given(
    st.lists(st.sampled_from([b"a", b"b", b",", b'"', b"\n", b"\r", b"\r\n", b'",', b',"', b"\xff", b"\0"])).map(
        b"".join
    )
)
@example(b'a"b,"c')
@example(b'"ab"c,d\n')
@example(b"a,b\rc,d\n\n")
def test_both_block_parsers_return_the_same_rows(block: bytes) -> None:
    at_once = file_readers._parse_block_with_arrow(block, ["x", "y"], ",", 7)
    if at_once is None:
        return
    bad: list[BadLine] = []
    source = mock.Mock(next_line=lambda: b"")
    by_row = file_readers._parse_block_by_row(block, ["x", "y"], ",", 7, source, bad.append)
    assert bad == []
    assert by_row.numbers == at_once.numbers
    assert by_row.columns == at_once.columns


@given(
    st.lists(
        st.one_of(st.just(GOOD), st.sampled_from([b"\n", b'u,"i,view,t\n', b"u,i\n", b'u,"i\n",view,t\n'])), max_size=40
    )
)
def test_block_boundaries_do_not_change_the_parsed_rows(lines: list[bytes]) -> None:
    found = []
    for block_bytes in (1, 50, 10_000):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(file_readers, "_BLOCK_BYTES", block_bytes):
            rows, batch = _read_bytes(Path(folder), HEAD + b"".join(lines))
        found.append(([row["row_number"] for row in rows], _bad(batch)))
    assert found[0] == found[1] == found[2]
    assert sum(line == GOOD for line in lines) <= len(found[0][0])


def test_a_stray_quote_at_a_block_end_invalidates_only_its_line(tmp_path: Path) -> None:
    before = (2 << 20) // len(GOOD)
    rows, batch = _read_bytes(tmp_path, HEAD + GOOD * before + b'u,"i,view,2024-07-01T10:00:00Z\n' + GOOD * 1_000)
    assert len(rows) == before + 1_000
    assert _bad(batch) == [(before + 2, "unclosed quotes")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"u,i\n", "2 fields where the header has 4"),
        (b"u,i,view,t,x\n", "5 fields where the header has 4"),
        (b"u,i\0,view,t\n", "contains a NUL character"),
        (b"u,\xff,view,t\n", "not UTF-8"),
        (b'u,"i,view,t\n', "unclosed quotes"),
        (b"u," + b"1" * 5_000_000 + b",view,t\n", "longer than 1 MB"),
        (b"u," + b"1" * 50_000_000 + b",view,t\n", "longer than 1 MB"),
        (b"u\rx,i,view,t\n", "not valid CSV: new-line character seen in unquoted field"),
    ],
)
def test_a_malformed_line_is_collected_or_rejects_the_file_with_its_number(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    before = b'\nu,"i\r\nj",view,2024-07-01T10:00:00Z\r\n\n'
    content = b"\xef\xbb\xbf" + HEAD + before + line + GOOD
    rows, batch = _read_bytes(tmp_path, content)
    assert [(row["row_number"], row["item_id"]) for row in rows] == [(4, "i\r\nj"), (7, "i")]
    ((number, found),) = _bad(batch)
    assert (number, found[: len(reason)]) == (6, reason)
    assert len(batch.bad_lines[0].raw) <= 2_000
    assert "\0" not in batch.bad_lines[0].raw
    with pytest.raises(MalformedFile, match=f"f.csv, line 6: {reason}"):
        _read_bytes(tmp_path, content, on_error="reject")


def test_all_malformed_lines_are_collected(tmp_path: Path) -> None:
    rows, batch = _read_bytes(tmp_path, HEAD + (GOOD * 9 + b"u,i\n") * 10_000)
    assert (len(rows), len(batch.bad_lines)) == (90_000, 10_000)
    assert [line.number for line in batch.bad_lines] == list(range(11, 100_002, 10))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no column 'who'; the file has none"),
        (b"who,what,did\nu,i,view\n", "no column 'when'; the file has who, what, did"),
        (b"who,what,did,when,who\n", "the header has 'who' more than once"),
        (b"who,what,did,when,\xff\n", "the header cannot be read: not UTF-8"),
        (b"who,what,did,when,\0\n", "the header cannot be read: contains a NUL character"),
        (b'who,what,did,"when\n' + GOOD, "the header cannot be read: unclosed quotes"),
    ],
)
def test_an_invalid_header_rejects_the_file_even_with_on_error_quarantine(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    with pytest.raises(MalformedFile, match=f"line 1: {problem}"):
        _read_bytes(tmp_path, content)


@pytest.mark.parametrize("name", ["f.csv.gz", "f.csv.zst", "f.jsonl.gz", "f.parquet"])
@pytest.mark.parametrize("truncated", [False, True])
def test_a_file_is_read_completely_or_rejected(tmp_path: Path, name: str, truncated: bool) -> None:
    columns = {"who": [f"u{n * 7919 % 5000}" for n in range(5_000)], "what": ["i"] * 5_000}
    table = pa.table(columns | {"did": ["view"] * 5_000, "when": ["2024-07-01T10:00:00Z"] * 5_000})
    plain = io.BytesIO()
    if name == "f.parquet":
        pq.write_table(table, plain)
    elif "csv" in name:
        pa.csv.write_csv(table, plain)
    else:
        plain.write(b"".join(json.dumps(row).encode() + b"\n" for row in table.to_pylist()))
    whole = plain.getvalue()
    if name.endswith("gz"):
        half = len(whole) // 2
        whole = gzip.compress(whole[:half]) + gzip.compress(whole[half:])
    elif name.endswith("zst"):
        whole = pa.Codec("zstd").compress(whole, asbytes=True)
    if not truncated:
        rows, _ = _read_bytes(tmp_path, whole, name)
        assert [row["user_id"] for row in rows] == columns["who"]
        return
    with pytest.raises(MalformedFile, match=name):
        _read_bytes(tmp_path, whole[: len(whole) * 2 // 3], name)


def test_a_file_with_only_a_header_has_columns_and_no_rows(tmp_path: Path) -> None:
    rows, batch = _read_bytes(tmp_path, HEAD)
    assert (rows, batch.columns, batch.bad_lines) == ([], ["who", "what", "did", "when"], [])


def test_id_prefixes_and_event_types_are_mapped_and_empty_text_is_null(tmp_path: Path) -> None:
    content = HEAD + b"=1+1,i,seen,t\n,i,other,\n"
    rows, _ = _read_bytes(tmp_path, content, id_prefix="x-", event_types={"seen": "view"})
    wanted = ("user_id", "item_id", "event_type", "event_time", "event_id", "properties")
    assert [tuple(row[name] for name in wanted) for row in rows] == [
        ("x-=1+1", "x-i", "view", "t", None, None),
        (None, "x-i", "other", None, None, None),
    ]


@pytest.mark.parametrize(
    ("separator", "path", "expected"),
    [
        ("/", "Food/Milk", "Food > Milk"),
        ("/", "/Food / Milk/", "Food > Milk"),
        ("|", "Food || Milk", "Food > Milk"),
        (" :: ", "Food::Milk", "Food > Milk"),
        (".*", "Food.*Milk.", "Food > Milk."),
        (" > ", "Food/Milk", "Food/Milk"),
    ],
)
def test_category_paths_get_one_separator(tmp_path: Path, separator: str, path: str, expected: str) -> None:
    file = tmp_path / "items.csv"
    file.write_text(f"id,path\ni1,{path}\ni2,\n")
    columns = {"item_id": "id", "category_path": "path"}
    mapping = _mapping(kind="items", columns=columns, category_separator=separator)
    assert [row["category_path"] for row in _read(file, mapping)[0]] == [expected, None]


def test_a_blank_category_separator_is_refused() -> None:
    with pytest.raises(ValidationError, match="category_separator"):
        _mapping(category_separator=" ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.csv", b"who,what,did,when,x\nu,i,view,t,1\n"),
        ("f.jsonl", b'{"who": "u", "what": "i", "did": "view", "when": "t", "x": 1}\n'),
    ],
)
def test_all_unmapped_columns_can_be_ignored(tmp_path: Path, name: str, content: bytes) -> None:
    ((row,), batch) = _read_bytes(tmp_path, content, name, ignore=["*"])
    assert row["properties"] is None
    assert "x" in batch.columns
    assert _read_bytes(tmp_path, content, name)[0][0]["properties"] is not None


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1))
def test_unmapped_columns_become_properties(rows: list[tuple[str, ...]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("who", "what", "did", "when", 'a"é', "b", "c")])
    csv.writer(text).writerows([("u", "i", "view", "t", *row) for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        found, batch = _read_bytes(Path(folder), text.getvalue().encode(), ignore=("c",))
    expected = [{name: value for name, value in zip(('a"é', "b"), row[:2], strict=True) if value} for row in rows]
    assert [json.loads(str(row["properties"])) for row in found] == expected
    assert batch.columns[-1] == "c"


def test_json_lines_are_read_and_malformed_ones_collected(tmp_path: Path) -> None:
    lines = [
        b'{"who": 7, "what": "", "when": 1.5, "x": [1, "\xc3\xa9"], "y": null}',
        b"",
        b'{"who": "u", "x": true, "nosuch": {}}',
        b'{"who": "u"',
        b"[1]",
        b'{"who": "a\\u0000"}',
        b'{"who": "\xff"}',
        b'{"who": ' + b"1" * 2_000_000 + b"}",
        b"[" * 5_000,
        b'{"who": "\\ud800"}',
        b'{"who": "last"}',
    ]
    options = {"ignore": ("nosuch",), "optional": ("did",), "time_format": "unix_s"}
    rows, batch = _read_bytes(tmp_path, b"\n".join(lines), "f.jsonl", **options)
    wanted = ("row_number", "user_id", "item_id", "event_time", "properties")
    assert [tuple(row[name] for name in wanted) for row in rows] == [
        (1, "7", None, "1970-01-01T00:00:01.500000Z", '{"x": [1, "é"]}'),
        (3, "u", None, None, '{"x": true}'),
        (11, "last", None, None, None),
    ]
    reasons = ["not a JSON", "not a JSON", "contains a", "not a JSON", "longer than", "not a JSON", "not a JSON"]
    assert [(line.number, line.reason[:11].strip()) for line in batch.bad_lines] == [
        (number, reason.strip()) for number, reason in enumerate(reasons, 4)
    ]
    assert batch.columns == ["nosuch", "what", "when", "who", "x", "y"]


EAN = 4_006_381_333_931


@pytest.mark.parametrize(
    "column",
    [
        pa.array([EAN]),
        pa.array([float(EAN)]),  # pandas, where another row has no value
        pa.array([Decimal(f"{EAN}.0")]),
        pa.array([f"{EAN}.0"]),
        pa.array([str(EAN)]),
    ],
)
def test_a_number_is_one_id_whatever_type_a_tool_gave_it(tmp_path: Path, column: pa.Array) -> None:
    (row,) = _read_table(tmp_path, what=column)
    assert row["item_id"] == str(EAN)


def test_a_32_bit_float_keeps_its_digits(tmp_path: Path) -> None:
    columns = {"user_id": "who", "item_id": "what", "event_type": "did", "event_time": "when", "price": "price"}
    (row,) = _read_table(tmp_path, price=pa.array([2.99], pa.float32()), more={"columns": columns})
    assert row["price"] == "2.99"


@pytest.mark.parametrize("written", [f"{EAN}", f"{EAN}.0", f'"{EAN}"', f"{EAN}.00", "4.006381333931e12"])
def test_a_number_is_one_id_in_json(tmp_path: Path, written: str) -> None:
    line = f'{{"who": 7.0, "what": {written}, "did": "view", "when": "t"}}'
    ((row,), _) = _read_bytes(tmp_path, line.encode(), "f.jsonl")
    assert (row["user_id"], row["item_id"]) == ("7", str(EAN))


@given(st.integers(-(2**53), 2**53))
def test_whole_floats_are_written_as_integers(number: int) -> None:
    assert float_to_text(pa.array([float(number), None, float("nan")])).to_pylist() == [str(number), None, None]


@pytest.mark.parametrize("what", ["4.00638E+12", "1e+20", "-1.5e+3"])
def test_a_rounded_id_is_refused_with_its_line(tmp_path: Path, what: str) -> None:
    content = HEAD + GOOD + f"u,{what},view,t\n".encode() + GOOD
    rows, batch = _read_bytes(tmp_path, content)
    assert [row["row_number"] for row in rows] == [2, 4]
    assert [(line.number, line.raw) for line in batch.bad_lines] == [(3, what)]
    assert "write ids as text" in batch.bad_lines[0].reason
    with pytest.raises(MalformedFile, match=r"f\.csv, line 3: item_id is a rounded number"):
        _read_bytes(tmp_path, content, on_error="reject")


@pytest.mark.parametrize("column", [pa.array([1e17]), pa.array([2.0**25], pa.float32()), pa.array([float("inf")])])
def test_a_float_that_cannot_tell_ids_apart_is_refused(tmp_path: Path, column: pa.Array) -> None:
    with pytest.raises(MalformedFile, match=r"item_id is a rounded number"):
        _read_table(tmp_path, what=column)


def test_ids_that_only_look_like_numbers_are_unchanged(tmp_path: Path) -> None:
    texts = ["12e4", "1.0.0", "v1.0", "007", "+49", "1.50", "a+b"]
    rows, batch = _read_bytes(tmp_path, HEAD + "".join(f"u,{text},view,t\n" for text in texts).encode())
    assert [row["item_id"] for row in rows] == texts
    assert (batch.bad_lines, batch.warnings) == ([], [])


def test_ids_that_are_words_for_a_missing_value_are_counted(tmp_path: Path) -> None:
    content = HEAD + b"null,i,view,t\nNaN,i,view,t\nu,undefined,view,t\nu,Nancy,view,t\n"
    rows, batch = _read_bytes(tmp_path, content)
    assert [row["user_id"] for row in rows] == ["null", "NaN", "u", "u"]
    assert [warning.partition(" are words")[0] for warning in batch.warnings] == [
        "2 values of user_id",
        "1 values of item_id",
    ]
    assert not _read_bytes(tmp_path, content, nulls=["null", "NaN", "undefined"])[1].warnings


def test_a_field_that_no_json_record_has_is_refused_unless_it_is_optional(tmp_path: Path) -> None:
    lines = b'{"who": "u", "what": "i", "did": "view", "when": "t"}\n' * 3
    columns = {"user_id": "who", "item_id": "what", "event_type": "did", "event_time": "when", "price": "prise"}
    with pytest.raises(MalformedFile, match="no column 'prise'; the file has did, what, when, who"):
        _read_bytes(tmp_path, lines, "f.jsonl", columns=columns)
    for name, content in (("f.jsonl", lines), ("f.csv", HEAD + GOOD)):
        rows, _ = _read_bytes(tmp_path, content, name, columns=columns, optional=["prise"])
        assert [row["price"] for row in rows] == [None] * len(rows)
    with pytest.raises(ValidationError, match="optional names 'price', which no column is mapped to"):
        _mapping(optional=["price"])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([3]), "3"),
        (pa.array([2**64 - 1], pa.uint64()), str(2**64 - 1)),
        (pa.array([1.5]), "1.5"),
        (pa.array([1e300]), "1e+300"),
        (pa.array([1.5], pa.float16()), "1.5"),
        (pa.array([True]), "true"),
        (pa.array([Decimal("1.50")]), "1.50"),
        (pa.array(['a"\n\\é']), '"a\\"\\n\\\\é"'),
        (pa.array(["a"], pa.large_string()), '"a"'),
        (pa.array(["a"], pa.string_view()), '"a"'),
        (pa.array([b"a"]), '"a"'),
        (pa.array(["a"]).dictionary_encode(), '"a"'),
        (pa.array([7]).dictionary_encode(), "7"),
        (pa.array([date(2024, 1, 2)]), '"2024-01-02"'),
        (pa.array([datetime(2024, 7, 2)]), '"2024-07-01T22:00:00.000000Z"'),
        (pa.array([{"a": [1, None]}]), '{"a": [1, null]}'),
        (pa.array([float("nan")]), None),
        (pa.array([""]), None),
        (pa.nulls(1), None),
        (pa.nulls(1, pa.int64()), None),
    ],
)
def test_parquet_values_keep_their_types_in_properties(tmp_path: Path, column: pa.Array, expected: str | None) -> None:
    (row,) = _read_table(tmp_path, x=column, more={"time_zone": "Europe/Berlin"})
    assert row["properties"] == (f'{{"x": {expected}}}' if expected else "{}")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1_720_000_000_123_456_789], pa.timestamp("ns")), "2024-07-03T07:46:40.123456Z"),
        (pa.array([1_720_000_000_123], pa.timestamp("ms", "Asia/Tokyo")), "2024-07-03T09:46:40.123000Z"),
        (pa.array([date(2024, 7, 3)]), "2024-07-02T22:00:00.000000Z"),
        (pa.array([1_720_000_000]), "2024-07-03T09:46:40.000000Z"),
        (pa.array([1_720_000_000.5]), "2024-07-03T09:46:40.500000Z"),
    ],
)
def test_parquet_times_of_any_type_are_converted_to_utc(tmp_path: Path, column: pa.Array, expected: str) -> None:
    (row,) = _read_table(tmp_path, when=column, more={"time_format": "unix_s", "time_zone": "Europe/Berlin"})
    assert row["event_time"] == expected


def test_parquet_rows_with_invalid_text_are_collected_as_bad_lines(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\0", b"\xff", b"x" * 2_000_000, None])
    table = pa.table({"who": texts, "what": ["i"] * 5, "did": ["view"] * 5, "when": ["t"] * 5, "raw": [b"\xff"] * 5})
    pq.write_table(table, tmp_path / "f.parquet")
    rows, batch = _read(tmp_path / "f.parquet", _mapping("parquet", on_error="quarantine", ignore=["raw"]))
    assert [(row["row_number"], row["user_id"]) for row in rows] == [(1, "a"), (5, None)]
    assert _bad(batch) == [
        (2, "'who': contains a NUL character"),
        (3, "'who': not UTF-8"),
        (4, "'who': longer than 1 MB"),
    ]
    assert batch.columns == ["who", "what", "did", "when", "raw"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("pattern", ["iso8601", "%d.%m.%Y %H:%M:%S.%f", "%Y%m%d %H%M%S.%f", "%d %b %Y %I:%M:%S.%f %p"])
@given(moments=st.lists(TIMES, min_size=1))
@example(moments=[datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30), datetime(2024, 2, 29)])
@example(moments=[datetime(2024, 3, 10, 2, 30), datetime(2024, 11, 3, 1, 30), datetime(2024, 10, 6, 2, 10)])
def test_local_times_are_converted_as_datetime_does(zone: str, pattern: str, moments: list[datetime]) -> None:
    texts = [moment.isoformat(" ") if pattern == "iso8601" else moment.strftime(pattern) for moment in moments]
    expected = [moment.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for moment in moments]
    assert [datetime.fromisoformat(text) for text in to_utc(pa.array(texts), pattern, zone).to_pylist()] == expected
    convert = time_converter(pattern, zone)
    assert [datetime.fromisoformat(str(convert(text))) for text in texts] == expected


@given(
    st.lists(st.tuples(TIMES, st.integers(-14 * 60, 14 * 60)), min_size=1),
    st.sampled_from(["iso8601", "%Y/%m/%dT%H:%M:%S.%f%z"]),
)
def test_an_explicit_zone_takes_precedence(given_: list[tuple[datetime, int]], pattern: str) -> None:
    moments = [moment.replace(tzinfo=timezone(timedelta(minutes=offset))) for moment, offset in given_]
    texts = [moment.isoformat() if pattern == "iso8601" else moment.strftime(pattern) for moment in moments]
    found = to_utc(pa.array(texts), pattern, "Europe/Berlin").to_pylist()
    assert [datetime.fromisoformat(text) for text in found] == moments


@given(st.lists(TIMES, min_size=1))
def test_unix_times_are_converted_exactly(moments: list[datetime]) -> None:
    moments = [moment.replace(tzinfo=UTC) for moment in moments]
    micros = [(moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) for moment in moments]
    for time_format, digits in (("unix_s", 6), ("unix_ms", 3)):
        texts = [f"{micro // 10**digits}.{micro % 10**digits:0{digits}d}" for micro in micros]
        found = to_utc(pa.array(texts), time_format, "Europe/Berlin").to_pylist()
        assert [datetime.fromisoformat(text) for text in found] == moments


@given(st.lists(TIMES, min_size=1), st.integers(0, 999))
def test_unix_microseconds_and_nanoseconds_are_converted_exactly(moments: list[datetime], below: int) -> None:
    moments = [moment.replace(tzinfo=UTC) for moment in moments if 1700 < moment.year < 2250]
    micros = [(moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) for moment in moments]
    for time_format, texts in (
        ("unix_us", [str(micro) for micro in micros]),
        ("unix_ns", [str(1_000 * micro + below) for micro in micros]),
    ):
        for given_texts in (texts, [*texts, "no time"]):  # together, and each alone
            found = to_utc(pa.array(given_texts, pa.string()), time_format, "Europe/Berlin").to_pylist()
            assert [datetime.fromisoformat(text) for text in found[: len(texts)]] == moments


@pytest.mark.parametrize(
    "time_format",
    ["iso8061", "yyyy-MM-dd HH:mm", "unix", "%F", "%Y-%m", "%H:%M", "%s", "%I:%M %d.%m.%Y", "%q", "%d.%m.%Y %", ""],
)
def test_a_time_format_that_tells_no_time_is_refused_and_the_known_ones_are_named(time_format: str) -> None:
    with pytest.raises(ValidationError, match=r"iso8601, unix_s, unix_ms, unix_us, unix_ns, or a strptime pattern"):
        _mapping(time_format=time_format)


@pytest.mark.parametrize("part", ["%Z", "%c", "%x", "%X"])
def test_a_time_format_that_depends_on_the_machine_is_refused(part: str) -> None:
    with pytest.raises(ValidationError, match=f"{part}, which another machine reads differently"):
        _mapping(time_format=f"%Y-%m-%d %H:%M:%S {part}")


@pytest.mark.parametrize(
    "time_format", ["unix_ns", "%d.%m.%y %H:%M", "%Y%m%d", "%I:%M %p %d %b %Y", "%Y-%m-%dT%H:%M:%S.%f%z", "%j %Y %H"]
)
def test_other_time_formats_are_accepted(time_format: str) -> None:
    assert _mapping(time_format=time_format).time_format == time_format


@pytest.mark.parametrize(
    ("time_format", "text"),
    [
        ("iso8601", "yesterday"),
        ("iso8601", "2024-02-30T00:00:00"),
        ("iso8601", "0000-01-01T00:00:00+00:00"),
        ("iso8601", "9999-12-31T23:59:59-02:00"),
        ("%d.%m.%Y", "31.02.2024"),
        ("%d.%m.%Y", "01.02.24"),
        ("%d.%m.%Y", "2024-02-01"),
        ("%d.%q.%Y", "01.02.2024"),
        ("unix_s", "1e300"),
        ("unix_s", "1e12"),
        ("unix_s", "nan"),
        ("unix_ms", "now"),
    ],
)
def test_an_invalid_time_stays_unchanged_and_does_not_affect_others(time_format: str, text: str) -> None:
    assert to_utc(pa.array([text, None]), time_format, "UTC").to_pylist() == [text, None]
    moment = datetime(2024, 7, 1, tzinfo=UTC)
    fine = {"iso8601": moment.isoformat(), "unix_s": str(moment.timestamp()), "unix_ms": f"{moment.timestamp():.0f}000"}
    good = fine.get(time_format) or moment.strftime(time_format)
    found = to_utc(pa.array([text, good]), time_format, "UTC").to_pylist()
    assert found[0] == text
    if "%q" not in time_format:
        assert found[1] == "2024-07-01T00:00:00.000000Z"


@given(st.one_of(st.text(), st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]?[0-9:.]*(Z|[+-][0-9:]*)?", fullmatch=True)))
def test_a_time_is_converted_alike_alone_and_in_an_array(text: str) -> None:
    for time_format in ("iso8601", "unix_s", "%Y-%m-%d", "%Y-%m-%d %H:%M"):
        alone, *_ = to_utc(pa.array([text]), time_format, "Europe/Berlin").to_pylist()
        among, *_ = to_utc(pa.array([text, "no time"]), time_format, "Europe/Berlin").to_pylist()
        # A time already in UTC is passed through unchanged.
        assert alone == among or (alone == text and text.endswith("Z"))


def test_reading_a_parquet_file_uses_bounded_memory(tmp_path: Path) -> None:
    column = pa.array([f"{n * 2_654_435_761 % 2**32:08x}" * 4 for n in range(50_000)])
    table = pa.table({"who": column, "what": column, "did": column, "when": column})
    with pq.ParquetWriter(tmp_path / "f.parquet", table.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(12):
            writer.write_table(table)
    del table, column
    held = pa.total_allocated_bytes()
    parts = iter(read_flat_file(_mapping("parquet"), tmp_path / "f.parquet").rows["events"])
    first, *later = [pa.total_allocated_bytes() - held for _ in parts]
    assert max(later) < 1.5 * first


def test_a_non_numeric_offset_makes_the_time_invalid() -> None:
    times = pa.array(["2024-07-01T10:00:00Z", "2024-07-01T10:00:00Z", "soon", None])
    found = add_milliseconds(times, pa.array(["1500", "x", "1", "1"])).to_pylist()
    assert found == ["2024-07-01T10:00:01.500000Z", "2024-07-01T10:00:00Z + x ms", "soon + 1 ms", " + 1 ms"]
