"""Source adapter for flat files: converts columns to canonical rows as a mapping says."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion.batch import BadLine, SourceBatch, landing_arrow_schema
from recsys_tasks.ingestion.expressions import Source, evaluate, input_columns, replace_values
from recsys_tasks.ingestion.file_readers import Block, TextFormat, read_csv, read_json_lines, read_parquet
from recsys_tasks.ingestion.ids import (
    ID_COLUMNS,
    LARGEST_EXACT,
    count_placeholders,
    find_rounded,
    float_to_text,
    normalize_ids,
)
from recsys_tasks.ingestion.json_paths import ELEMENT, Record, find_value, iterate_elements, without_paths
from recsys_tasks.ingestion.mapping import SourceMapping
from recsys_tasks.ingestion.number_formats import NUMBER_COLUMNS, looks_like_number, read_numbers
from recsys_tasks.ingestion.times import add_milliseconds, is_utc, to_utc
from recsys_tasks.names import CATEGORY_SEPARATOR, COLUMNS_BY_KIND

_PREFIXED_COLUMNS = ("event_id", "user_id", "session_id", "item_id")
_KEYS_NOT_IN_DIGEST = {
    "on_error",
    "optional",
    "expected_every_hours",
    "delivery",
    "contract",
}  # they do not change what a row means
# Keys that earlier versions lacked are left out at their defaults: a file that was loaded before is known again.
_LATER_KEYS = (
    *("category_separator", "encoding", "skip_lines", "header", "trim", "decimal", "thousands"),
    *("items", "users", "ignore_event_types"),
)
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
        expected_every_hours=mapping.expected_every_hours,
        contract=None if mapping.contract is None else (mapping.kind, mapping.contract),
    )
    batch.rows = {
        part.kind: _rows(part, path, batch) if part is mapping else _embedded_rows(part, mapping, path, batch)
        for part in mapping.split_by_kind()
    }
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
    fields = SourceMapping.model_fields
    at_default = {key for key in _LATER_KEYS if getattr(mapping, key) == fields[key].default}
    mapping_json = mapping.model_dump_json(exclude=_KEYS_NOT_IN_DIGEST | at_default)
    return hashlib.sha256(f"{file_digest(path)} {mapping_json}".encode()).hexdigest()


def _embedded_rows(
    mapping: SourceMapping, events: SourceMapping, path: Path, batch: SourceBatch
) -> Iterator[pa.RecordBatch]:
    """Yields the item or user rows embedded in an event file, deduplicated within runs of equal attributes.

    Leaves out rows without an id, without any attribute, or whose event has no valid time: the events' own pass over
    the file reports what is wrong with these.
    """
    scratch = replace(batch, bad_lines=[], warnings=[])
    id_column = COLUMNS_BY_KIND[mapping.kind][0]
    attributes = [name for name in mapping.columns if name not in (id_column, "valid_from")]
    has_event_time = mapping.columns.get("valid_from") == events.columns.get("event_time")
    for rows in _rows(mapping, path, scratch):
        is_kept = pc.is_valid(rows[id_column])
        if attributes:
            is_kept = pc.and_(is_kept, reduce(pc.or_, (pc.is_valid(rows[name]) for name in attributes)))
        if has_event_time:
            is_kept = pc.and_(is_kept, pc.fill_null(is_utc(rows["valid_from"]), False))
        yield _compress_runs(rows.filter(is_kept), id_column)


def _compress_runs(rows: pa.RecordBatch, id_column: str) -> pa.RecordBatch:
    """Returns the first and the last of successive rows of an id that differ in nothing but their time."""
    if not rows.num_rows:
        return rows
    keys = [(name, "ascending") for name in (id_column, "valid_from", "row_number")]
    rows = rows.take(pc.sort_indices(rows, sort_keys=keys))
    content = [rows[name] for name in rows.schema.names if name not in ("row_number", "valid_from")]
    text = pc.binary_join_element_wise(*content, "\x1f", null_handling="replace", null_replacement="\x1e")
    differs = pc.not_equal(text[1:], text[:-1])
    edge = pa.array([True])
    begins, ends = pa.concat_arrays([edge, differs]), pa.concat_arrays([differs, edge])
    return rows.filter(pc.or_(begins, ends))


def _rows(mapping: SourceMapping, path: Path, batch: SourceBatch) -> Iterator[pa.RecordBatch]:
    def check_header(header: list[str]) -> None:
        _check_header(mapping, path, header)
        if mapping.header is None and mapping.format in _DELIMITERS and _looks_like_data(mapping, header):
            batch.warnings.append(
                f"the first line, which is read as the header, looks like data: {', '.join(header)[:200]}. If the file"
                " has no header, name its columns in `header` of the mapping"
            )
        batch.columns = header

    on_bad_line = make_bad_line_handler(path, mapping.on_error, batch)
    placeholders: Counter[str] = Counter()
    for block in _read_blocks(mapping, path, check_header, on_bad_line):
        if len(block.numbers):
            try:
                kept = _without_ignored_events(mapping, block, batch)
                exact = _without_rounded_ids(mapping, kept, on_bad_line)
                yield _to_canonical_batch(mapping, exact, placeholders)
            except pa.ArrowException as error:  # a Parquet type without a text form
                raise MalformedFile(str(path), block.numbers[0].as_py(), str(error)) from error
    batch.warnings += [
        f"{count:,} values of {name} are words for a missing value, such as NaN or null, and were read as ids; add them"
        " to `nulls` of the mapping"
        for name, count in placeholders.items()
        if count
    ]


def _read_blocks(
    mapping: SourceMapping,
    path: Path,
    check_header: Callable[[list[str]], None],
    on_bad_line: Callable[[BadLine], None],
) -> Iterator[Block]:
    if mapping.format == "jsonl":
        return _json_blocks(mapping, path, check_header, on_bad_line)
    if mapping.format == "parquet":
        return read_parquet(path, set(mapping.ignore) - set(mapping.mapped_columns), check_header, on_bad_line)
    delimiter = mapping.delimiter or _DELIMITERS[mapping.format]
    text_format = TextFormat(delimiter, mapping.encoding, mapping.skip_lines, mapping.header, mapping.trim)
    return read_csv(path, text_format, check_header, on_bad_line)


def _looks_like_data(mapping: SourceMapping, header: list[str]) -> bool:
    return any(looks_like_number(name) or name in mapping.event_types for name in header)


def _check_header(mapping: SourceMapping, path: Path, header: list[str]) -> None:
    for column in mapping.mapped_columns:
        if column not in header and column not in mapping.optional:
            raise MalformedFile(
                str(path),
                1,
                f"no column {column!r}; the file has {', '.join(header) or 'none'}. If files may lack it, add it to"
                " `optional` of the mapping; if the file has no header, name its columns in `header`",
            )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise MalformedFile(str(path), 1, f"the header has {', '.join(map(repr, repeated))} more than once")


def _without_ignored_events(mapping: SourceMapping, block: Block, batch: SourceBatch) -> Block:
    """Returns a block without the events whose type the mapping ignores, which are counted."""
    if not mapping.ignore_event_types or "event_type" not in mapping.columns:
        return block
    types = _read_text(mapping, block, mapping.columns["event_type"])
    is_ignored = pc.is_in(types, pa.array(mapping.ignore_event_types, pa.string()))
    batch.ignored_rows += pc.sum(is_ignored).as_py() or 0
    return block.filter(pc.invert(is_ignored))


def _without_rounded_ids(mapping: SourceMapping, block: Block, on_bad_line: Callable[[BadLine], None]) -> Block:
    """Returns a block without the rows that have a rounded id, which are reported as bad lines."""
    id_sources = {name: mapping.columns[name] for name in ID_COLUMNS if name in mapping.columns}
    for name, read_from in [
        (id_name, column) for id_name in id_sources for column in input_columns(id_sources[id_name])
    ]:
        column = block.columns.get(read_from)
        if column is None:
            continue
        is_trimmed = mapping.trim and pa.types.is_string(column.type)
        is_rounded = find_rounded(pc.utf8_trim_whitespace(column) if is_trimmed else column)
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
    rows = {name: _convert_column(name, source, mapping, block) for name, source in mapping.columns.items()}
    time_column = "event_time" if mapping.kind == "events" else "valid_from"
    if mapping.time_offset_ms and time_column in rows:
        offset = _read_text(mapping, block, mapping.time_offset_ms)
        rows[time_column] = add_milliseconds(rows[time_column], offset)
    if block.elements is not None and "event_id" in rows and not _reads_element(mapping, "event_id"):
        rows["event_id"] = pc.binary_join_element_wise(rows["event_id"], block.elements.cast(pa.string()), "#")
    placeholders.update({name: count_placeholders(rows[name]) for name in ID_COLUMNS if name in rows})
    for name, value in mapping.defaults.items():
        rows[name] = pc.fill_null(rows.get(name, pa.nulls(count, pa.string())), value)
    if "event_type" in rows:
        rows["event_type"] = replace_values(rows["event_type"], mapping.event_types)
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


def _convert_column(name: str, source: Source, mapping: SourceMapping, block: Block) -> pa.Array:
    column = block.columns.get(source) if isinstance(source, str) else None
    kind = pa.string() if column is None else column.type
    if name in _TIME_COLUMNS and (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return to_utc(column, mapping.time_format, mapping.time_zone)
    text = _read_text(mapping, block, source)
    if name in ID_COLUMNS:
        return normalize_ids(text)
    if name in _TIME_COLUMNS:
        return to_utc(text, mapping.time_format, mapping.time_zone)
    has_other_signs = mapping.decimal != "." or mapping.thousands_separator
    if name in NUMBER_COLUMNS and has_other_signs and pa.types.is_string(kind):
        return read_numbers(text, mapping.decimal, mapping.thousands_separator)
    return text


def _read_text(mapping: SourceMapping, block: Block, source: Source) -> pa.Array:
    """Returns the text values of a column or an expression; null for what the mapping says is null."""

    def read_column(name: str) -> pa.Array:
        column = block.columns.get(name)
        if column is None:
            return pa.nulls(len(block.numbers), pa.string())
        text = _to_text_column(column, mapping.time_zone)
        if mapping.trim:
            text = pc.utf8_trim_whitespace(text)
            text = pc.if_else(pc.equal(text, ""), None, text)
        return pc.if_else(pc.is_in(text, pa.array(mapping.nulls, pa.string())), None, text) if mapping.nulls else text

    return evaluate(source, read_column, len(block.numbers))


def _reads_element(mapping: SourceMapping, name: str) -> bool:
    return any(ELEMENT in column for column in input_columns(mapping.columns[name]))


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
    records = _elements(read_json_lines(path, mapping.encoding, on_bad_line), mapping.array)
    mapped = set(mapping.mapped_columns)
    names: set[str] = set()
    nested: set[str] = set()
    while chunk := list(islice(records, _RECORDS_PER_BLOCK)):
        names = names.union(*(record for _, _, record in chunk))
        columns = {}
        for name in mapped:
            if name in names:
                values = [record.get(name) for _, _, record in chunk]
            else:
                found = [find_value(record, name) for _, _, record in chunk]
                values = [value for _, value in found]
                nested |= {name} if any(is_found for is_found, _ in found) else set()
            columns[name] = _to_text_array(values)
        extra = None
        if not (mapping.ignores_rest or names <= mapped | set(mapping.ignore)):
            excluded = mapped | set(mapping.ignore)
            extra = pa.array([_unmapped_fields(record, excluded) for _, _, record in chunk], pa.string())
        elements = pa.array([position for _, position, _ in chunk], pa.int64()) if mapping.array else None
        yield Block(pa.array([number for number, _, _ in chunk], pa.int64()), columns, extra, elements)
    if names:
        check_header(sorted(names | nested))


def _elements(records: Iterator[tuple[int, Record]], array: str | None) -> Iterator[tuple[int, int, Record]]:
    """Yields number, position in the array, and record of each row; line numbers stay where no array makes rows."""
    if array is None:
        yield from ((number, 0, record) for number, record in records)
        return
    rows = ((position, row) for _, record in records for position, row in iterate_elements(record, array))
    for number, (position, row) in enumerate(rows, start=1):
        yield number, position, row


def _to_text_array(values: list[object]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except pa.ArrowException:  # not all values are strings
        return pa.array([as_text(value) for value in values], pa.string())


def _unmapped_fields(record: dict[str, object], excluded: set[str]) -> str | None:
    nested = [name for name in excluded if "." in name and name not in record]
    rest = {name: value for name, value in record.items() if name not in excluded}
    rest = {name: value for name, value in without_paths(rest, nested).items() if value is not None}
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
