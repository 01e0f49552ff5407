"""JSON logs: one line per event on standard error. Messages hold ids, counts and error types, never values."""

from __future__ import annotations

import logging
import sys
import time
import traceback

import orjson

from common.telemetry.tracing import in_hand
from common.times import now, rfc3339

REPEAT_SECONDS = 30.0
TRACE_IDS_MAX = 5
_OUTAGE_LOGGERS = ("aiokafka", "asyncpg.pool", "common.kafka.table", "ingestion.congestion", "opentelemetry")
_CHATTY = ("aiokafka", "httpx", "httpcore", "uvicorn.error")
# They warn of what is meant (topics are never created by a service) and of what heals (a broker that is starting).
_WARNING_TOO_EASILY = ("aiokafka.consumer.group_coordinator", "common.kafka.consumer.framework")


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
            "message": _message(record),
            **_traces(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["at"] = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
        return orjson.dumps(line).decode()


class OncePerOutage(logging.Filter):
    """Lets the same line of a client through twice a minute: one that cannot connect says so ten times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be written."""
        if not record.name.startswith(_OUTAGE_LOGGERS):
            return True
        # the exporter's lines differ in the pause before the next try
        text = record.msg if record.name.startswith("opentelemetry") else _message(record)
        moment, line = time.monotonic(), (record.name, str(text))
        if moment - self._said_at.get(line, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        self._said_at = {said: at for said, at in self._said_at.items() if moment - at < REPEAT_SECONDS}
        self._said_at[line] = moment
        return True


def _traces() -> dict[str, str | list[str]]:
    """Return the ids of the sampled messages in hand: of one its trace and span, of a batch some of its traces."""
    found = in_hand()
    if found is None:
        return {}
    ids = [context.decode().split("-") for context in found.contexts[:TRACE_IDS_MAX]]
    if found.messages == 1:
        return {"trace_id": ids[0][1], "span_id": ids[0][2]}
    return {"trace_ids": [trace_id for _, trace_id, _, _ in ids]}


def _message(record: logging.LogRecord) -> str:
    """The loop's own reports repeat the text of the exception below their first line."""
    message = record.getMessage()
    return message.partition("\n")[0] if record.name == "asyncio" else message


def configure_logs(service: str, level: int = logging.INFO) -> None:
    """Send all logs of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    handler.addFilter(OncePerOutage())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _WARNING_TOO_EASILY:
        logging.getLogger(name).setLevel(logging.ERROR)
