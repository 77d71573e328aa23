"""Flat files (CSV, TSV, JSONL, Parquet; gzip or zstd) as canonical rows, by a mapping."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion.batch import BadLine, SourceBatch, stable_id, to_record_batches
from recsys_tasks.ingestion.mapping import Mapping

Record = dict[str, object]
_PREFIXED = ("user_id", "item_id")
_RAW_LIMIT = 2_000


@dataclass(frozen=True)
class _Line:
    """A record of a file with its line (or row) number, or what is wrong with that line."""

    number: int
    record: Record | None
    raw: str = ""
    problem: str | None = None


def read_flat(mapping: Mapping, path: Path) -> SourceBatch:
    """One flat file as a batch. Its rows are read lazily.

    Raises (while the rows are read):
        MalformedFile: a required column is missing, or a line is broken and the mapping says `reject`.
    """
    batch = SourceBatch(
        source=mapping.source,
        origin=str(path),
        digest=_digest(mapping, path),
        rows={},
        implies_items=mapping.implies_items,
        implies_users=mapping.implies_users,
    )
    batch.rows = {mapping.kind: to_record_batches(mapping.kind, _rows(mapping, path, batch))}
    return batch


def _digest(mapping: Mapping, path: Path) -> str:
    """Of the file and of how it is read: a corrected mapping makes another batch of the same file."""
    meaning = mapping.model_dump_json(exclude={"on_error"})
    return hashlib.sha256(f"{file_digest(path)} {meaning}".encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes.

    Raises:
        MalformedFile: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MalformedFile(str(path), 0, error.strerror or str(error)) from error


def open_text(path: Path) -> io.TextIOWrapper:
    """The file as text, decompressed by its name; bytes that are not UTF-8 stay visible as surrogates."""
    stream = pa.input_stream(str(path), compression="detect")
    return io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _rows(mapping: Mapping, path: Path, batch: SourceBatch) -> Iterator[Record]:
    convert = _converter(mapping)
    lines = {"csv": _csv_lines, "tsv": _csv_lines, "jsonl": _json_lines, "parquet": _parquet_lines}
    for line in readable(path, lines[mapping.format](mapping, path)):
        if line.record is not None:
            yield {"row_number": line.number, **convert(line.record)}
        elif mapping.on_error == "reject":
            raise MalformedFile(str(path), line.number, str(line.problem))
        else:
            batch.bad_lines.append(BadLine(line.number, str(line.problem), line.raw[:_RAW_LIMIT]))


def readable(path: Path, lines: Iterator[_Line]) -> Iterator[_Line]:
    """The lines, with what makes a file unreadable as a whole (torn compression, a broken page) named.

    Raises:
        MalformedFile: from the line on that is named.
    """
    last = 0
    try:
        for line in lines:
            last = line.number
            yield line
    except (OSError, EOFError, OverflowError, csv.Error, pa.ArrowException) as error:
        raise MalformedFile(str(path), last + 1, f"the file cannot be read from here on: {error}") from error


def _csv_lines(mapping: Mapping, path: Path) -> Iterator[_Line]:
    with open_text(path) as file:
        reader = csv.reader(file, delimiter="\t" if mapping.format == "tsv" else ",", strict=True)
        header = next(reader, [])
        _require_columns(mapping, path, header)
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _Line(reader.line_num, None, problem=str(error))
                continue
            if not values:
                continue
            raw = ",".join(values)
            problem = _text_problem(raw)
            if len(values) != len(header):
                problem = f"{len(values)} fields where the header has {len(header)}"
            if problem:
                yield _Line(reader.line_num, None, _printable(raw), problem)
            else:
                yield _Line(reader.line_num, dict(zip(header, values, strict=True)))


def _json_lines(mapping: Mapping, path: Path) -> Iterator[_Line]:
    with open_text(path) as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield json_line(number, text)


def json_line(number: int, text: str) -> _Line:
    """One line of a JSONL file: an object, or what is wrong with it."""
    problem = _text_problem(text)
    if problem is None:
        try:
            record = json.loads(text)
            spelled_out = json.dumps(record, ensure_ascii=False)
        except RecursionError:
            problem = "not JSON: nested too deeply"
        except ValueError as error:
            problem = f"not JSON: {error}"
        else:
            if not isinstance(record, dict):
                problem = "not a JSON object"
            elif "\\u0000" in spelled_out or _text_problem(spelled_out):
                problem = "a text holds a character that is not allowed"
            else:
                return _Line(number, record)
    return _Line(number, None, _printable(text), problem)


def _parquet_lines(mapping: Mapping, path: Path) -> Iterator[_Line]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise MalformedFile(str(path), 0, str(error)) from error
    _require_columns(mapping, path, file.schema_arrow.names)
    number = 0
    for chunk in file.iter_batches():
        for record in chunk.to_pylist():
            number += 1
            problem = _text_problem(str(record)) if "\\x00" not in repr(record) else "holds a NUL character"
            yield _Line(number, None if problem else record, repr(record), problem)


def _require_columns(mapping: Mapping, path: Path, header: list[str]) -> None:
    for column in mapping.columns.values():
        if column not in header:
            raise MalformedFile(str(path), 1, f"no column {column!r}; the file has {', '.join(header) or 'none'}")


def _text_problem(text: str) -> str | None:
    if "\x00" in text:
        return "holds a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False:
        return "not UTF-8"
    return None


def _printable(text: str) -> str:
    return text.rstrip("\r\n").replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _converter(mapping: Mapping) -> Callable[[Record], Record]:
    """A function from a source record to canonical text columns."""
    to_time = time_converter(mapping.time_format, mapping.time_zone)
    used = set(mapping.columns.values())

    def convert(record: Record) -> Record:
        row: Record = {name: as_text(record.get(column)) for name, column in mapping.columns.items()}
        extra = mapping.properties if mapping.properties != "rest" else [c for c in record if c not in used]
        properties = {column: _finite(record.get(column)) for column in extra}
        row.setdefault("properties", json.dumps(properties, ensure_ascii=False, default=str))
        if mapping.kind == "events":
            row.setdefault("event_id", stable_id(mapping.source, sorted(row.items())))
            row["event_type"] = mapping.event_types.get(str(row["event_type"]), row["event_type"])
            row["event_time"] = to_time(row["event_time"])
            if row.get("session_id") is not None:
                row["session_id"] = f"{mapping.id_prefix}{row['session_id']}"
        for name in _PREFIXED:
            if row.get(name) is not None:
                row[name] = f"{mapping.id_prefix}{row[name]}"
        return row

    return convert


def _finite(value: object) -> object:
    """The value; null for a float that JSON has no word for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_text(value: object) -> str | None:
    """A value of any format as landing text; empty becomes null."""
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def time_converter(time_format: str, zone: str) -> Callable[[object], object]:
    """A function from a time as text to ISO 8601 in UTC; what it cannot read it gives back as it was."""
    zone_info = ZoneInfo(zone)
    parse: dict[str, Callable[[str], datetime]] = {
        "iso8601": datetime.fromisoformat,
        "unix_s": lambda text: datetime.fromtimestamp(float(text), UTC),
        "unix_ms": lambda text: datetime.fromtimestamp(int(text) / 1000, UTC),
    }
    chosen = parse.get(time_format, lambda text: datetime.strptime(text, time_format))  # noqa: DTZ007

    def convert(value: object) -> object:
        try:
            moment = chosen(str(value))
            return (moment if moment.tzinfo else moment.replace(tzinfo=zone_info)).astimezone(UTC).isoformat()
        except (ValueError, OverflowError, OSError):
            return value

    return convert
