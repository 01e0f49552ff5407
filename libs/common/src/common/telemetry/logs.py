"""JSON logs: one line per event on standard error. Messages hold ids, counts and error types, never values."""

from __future__ import annotations

import logging
import sys
import traceback

import orjson

from common.times import now, rfc3339

_CHATTY = ("aiokafka", "httpx", "httpcore", "uvicorn.error", "faststream")


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; of an exception only type and places, since its text may hold values."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": rfc3339(now()),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["at"] = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
        return orjson.dumps(line).decode()


def configure_logs(service: str, level: int = logging.INFO) -> None:
    """Send all logs of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
