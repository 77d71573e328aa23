"""Mapping files: map the columns of a flat file to canonical events, items or users."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.ingestion.times import check_time_format
from recsys_tasks.names import CATEGORY_SEPARATOR, COLUMNS_BY_KIND, EVENT_TYPES

BUILT_IN = Path(__file__).parent / "mappings"
_ALL = "*"
_REQUIRED = {"items": ("item_id",), "users": ("user_id",), "events": ("event_type", "event_time")}


class SourceMapping(BaseModel):
    """Mapping of one flat-file source; `docs/mappings.md` describes every key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(pattern=r"^[a-z0-9_]+$")
    kind: Literal["items", "users", "events"] = "events"
    format: Literal["csv", "tsv", "jsonl", "parquet"]
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    nulls: tuple[str, ...] = ()
    on_error: Literal["reject", "quarantine"] = "reject"
    columns: dict[str, str]
    defaults: dict[str, str] = {}
    event_types: dict[str, str] = {}
    time_format: str = "iso8601"
    time_zone: str = "UTC"
    time_offset_ms: str | None = None
    id_prefix: str = ""
    ignore: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    category_separator: str = Field(CATEGORY_SEPARATOR, pattern=r"\S")
    on_conflict: Literal["keep", "replace"] = "keep"
    live: bool = False
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

    @field_validator("event_types")
    @classmethod
    def _types_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        for name, event_type in value.items():
            if event_type not in EVENT_TYPES:
                raise ValueError(f"{name!r} maps to {event_type!r}; known types are {', '.join(EVENT_TYPES)}")
        return value

    @model_validator(mode="after")
    def _columns_fit_the_kind(self) -> SourceMapping:
        known = COLUMNS_BY_KIND[self.kind]
        for table, names in (("columns", self.columns), ("defaults", self.defaults)):
            for name in names:
                if name not in known:
                    raise ValueError(
                        f"{table}.{name} is not a column of {self.kind}; expected one of {', '.join(known)}"
                    )
        for name in _REQUIRED[self.kind]:
            if name not in self.columns and name not in self.defaults:
                raise ValueError(f"columns.{name} is required for {self.kind}")
        for column in self.optional:
            if column not in self.columns.values():
                raise ValueError(f"optional names {column!r}, which no column is mapped to")
        if self.format not in ("csv", "tsv") and self.delimiter:
            raise ValueError(f"delimiter applies to csv and tsv only, not to {self.format}")
        return self

    @property
    def ignores_rest(self) -> bool:
        """Whether no unmapped column is kept in properties."""
        return _ALL in self.ignore

    @property
    def mapped_columns(self) -> tuple[str, ...]:
        """Columns of the file that the mapping reads."""
        offset = (self.time_offset_ms,) if self.time_offset_ms else ()
        return (*self.columns.values(), *offset)


def load_mapping(name_or_path: str) -> SourceMapping:
    """Returns the built-in mapping of that name, or the mapping in that file.

    Raises:
        ConfigurationError: the mapping does not exist or is invalid; names the file and the key.
    """
    path = BUILT_IN / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    try:
        return SourceMapping.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        built_in = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.toml")))
        raise ConfigurationError(
            f"Unknown source {name_or_path!r}: expected a mapping file or one of complete_journey, otto, {built_in}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "mapping"
        raise ConfigurationError(f"{path}: {key}: {first['msg'].removeprefix('Value error, ')}") from error
