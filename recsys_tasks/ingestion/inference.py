"""Drafts a mapping for a file that nobody has described: format, columns by their names, formats by their values.

The draft is for a person to check: names and a sample of rows are all that it goes by.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion.flat_files import as_text
from recsys_tasks.ingestion.json_paths import ELEMENT
from recsys_tasks.ingestion.number_formats import looks_like_number
from recsys_tasks.ingestion.text_streams import UTF_8, open_text
from recsys_tasks.names import ADD_TO_CART, COLUMNS_BY_KIND, EVENT_TYPES, IMPRESSION, PURCHASE, SEARCH, VIEW

_SAMPLE_ROWS = 2_000
_BUFFER_BYTES = 1 << 20
_PACKED: Final = (".gz", ".zst", ".bz2", ".zip")
_FORMATS: Final = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
_DELIMITERS: Final = (",", "\t", ";", "|", "::")
_ENCODINGS: Final = (UTF_8, "cp1252")  # cp1252 has a meaning for nearly all bytes
_NAMES: Final = {  # normalized: lower-case letters and digits only
    "event_id": ("transactionid", "hitid"),
    "user_id": (
        "user",
        "customer",
        "customerid",
        "visitor",
        "visitorid",
        "client",
        "clientid",
        "member",
        "uid",
        "kunde",
    ),
    "session_id": ("session", "visit", "visitid"),
    "item_id": ("item", "product", "productid", "sku", "article", "articleid", "asin", "movieid", "songid", "ean"),
    "event_type": ("event", "type", "action", "actiontype", "behavior", "behaviour", "behaviortype"),
    "event_time": ("time", "timestamp", "ts", "datetime", "date", "datum", "eventdate", "at", "when", "createdat"),
    "query": ("search", "searchterm", "keyword", "keywords", "q"),
    "quantity": ("qty", "count", "amount", "units", "menge"),
    "price": ("unitprice", "saleprice", "preis"),
    "title": ("name", "productname", "itemname", "headline"),
    "category_path": ("category", "categoryid", "department", "genres", "genre", "categorycode"),
    "brand": ("brandid", "manufacturer", "vendor"),
}
_COLUMNS_OF: Final = {kind: [name for name in columns if name in _NAMES] for kind, columns in COLUMNS_BY_KIND.items()}
_TYPE_NAMES: Final = {
    VIEW: ("view", "pv", "click", "clicks", "pageview", "detail", "productview", "look", "read", "visit", "viewitem"),
    ADD_TO_CART: ("cart", "carts", "addtocart", "add", "basket", "addtobasket"),
    PURCHASE: ("purchase", "buy", "order", "orders", "transaction", "checkout", "bought", "sale", "purchased"),
    SEARCH: ("search", "query"),
    IMPRESSION: ("impression", "impressions", "shown", "exposure"),
}
_TYPE_OF: Final = {name: event_type for event_type, names in _TYPE_NAMES.items() for name in names}
_UNIX: Final = {10: "unix_s", 13: "unix_ms", 16: "unix_us", 19: "unix_ns"}
_TIME_PATTERNS: Final = (
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%Y%m%d"),
    *("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y"),
)
_NULLS: Final = ("NA", "N/A", "NULL", "null", "NaN", "nan", "None", "\\N")
_DECIMAL_COMMA: Final = re.compile(r"-?\d{1,3}(\.\d{3})*,\d{1,2}|-?\d+,\d{1,2}")


@dataclass
class _Sample:
    """The first rows of a file, and how they were read.

    Attributes:
        format: csv, tsv, jsonl or parquet.
        columns: values of each column, empty ones as None.
        keys: keys of the mapping that say how the file is written.
    """

    format: str
    columns: dict[str, list[str | None]]
    keys: dict[str, object] = field(default_factory=dict)

    def values(self, column: str) -> list[str]:
        """The values of a column without those that are missing."""
        return [value for value in self.columns[column] if value and value not in _NULLS]


def draft_mapping(path: Path) -> str:
    """Returns a draft of a mapping file, with a comment for everything that a person must decide.

    Raises:
        MalformedFile: the file cannot be read, or has no row.
    """
    try:
        sample = _read_sample(path)
    except (OSError, pa.ArrowException, ValueError, csv.Error) as error:
        raise MalformedFile(str(path), 0, str(error)) from error
    if not any(sample.columns.values()):
        raise MalformedFile(str(path), 0, "the file has no row to infer a mapping from")
    return "\n".join(_draft_lines(path, sample)) + "\n"


def _read_sample(path: Path) -> _Sample:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _PACKED]
    file_format = _FORMATS.get(suffixes[-1] if suffixes else "", "csv")
    if file_format == "parquet":
        with pq.ParquetFile(path) as file:
            rows = next(file.iter_batches(batch_size=_SAMPLE_ROWS), None)
            columns = {} if rows is None else {name: _to_texts(rows[name].to_pylist()) for name in rows.schema.names}
        return _Sample("parquet", columns)
    encoding, lines = _read_lines(path)
    keys: dict[str, object] = {} if encoding == UTF_8 else {"encoding": encoding}
    if file_format == "jsonl":
        return _Sample("jsonl", _read_json(lines), keys)
    return _read_delimited(lines, keys)


def _read_lines(path: Path) -> tuple[str, list[str]]:
    """Returns the encoding of a text file and its first lines."""
    for encoding in _ENCODINGS:
        with open_text(path, encoding, _BUFFER_BYTES) as stream:
            lines = list(islice(stream, _SAMPLE_ROWS))
        try:
            return encoding, [line.decode() for line in lines]
        except UnicodeDecodeError:
            continue
    raise ValueError("its encoding is neither utf-8, utf-16 nor cp1252; name it in `encoding`")


def _read_json(lines: Sequence[str]) -> dict[str, list[str | None]]:
    records = [dict(_flatten(msgspec.json.decode(line, type=dict[str, Any]))) for line in lines if line.strip()]
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: _to_texts([record.get(name) for record in records]) for name in names}


def _flatten(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields the paths of a record with their values; of an array of objects, those of its first element."""
    for name, value in record.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict) and ELEMENT not in path:
            yield from _flatten(value[0], f"{path}{ELEMENT}.")
        else:
            yield path, value


def _read_delimited(lines: Sequence[str], keys: dict[str, object]) -> _Sample:
    delimiter = max(_DELIMITERS, key=lambda candidate: _regularity(lines, candidate))
    rows = [row for row in _split(lines, delimiter) if row]
    if not rows:
        return _Sample("csv", {}, keys)
    names = [name.strip() for name in rows[0]]
    if any(looks_like_number(name) for name in names) or not any(names):
        names = [f"column_{number}" for number in range(1, len(names) + 1)]
        keys["header"] = names
    else:
        rows = rows[1:]
    file_format = "tsv" if delimiter == "\t" else "csv"
    if delimiter not in (",", "\t"):
        keys["delimiter"] = delimiter
    rows = [row for row in rows if len(row) == len(names)]
    return _Sample(file_format, {name: _to_texts([row[n] for row in rows]) for n, name in enumerate(names)}, keys)


def _regularity(lines: Sequence[str], delimiter: str) -> tuple[float, int]:
    """Share of lines with the most frequent number of fields, and that number; nothing for a single field."""
    widths = Counter(len(row) for row in _split(lines[:100], delimiter) if row)
    if not widths:
        return 0.0, 0
    width, count = widths.most_common(1)[0]
    return (count / widths.total(), width) if width > 1 else (0.0, 0)


def _split(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    if len(delimiter) > 1:
        return [line.rstrip("\r\n").split(delimiter) for line in lines]
    return list(csv.reader(lines, delimiter=delimiter))


def _to_texts(values: Sequence[object]) -> list[str | None]:
    return [value.isoformat() if isinstance(value, datetime) else as_text(value) for value in values]


def _normalize_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.rsplit(".", 1)[-1].lower())


def _find_columns(sample: _Sample) -> dict[str, str]:
    """Returns the column of the file for each canonical column whose name one has."""
    by_name = {_normalize_name(name): name for name in reversed(sample.columns)}
    found: dict[str, str] = {}
    for canonical, names in _NAMES.items():
        for name in map(_normalize_name, (canonical, *names)):
            if name in by_name and by_name[name] not in found.values():
                found[canonical] = by_name[name]
                break
    by_values = {"event_time": _find_time_format, "event_type": _has_event_types}
    for canonical, is_one in by_values.items():
        if canonical not in found:
            rest = (name for name in sample.columns if name not in found.values())
            match = next((name for name in rest if is_one(sample.values(name))), None)
            found |= {canonical: match} if match else {}
    return found


def _has_event_types(values: Sequence[str]) -> bool:
    """Whether the most frequent of the values is a usual name of an event type."""
    most_common = Counter(values).most_common(1)
    return bool(most_common) and _normalize_name(most_common[0][0]) in _TYPE_OF


def _find_time_format(values: Sequence[str]) -> str | None:
    """Returns the format that all of these times have."""
    if not values:
        return None
    digits = {len(value) for value in values} if all(value.isdigit() for value in values) else set()
    if len(digits) == 1 and min(digits) in _UNIX:
        return _UNIX[digits.pop()]
    for pattern in (None, *_TIME_PATTERNS):
        if all(_is_time(value, pattern) for value in values):
            return pattern or "iso8601"
    return None


def _is_time(value: str, pattern: str | None) -> bool:
    try:
        if pattern is None:
            datetime.fromisoformat(value)
            return not value.isdigit()
        datetime.strptime(value, pattern)  # noqa: DTZ007 (only whether it can be read)
    except ValueError:
        return False
    return True


def _draft_lines(path: Path, sample: _Sample) -> Iterator[str]:
    found = _find_columns(sample)
    kind = "events"
    if "event_time" not in found and "event_type" not in found:
        kind = "items" if "item_id" in found else "users"
    columns = {name: found[name] for name in _COLUMNS_OF[kind] if name in found}
    yield f"# Draft for {path.name}. Check every line, then try it:"
    yield f"# python -m recsys_tasks ingest --dry-run --source THIS_FILE {path.name}"
    yield f"source = {_to_toml(re.sub(r'[^a-z0-9]+', '_', path.name.split('.')[0].lower()).strip('_') or 'source')}"
    yield f"kind = {_to_toml(kind)}"
    yield f"format = {_to_toml(sample.format)}"
    yield from (f"{name} = {_to_toml(value)}" for name, value in sample.keys.items())
    yield 'on_error = "quarantine"'
    nulls = sorted({value for values in sample.columns.values() for value in values if value in _NULLS})
    if nulls:
        yield f"nulls = {_to_toml(nulls)}"
    numbers = [value for name in ("price", "quantity") if name in columns for value in sample.values(columns[name])]
    if any(_DECIMAL_COMMA.fullmatch(value) for value in numbers) and sample.format != "jsonl":
        yield 'decimal = ","'
    if kind == "events":
        yield from _write_times(sample, columns.get("event_time"))
        yield "implies_items = true  # without it, events of items that no other source has are quarantined"
        yield "implies_users = true"
    yield ""
    yield "[columns]"
    yield from (f"{name} = {_to_toml(column)}" for name, column in columns.items())
    missing = [name for name in _COLUMNS_OF[kind] if name not in columns]
    if missing:
        yield f"# not found by name: {', '.join(missing)}"
    rest = [name for name in sample.columns if name not in columns.values()]
    if rest:
        yield f"# kept in properties, unless `ignore` names them: {', '.join(rest)}"
    if kind == "events":
        yield from _write_types(sample, columns)


def _write_times(sample: _Sample, column: str | None) -> Iterator[str]:
    if column is None:
        yield "# No column has times. Events need one."
        return
    time_format = _find_time_format(sample.values(column))
    if time_format is None:
        yield f'time_format = "iso8601"  # unknown: {column} has values such as {_to_toml(sample.values(column)[:1])}'
    elif time_format != "iso8601":
        yield f"time_format = {_to_toml(time_format)}"
    is_ambiguous = time_format is not None and "/%Y" in time_format
    if is_ambiguous:
        yield "# Is the day or the month first? Both fit where no day is above 12."
    if time_format is None or not time_format.startswith("unix"):
        yield 'time_zone = "UTC"  # of times without a zone'


def _write_types(sample: _Sample, columns: Mapping[str, str]) -> Iterator[str]:
    yield ""
    if "event_type" not in columns:
        default = PURCHASE if "quantity" in columns else VIEW
        yield "[defaults]"
        yield f"event_type = {_to_toml(default)}  # no column has types; one of {', '.join(EVENT_TYPES)}"
        return
    counts = Counter(sample.values(columns["event_type"]))
    if not set(counts) <= set(EVENT_TYPES):
        yield "[event_types]"
    for name, count in counts.most_common(20):
        event_type = _TYPE_OF.get(_normalize_name(name)) or (name if name in EVENT_TYPES else None)
        if event_type is None:
            yield f"# {_to_toml(name)} = ?  # {count:,} rows; a type, or leave it out by `ignore_event_types`"
        elif event_type != name:
            yield f"{_to_toml(name)} = {_to_toml(event_type)}"


def _to_toml(value: object) -> str:
    """A value as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)
