"""Source adapter for flat files: converts columns to canonical rows as a mapping says."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion.batch import BadLine, SourceBatch, landing_arrow_schema
from recsys_tasks.ingestion.file_readers import Block, read_csv, read_json_lines, read_parquet
from recsys_tasks.ingestion.ids import (
    ID_COLUMNS,
    LARGEST_EXACT,
    count_placeholders,
    find_rounded,
    float_to_text,
    normalize_ids,
)
from recsys_tasks.ingestion.mapping import SourceMapping
from recsys_tasks.ingestion.times import add_milliseconds, to_utc
from recsys_tasks.names import CATEGORY_SEPARATOR

_PREFIXED_COLUMNS = ("event_id", "user_id", "session_id", "item_id")
_KEYS_NOT_IN_DIGEST = {"on_error", "optional"}  # they do not change what a row means
_TIME_COLUMNS = ("event_time", "valid_from", "available_from", "available_until")
_RECORDS_PER_BLOCK = 20_000
_DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_flat_file(mapping: SourceMapping, path: Path) -> SourceBatch:
    """Returns a flat file as a batch whose rows are read lazily.

    Raises (while the rows are read):
        MalformedFile: a mapped column is missing, or a line is malformed and the mapping says `reject`.
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


def make_bad_line_handler(path: Path, on_error: str, batch: SourceBatch) -> Callable[[BadLine], None]:
    """Returns the handler of malformed lines: raises (`reject`) or collects them (`quarantine`)."""

    def report(line: BadLine) -> None:
        if on_error == "reject":
            raise MalformedFile(str(path), line.number, line.reason)
        batch.bad_lines.append(line)

    return report


def _digest(mapping: SourceMapping, path: Path) -> str:
    """Digest of the file and its mapping: a corrected mapping makes a new batch of the same file."""
    # Without the key that earlier versions lacked: a file that was loaded before is known again.
    later_keys = {"category_separator"} if mapping.category_separator == CATEGORY_SEPARATOR else set()
    mapping_json = mapping.model_dump_json(exclude=_KEYS_NOT_IN_DIGEST | later_keys)
    return hashlib.sha256(f"{file_digest(path)} {mapping_json}".encode()).hexdigest()


def _rows(mapping: SourceMapping, path: Path, batch: SourceBatch) -> Iterator[pa.RecordBatch]:
    def check_header(header: list[str]) -> None:
        _check_header(mapping, path, header)
        batch.columns = header

    on_bad_line = make_bad_line_handler(path, mapping.on_error, batch)
    if mapping.format == "jsonl":
        blocks = _json_blocks(mapping, path, check_header, on_bad_line)
    elif mapping.format == "parquet":
        blocks = read_parquet(path, set(mapping.ignore) - set(mapping.mapped_columns), check_header, on_bad_line)
    else:
        blocks = read_csv(path, mapping.delimiter or _DELIMITERS[mapping.format], check_header, on_bad_line)
    placeholders: Counter[str] = Counter()
    for block in blocks:
        if len(block.numbers):
            try:
                exact = _without_rounded_ids(mapping, block, on_bad_line)
                yield _to_canonical_batch(mapping, exact, placeholders)
            except pa.ArrowException as error:  # a Parquet type without a text form
                raise MalformedFile(str(path), block.numbers[0].as_py(), str(error)) from error
    batch.warnings += [
        f"{count:,} values of {name} are words for a missing value, such as NaN or null, and were read as ids; add them"
        " to `nulls` of the mapping"
        for name, count in placeholders.items()
        if count
    ]


def _check_header(mapping: SourceMapping, path: Path, header: list[str]) -> None:
    for column in mapping.mapped_columns:
        if column not in header and column not in mapping.optional:
            raise MalformedFile(
                str(path),
                1,
                f"no column {column!r}; the file has {', '.join(header) or 'none'}. If files may lack it, add it to"
                " `optional` of the mapping",
            )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise MalformedFile(str(path), 1, f"the header has {', '.join(map(repr, repeated))} more than once")


def _without_rounded_ids(mapping: SourceMapping, block: Block, on_bad_line: Callable[[BadLine], None]) -> Block:
    """Returns a block without the rows that have a rounded id, which are reported as bad lines."""
    for name in ID_COLUMNS:
        column = block.columns.get(mapping.columns.get(name, ""))
        if column is None:
            continue
        is_rounded = find_rounded(column)
        if not pc.any(is_rounded).as_py():
            continue
        rounded = zip(block.numbers.filter(is_rounded).to_pylist(), column.filter(is_rounded).to_pylist(), strict=True)
        for number, value in rounded:
            reason = f"{name} is a rounded number, so that different ids would become equal; write ids as text"
            on_bad_line(BadLine(number, reason, str(value)))
        block = block.filter(pc.invert(is_rounded))
    return block


def _to_canonical_batch(mapping: SourceMapping, block: Block, placeholders: Counter[str]) -> pa.RecordBatch:
    """Converts a block to a landing batch of the mapping's kind; counts the ids that look like missing values."""
    count = len(block.numbers)
    columns = {name: block.columns.get(name, pa.nulls(count, pa.string())) for name in mapping.mapped_columns}
    rows = {name: _convert_column(name, columns[column], mapping) for name, column in mapping.columns.items()}
    if mapping.time_offset_ms and "event_time" in rows:
        rows["event_time"] = add_milliseconds(
            rows["event_time"], _to_text_column(columns[mapping.time_offset_ms], "UTC")
        )
    placeholders.update({name: count_placeholders(rows[name]) for name in ID_COLUMNS if name in rows})
    for name, value in mapping.defaults.items():
        rows[name] = pc.fill_null(rows.get(name, pa.nulls(count, pa.string())), value)
    if "event_type" in rows:
        rows["event_type"] = _map_values(rows["event_type"], mapping.event_types)
    for name in _PREFIXED_COLUMNS:
        if name in rows and mapping.id_prefix:
            rows[name] = pc.binary_join_element_wise(mapping.id_prefix, rows[name], "")
    if "category_path" in rows and mapping.category_separator != CATEGORY_SEPARATOR:
        rows["category_path"] = _normalize_paths(rows["category_path"], mapping.category_separator)
    used = {*mapping.mapped_columns, *mapping.ignore}
    unmapped = {name: column for name, column in block.columns.items() if not (mapping.ignores_rest or name in used)}
    extra = _to_json_objects(unmapped, mapping.time_zone) if unmapped else block.extra
    if extra is not None:
        rows["properties"] = _merge_properties(extra, rows.get("properties"))
    arrow_schema = landing_arrow_schema(mapping.kind)
    filled = {"row_number": block.numbers, **rows}
    return pa.RecordBatch.from_arrays(
        [filled.get(name, pa.nulls(count, pa.string())) for name in arrow_schema.names], schema=arrow_schema
    )


def _convert_column(name: str, column: pa.Array, mapping: SourceMapping) -> pa.Array:
    typed = pa.types.is_date(column.type) or pa.types.is_timestamp(column.type)
    if name in _TIME_COLUMNS and typed:
        return to_utc(column, mapping.time_format, mapping.time_zone)
    text = _to_text_column(column, mapping.time_zone)
    if mapping.nulls:
        text = pc.if_else(pc.is_in(text, pa.array(mapping.nulls, pa.string())), None, text)
    if name in ID_COLUMNS:
        return normalize_ids(text)
    return to_utc(text, mapping.time_format, mapping.time_zone) if name in _TIME_COLUMNS else text


def _to_text_column(column: pa.Array, zone: str) -> pa.Array:
    """Casts a column of any type to text; empty text becomes null, timestamps as in `to_utc`."""
    if pa.types.is_nested(column.type):
        return pa.array([None if value is None else _dump_json(value) for value in column.to_pylist()], pa.string())
    if pa.types.is_timestamp(column.type):
        return to_utc(column, "iso8601", zone)
    if pa.types.is_floating(column.type):
        return float_to_text(column)
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), None, text)


def _normalize_paths(column: pa.Array, separator: str) -> pa.Array:
    """Category paths with the separator of the warehouse, without empty levels at both ends."""
    literal = rf"\s*\Q{separator.strip()}\E\s*"
    inner = pc.replace_substring_regex(column, rf"^({literal})+|({literal})+$", "")
    return pc.replace_substring_regex(pc.utf8_trim_whitespace(inner), rf"({literal})+", CATEGORY_SEPARATOR)


def _map_values(column: pa.Array, names: dict[str, str]) -> pa.Array:
    if not names:
        return column
    place = pc.index_in(column, pa.array(list(names), pa.string()))
    return pc.coalesce(pa.array(list(names.values()), pa.string()).take(place), column)


def _to_json_objects(columns: dict[str, pa.Array], zone: str) -> pa.Array:
    """Returns one JSON object per row, without null fields."""
    fields = [
        pc.binary_join_element_wise(f", {json.dumps(name)}: ", _to_json_values(column, zone), "")
        for name, column in columns.items()
    ]
    # The first "" gives every row a value: otherwise Arrow drops trailing rows.
    joined = pc.binary_join_element_wise("", *fields, "", null_handling="skip")
    return pc.binary_join_element_wise(pc.binary_replace_slice(joined, 0, 2, "{"), "}", "")


def _merge_properties(extra: pa.Array, given: pa.Array | None) -> pa.Array:
    """Merges unmapped columns into the rows' own properties."""
    if given is None or given.null_count == len(given):
        return extra
    pairs = zip(extra.to_pylist(), given.to_pylist(), strict=True)
    return pa.array([_merge_json_objects(unmapped, own) for unmapped, own in pairs], pa.string())


def _to_json_values(column: pa.Array, zone: str) -> pa.Array:
    kind = column.type
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(column), column, None).cast(pa.string())
    text = _to_text_column(column, zone)
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind) or pa.types.is_nested(kind):
        return text
    if pc.any(pc.match_substring_regex(text, r"[\x00-\x1f]")).as_py():
        return pa.array([None if value is None else _dump_json(value) for value in text.to_pylist()], pa.string())
    escaped = pc.replace_substring(pc.replace_substring(text, "\\", "\\\\"), '"', '\\"')
    return pc.binary_join_element_wise('"', escaped, '"', "")


def _merge_json_objects(extra: str | None, given: str | None) -> str | None:
    """Merges two JSON objects; `given` takes precedence and is returned unchanged if it is not an object."""
    if given is None or extra is None:
        return given or extra
    try:
        own = json.loads(given)
    except ValueError:
        return given
    return _dump_json({**json.loads(extra), **own}) if isinstance(own, dict) else given


def _dump_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _json_blocks(
    mapping: SourceMapping,
    path: Path,
    check_header: Callable[[list[str]], None],
    on_bad_line: Callable[[BadLine], None],
) -> Iterator[Block]:
    """Yields JSONL records as blocks: mapped fields as text columns, other fields as JSON objects. Checks at the end
    that each mapped field is in one of the records."""
    records = read_json_lines(path, on_bad_line)
    mapped = set(mapping.mapped_columns)
    names: set[str] = set()
    while chunk := list(islice(records, _RECORDS_PER_BLOCK)):
        columns = {name: _to_text_array([record.get(name) for _, record in chunk]) for name in mapped}
        names = names.union(*(record for _, record in chunk))
        extra = None
        if not (mapping.ignores_rest or names <= mapped | set(mapping.ignore)):
            excluded = mapped | set(mapping.ignore)
            extra = pa.array([_unmapped_fields(record, excluded) for _, record in chunk], pa.string())
        yield Block(pa.array([number for number, _ in chunk], pa.int64()), columns, extra)
    if names:
        check_header(sorted(names))


def _to_text_array(values: list[object]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except pa.ArrowException:  # not all values are strings
        return pa.array([as_text(value) for value in values], pa.string())


def _unmapped_fields(record: dict[str, object], excluded: set[str]) -> str | None:
    rest = {name: value for name, value in record.items() if name not in excluded and value is not None}
    return _dump_json(rest) if rest else None


def as_text(value: object) -> str | None:
    """Converts a JSON value to landing text; empty becomes null."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return _dump_json(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return f"{value:.16e}" if abs(value) > LARGEST_EXACT else str(value)  # an id beyond it is known as rounded
    return str(value)
