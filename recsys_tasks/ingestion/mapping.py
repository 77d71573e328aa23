"""Mapping files: map the columns of a flat file to canonical events, items, users or item vectors."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recsys_tasks.errors import ConfigurationError, MalformedFile
from recsys_tasks.ingestion.contract import PROPERTY, Contract
from recsys_tasks.ingestion.delivery import Delivery
from recsys_tasks.ingestion.expressions import Expression, Source, input_columns
from recsys_tasks.ingestion.json_paths import ELEMENT, find_array
from recsys_tasks.ingestion.remote_files import read_text
from recsys_tasks.ingestion.text_streams import UTF_8, normalize_encoding
from recsys_tasks.ingestion.times import check_time_format
from recsys_tasks.names import CATEGORY_SEPARATOR, COLUMNS_BY_KIND, EVENT_TYPES
from recsys_tasks.storage.addresses import is_remote, without_secrets

BUILT_IN = Path(__file__).parent / "mappings"
_ALL = "*"
_TEXT_FORMATS = ("csv", "tsv")
_OTHER_DECIMAL = {",": ".", ".": ""}  # default thousands separator of each decimal separator
_REQUIRED = {
    "items": ("item_id",),
    "users": ("user_id",),
    "vectors": ("item_id", "space", "vector"),
    "events": ("event_type", "event_time"),
}


class SourceMapping(BaseModel):
    """Mapping of one flat-file source; `docs/mappings.md` describes every key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(pattern=r"^[a-z0-9_]+$")
    kind: Literal["items", "users", "vectors", "events"] = "events"
    format: Literal["csv", "tsv", "jsonl", "parquet"]
    delimiter: str | None = Field(None, min_length=1)
    encoding: str = UTF_8
    skip_lines: int = Field(0, ge=0)
    header: tuple[str, ...] | None = Field(None, min_length=1)
    trim: bool = False
    nulls: tuple[str, ...] = ()
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'", ""] | None = None
    on_error: Literal["reject", "quarantine"] = "reject"
    columns: dict[str, Source]
    items: dict[str, Source] = {}
    users: dict[str, Source] = {}
    defaults: dict[str, str] = {}
    event_types: dict[str, str] = {}
    ignore_event_types: tuple[str, ...] = ()
    time_format: str = "iso8601"
    time_zone: str = "UTC"
    time_offset_ms: str | None = None
    id_prefix: str = ""
    ignore: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    category_separator: str = Field(CATEGORY_SEPARATOR, pattern=r"\S")
    on_conflict: Literal["keep", "replace"] = "keep"
    live: bool = False
    expected_every_hours: float | None = Field(None, gt=0)
    delivery: Delivery | None = None
    contract: Contract | None = None
    implies_items: bool = False
    implies_users: bool = False

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"unknown time zone {value!r}; use a name such as 'Europe/Berlin'") from error
        return value

    @field_validator("time_format")
    @classmethod
    def _time_format_is_readable(cls, value: str) -> str:
        check_time_format(value)
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, value: str) -> str:
        return normalize_encoding(value)

    @field_validator("event_types")
    @classmethod
    def _types_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        for name, event_type in value.items():
            if event_type not in EVENT_TYPES:
                raise ValueError(f"{name!r} maps to {event_type!r}; known types are {', '.join(EVENT_TYPES)}")
        return value

    @model_validator(mode="after")
    def _columns_fit_the_kind(self) -> SourceMapping:
        tables = (("columns", self.kind), ("defaults", self.kind), ("items", "items"), ("users", "users"))
        for table, kind in tables:
            known = COLUMNS_BY_KIND[kind]
            for name in getattr(self, table):
                if name not in known:
                    raise ValueError(f"{table}.{name} is not a column of {kind}; expected one of {', '.join(known)}")
        for name in _REQUIRED[self.kind]:
            if name not in self.columns and name not in self.defaults:
                raise ValueError(f"columns.{name} is required for {self.kind}")
        for column in self.optional:
            if column not in self.all_columns:
                raise ValueError(f"optional names {column!r}, which no column is mapped to")
        return self

    @model_validator(mode="after")
    def _events_have_what_they_imply(self) -> SourceMapping:
        for table in ("items", "users", "ignore_event_types"):
            if getattr(self, table) and self.kind != "events":
                raise ValueError(f"{table} belongs to a mapping of events, not of {self.kind}")
        for kind, column in (("items", "item_id"), ("users", "user_id")):
            if getattr(self, kind) and column not in {**self.columns, **getattr(self, kind)}:
                raise ValueError(f"{kind} needs a column for {column}")
        return self

    @model_validator(mode="after")
    def _contract_fits_the_kind(self) -> SourceMapping:
        known = COLUMNS_BY_KIND[self.kind]
        for column in sorted(self.contract.columns) if self.contract else ():
            if column not in known and not (column.startswith(PROPERTY) and "properties" in known):
                raise ValueError(f"contract: {column} is not a column of {self.kind}, nor {PROPERTY}NAME")
        return self

    @model_validator(mode="after")
    def _keys_fit_the_format(self) -> SourceMapping:
        is_text = self.format in _TEXT_FORMATS
        for key in ("delimiter", "header", "skip_lines"):
            if getattr(self, key) and not is_text:
                raise ValueError(f"{key} applies to csv and tsv only, not to {self.format}")
        if self.encoding != UTF_8 and self.format == "parquet":
            raise ValueError("encoding applies to text files, not to parquet")
        if self.decimal != "." and self.format == "jsonl":
            raise ValueError("decimal does not apply to jsonl, whose numbers have a point")
        if self.decimal == self.thousands_separator:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}")
        if self.header and len(set(self.header)) < len(self.header):
            raise ValueError("header names a column twice")
        if self.format != "jsonl" and any(ELEMENT in column for column in self.all_columns):
            raise ValueError(f"paths with {ELEMENT} apply to jsonl only, not to {self.format}")
        find_array(self.all_columns)
        return self

    @property
    def ignores_rest(self) -> bool:
        """Whether no unmapped column is kept in properties."""
        return _ALL in self.ignore

    @property
    def mapped_columns(self) -> tuple[str, ...]:
        """Columns of the file that `columns` reads."""
        offset = (self.time_offset_ms,) if self.time_offset_ms else ()
        return (*_distinct_inputs(self.columns), *offset)

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Columns of the file that the mapping reads, also for the items and users of events."""
        return tuple(
            dict.fromkeys((*self.mapped_columns, *_distinct_inputs(self.items), *_distinct_inputs(self.users)))
        )

    @property
    def array(self) -> str | None:
        """Path of the JSON array whose elements become rows; None without one."""
        return find_array(self.all_columns)

    @property
    def thousands_separator(self) -> str:
        """Separator of groups of three digits; empty for none."""
        return _OTHER_DECIMAL[self.decimal] if self.thousands is None else self.thousands

    def split_by_kind(self) -> Iterator[SourceMapping]:
        """Yields a mapping per kind of rows: of embedded items, of embedded users, then this one.

        Embedded rows are valid from the event's time, and have only the columns that are named.
        """
        for kind, id_column in (("items", "item_id"), ("users", "user_id")):
            named = getattr(self, kind)
            if named:
                ids = {id_column: self.columns[id_column]} if id_column in self.columns else {}
                valid_from = {"valid_from": self.columns["event_time"]} if "event_time" in self.columns else {}
                overrides = {"kind": kind, "columns": {**ids, **valid_from, **named}, "ignore": (_ALL,)}
                cleared: dict[str, Any] = {
                    "items": {},
                    "users": {},
                    "defaults": {},
                    "event_types": {},
                    "ignore_event_types": (),
                }
                yield self.model_copy(update={**overrides, **cleared})
        yield self


def _distinct_inputs(sources: dict[str, Source]) -> list[str]:
    """The columns of the file that some columns of the warehouse are read from."""
    return list(dict.fromkeys(column for source in sources.values() for column in input_columns(source)))


def load_mapping(name_or_path: str) -> SourceMapping:
    """Returns the built-in mapping of that name, or the mapping in that file, here or in a remote store.

    Raises:
        ConfigurationError: the mapping does not exist or is invalid; names the file and the key.
        UnavailableError: the remote store does not answer.
    """
    shown = without_secrets(name_or_path)
    path = BUILT_IN / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    try:
        content = read_text(name_or_path) if is_remote(name_or_path) else path.read_text(encoding="utf-8")
        return SourceMapping.model_validate(tomllib.loads(content))
    except (FileNotFoundError, MalformedFile) as error:
        built_in = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.toml")))
        raise ConfigurationError(
            f"Unknown source {shown!r}: expected a mapping file or one of complete_journey, otto, {built_in}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{shown}: {error}") from error
    except ValidationError as error:
        # Of a column that is neither a name nor a valid expression, the expression's error says more.
        first = next((found for found in error.errors() if "str" not in found["loc"]), error.errors()[0])
        key = ".".join(str(part) for part in first["loc"] if Expression.__name__ not in str(part)) or "mapping"
        raise ConfigurationError(f"{shown}: {key}: {first['msg'].removeprefix('Value error, ')}") from error
