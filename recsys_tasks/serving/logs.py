"""What the endpoint says of itself: lines of text or JSON, with the request they are about and nothing of a person."""

from __future__ import annotations

import logging
import re
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

import msgspec

from recsys_tasks.settings import Settings

REQUEST_ID: Final = "X-Request-ID"
current_request: ContextVar[str | None] = ContextVar("current_request", default=None)
access = logging.getLogger("recsys_tasks.access")

_USABLE = re.compile(r"[\w.:-]{1,100}", re.ASCII)


def begin_request(given: str | None) -> str:
    """The id under which this request is logged: the caller's, if that can stand in a log, or a new one."""
    found = given if given and _USABLE.fullmatch(given) else uuid.uuid4().hex
    current_request.set(found)
    return found


def configure(settings: Settings) -> None:
    """Makes the lines what the settings ask for; a line for each request only if they do."""
    access.disabled = not settings.access_log
    if settings.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines())


class JsonLines(logging.Formatter):
    """A line of JSON for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with its time in UTC, its request, and the trace of what was raised."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": current_request.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode({name: value for name, value in line.items() if value is not None}).decode()
