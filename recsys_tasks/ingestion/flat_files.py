"""Flat files as canonical rows, by a mapping: whole columns at a time."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion.batch import BadLine, SourceBatch, schema
from recsys_tasks.ingestion.file_readers import Block, read_csv, read_json_lines, read_parquet
from recsys_tasks.ingestion.mapping import Mapping
from recsys_tasks.ingestion.times import later, to_utc

_PREFIXED = ("user_id", "session_id", "item_id")
_TIMES = ("event_time", "valid_from", "available_from", "available_until")
_RECORDS = 20_000
_DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_flat(mapping: Mapping, path: Path) -> SourceBatch:
    """One flat file as a batch. Its rows are read lazily.

    Raises (while the rows are read):
        MalformedFile: a mapped column is missing, or a line is broken and the mapping says `reject`.
    """
    batch = SourceBatch(
        source=mapping.source,
        origin=str(path),
        digest=_digest(mapping, path),
        rows={},
        implies_items=mapping.implies_items,
        implies_users=mapping.implies_users,
        on_conflict=mapping.on_conflict,
        live=mapping.live,
    )
    batch.rows = {mapping.kind: _rows(mapping, path, batch)}
    return batch


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


def reporter(path: Path, on_error: str, batch: SourceBatch) -> Callable[[BadLine], None]:
    """What to do with a broken line: refuse the file, or set the line aside."""

    def report(line: BadLine) -> None:
        if on_error == "reject":
            raise MalformedFile(str(path), line.number, line.reason)
        batch.bad_lines.append(line)

    return report


def _digest(mapping: Mapping, path: Path) -> str:
    """Of the file and of how it is read: a corrected mapping makes another batch of the same file."""
    meaning = mapping.model_dump_json(exclude={"on_error"})
    return hashlib.sha256(f"{file_digest(path)} {meaning}".encode()).hexdigest()


def _rows(mapping: Mapping, path: Path, batch: SourceBatch) -> Iterator[pa.RecordBatch]:
    def check(header: list[str]) -> None:
        _check_header(mapping, path, header)
        batch.columns = header

    bad = reporter(path, mapping.on_error, batch)
    if mapping.format == "jsonl":
        blocks = _json_blocks(mapping, path, batch, bad)
    elif mapping.format == "parquet":
        blocks = read_parquet(path, set(mapping.ignore) - set(mapping.used), check, bad)
    else:
        blocks = read_csv(path, mapping.delimiter or _DELIMITERS[mapping.format], check, bad)
    for block in blocks:
        if len(block.numbers):
            try:
                yield _canonical(mapping, block)
            except pa.ArrowException as error:  # a Parquet type that has no text
                raise MalformedFile(str(path), block.numbers[0].as_py(), str(error)) from error


def _check_header(mapping: Mapping, path: Path, header: list[str]) -> None:
    for column in mapping.used:
        if column not in header:
            raise MalformedFile(str(path), 1, f"no column {column!r}; the file has {', '.join(header) or 'none'}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise MalformedFile(str(path), 1, f"the header has {', '.join(map(repr, twice))} more than once")


def _canonical(mapping: Mapping, block: Block) -> pa.RecordBatch:
    """A block's columns as the mapping names them."""
    rows = {name: _value(name, block.columns[column], mapping) for name, column in mapping.columns.items()}
    if mapping.time_offset_ms and "event_time" in rows:
        rows["event_time"] = later(rows["event_time"], _text(block.columns[mapping.time_offset_ms], "UTC"))
    count = len(block.numbers)
    for name, value in mapping.defaults.items():
        rows[name] = pc.fill_null(rows.get(name, pa.nulls(count, pa.string())), value)
    if "event_type" in rows:
        rows["event_type"] = _renamed(rows["event_type"], mapping.event_types)
    for name in _PREFIXED:
        if name in rows and mapping.id_prefix:
            rows[name] = pc.binary_join_element_wise(mapping.id_prefix, rows[name], "")
    used = {*mapping.used, *mapping.ignore}
    others = {name: column for name, column in block.columns.items() if name not in used}
    extra = _objects(others, mapping.time_zone) if others else block.extra
    if extra is not None:
        rows["properties"] = _beside(extra, rows.get("properties"))
    wanted = schema(mapping.kind)
    filled = {"row_number": block.numbers, **rows}
    return pa.RecordBatch.from_arrays(
        [filled.get(name, pa.nulls(count, pa.string())) for name in wanted.names], schema=wanted
    )


def _value(name: str, column: pa.Array, mapping: Mapping) -> pa.Array:
    typed = pa.types.is_date(column.type) or pa.types.is_timestamp(column.type)
    if name in _TIMES and typed:
        return to_utc(column, mapping.time_format, mapping.time_zone)
    text = _text(column, mapping.time_zone)
    if mapping.nulls:
        text = pc.if_else(pc.is_in(text, pa.array(mapping.nulls, pa.string())), None, text)
    return to_utc(text, mapping.time_format, mapping.time_zone) if name in _TIMES else text


def _text(column: pa.Array, zone: str) -> pa.Array:
    """A column of any type as text; empty text is null, timestamps are as `to_utc` writes them."""
    if pa.types.is_nested(column.type):
        return pa.array([None if value is None else _json(value) for value in column.to_pylist()], pa.string())
    if pa.types.is_timestamp(column.type):
        return to_utc(column, "iso8601", zone)
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), None, text)


def _renamed(column: pa.Array, names: dict[str, str]) -> pa.Array:
    if not names:
        return column
    place = pc.index_in(column, pa.array(list(names), pa.string()))
    return pc.coalesce(pa.array(list(names.values()), pa.string()).take(place), column)


def _objects(columns: dict[str, pa.Array], zone: str) -> pa.Array:
    """Columns as a JSON object a row, without the nulls."""
    fields = [
        pc.binary_join_element_wise(f", {json.dumps(name)}: ", _as_json(column, zone), "")
        for name, column in columns.items()
    ]
    # The first "": without a piece in every row Arrow leaves out the last rows.
    joined = pc.binary_join_element_wise("", *fields, "", null_handling="skip")
    return pc.binary_join_element_wise(pc.binary_replace_slice(joined, 0, 2, "{"), "}", "")


def _beside(extra: pa.Array, given: pa.Array | None) -> pa.Array:
    """What has no column of its own, beside what the rows call their properties."""
    if given is None or given.null_count == len(given):
        return extra
    pairs = zip(extra.to_pylist(), given.to_pylist(), strict=True)
    return pa.array([_merged(ours, theirs) for ours, theirs in pairs], pa.string())


def _as_json(column: pa.Array, zone: str) -> pa.Array:
    kind = column.type
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(column), column, None).cast(pa.string())
    text = _text(column, zone)
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind) or pa.types.is_nested(kind):
        return text
    if pc.any(pc.match_substring_regex(text, r"[\x00-\x1f]")).as_py():
        return pa.array([None if value is None else _json(value) for value in text.to_pylist()], pa.string())
    escaped = pc.replace_substring(pc.replace_substring(text, "\\", "\\\\"), '"', '\\"')
    return pc.binary_join_element_wise('"', escaped, '"', "")


def _merged(extra: str | None, given: str | None) -> str | None:
    """Both objects in one; what the row calls its properties wins, and stays as it is where it is no object."""
    if given is None or extra is None:
        return given or extra
    try:
        own = json.loads(given)
    except ValueError:
        return given
    return _json({**json.loads(extra), **own}) if isinstance(own, dict) else given


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _json_blocks(mapping: Mapping, path: Path, batch: SourceBatch, bad: Callable[[BadLine], None]) -> Iterator[Block]:
    """JSON objects as columns of text, those of the mapping, and the rest as objects again."""
    records = read_json_lines(path, bad)
    mapped = set(mapping.used)
    names: set[str] = set()
    while chunk := list(islice(records, _RECORDS)):
        columns = {name: _texts([record.get(name) for _, record in chunk]) for name in mapped}
        names = names.union(*(record for _, record in chunk))
        extra = None
        if not names <= mapped | set(mapping.ignore):
            dropped = mapped | set(mapping.ignore)
            extra = pa.array([_rest(record, dropped) for _, record in chunk], pa.string())
        yield Block(pa.array([number for number, _ in chunk], pa.int64()), columns, extra)
    batch.columns = sorted(names)


def _texts(values: list[object]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except pa.ArrowException:  # not all of them are texts
        return pa.array([as_text(value) for value in values], pa.string())


def _rest(record: dict[str, object], dropped: set[str]) -> str | None:
    rest = {name: value for name, value in record.items() if name not in dropped and value is not None}
    return _json(rest) if rest else None


def as_text(value: object) -> str | None:
    """A value of JSON as landing text; empty becomes null."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return _json(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value)
