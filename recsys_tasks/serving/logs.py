"""Log format of the endpoint: text or JSON lines with the request id, without personal data."""

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
current_request_id: ContextVar[str | None] = ContextVar("current_request_id", default=None)
access_logger = logging.getLogger("recsys_tasks.access")

_VALID_REQUEST_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)


def set_request_id(header: str | None) -> str:
    """Sets and returns the id of the current request: the caller's, or a new one if that is missing or invalid."""
    request_id = header if header and _VALID_REQUEST_ID.fullmatch(header) else uuid.uuid4().hex
    current_request_id.set(request_id)
    return request_id


def configure_logging(settings: Settings) -> None:
    """Applies the settings `log_format` and `access_log`."""
    access_logger.disabled = not settings.access_log
    if settings.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())


class JsonFormatter(logging.Formatter):
    """Formats each log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record with its UTC time, request id, extra fields and traceback."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": current_request_id.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode({name: value for name, value in line.items() if value is not None}).decode()
