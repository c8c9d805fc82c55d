"""How the log is written, in every process alike: lines of text, or of JSON."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar

import msgspec

FORMATS = ("text", "json")

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being served; the log tells it."""


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """level: a name of Python's logging. format: one of FORMATS. file: None is standard error."""

    level: str = "WARNING"
    format: str = "text"
    file: str | None = None


def configure(options: LogOptions) -> None:
    """Set this process's log up; several may append to one file. Raises OSError for a file that cannot be written."""
    handler = logging.FileHandler(options.file) if options.file else logging.StreamHandler()
    handler.setFormatter(JsonLines() if options.format == "json" else TextLines())
    logging.basicConfig(level=options.level, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(max(logging.getLogger().level, logging.WARNING))


class TextLines(logging.Formatter):
    """`20:15:01 INFO trivet.access: …`, with the request's id at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        name = request_id.get()
        return line if not name or name in line else f"{line} (request {name})"


class JsonLines(logging.Formatter):
    """One object a line: timestamp, level, target (the logger), message, request_id, what `extra={"fields": …}` of the
    record has, and exception, a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "timestamp": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "target": record.name,
            "message": record.getMessage(),
        }
        if name := request_id.get():
            line["request_id"] = name
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()
