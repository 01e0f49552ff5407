"""CloudEvents 1.0 in Kafka binary mode: attributes in `ce_` headers, the data as JSON in the value."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError

from common.kafka.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Headers = tuple[tuple[str, bytes], ...]

_SPECVERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE_HEADER = ("content-type", b"application/json")


class EventError(Exception):
    """A record is not a valid event of the type expected here; the text says why and holds no data."""


class Contract(BaseModel):
    """A part of an event. Unknown fields are ignored, so that producers may add some; bytes are base64url in JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")


class Event(Contract):
    """One event. Its id is derived from what it tells, so that a repetition carries the same id."""

    TYPE: ClassVar[str]
    TOPIC: ClassVar[str]
    SOURCE: ClassVar[str]

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Return the event in a record's value; a pydantic ValidationError says what is wrong with it."""
        return cls.model_validate_json(value)

    @property
    @abstractmethod
    def event_id(self) -> str:
        """The CloudEvents id."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The Kafka key: what keeps its order."""

    @property
    @abstractmethod
    def time(self) -> str:
        """When it happened, RFC 3339."""


class Readable(Protocol):
    """What a record can be read as: an event, or one as it was sent."""

    TYPE: ClassVar[str]
    TOPIC: ClassVar[str]

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Return what is in a record's value; a pydantic ValidationError says what is wrong with it."""


class SentEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it was sent, which costs half to read: who verifies its statements needs no more."""

    TYPE: ClassVar[str]
    TOPIC: ClassVar[str]
    MODEL: ClassVar[type[Event]]

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Return what is in a record's value; what is sent otherwise than usual goes through the model."""
        try:
            value.decode()
            return cls.as_sent(value)
        except (UnicodeDecodeError, msgspec.DecodeError, ValidationError):
            return cls.of(cls.MODEL.from_json(value))

    @classmethod
    @abstractmethod
    def as_sent(cls, value: bytes) -> Self:
        """Read UTF-8 JSON in its usual form; a DecodeError or a pydantic ValidationError where it has another."""

    @classmethod
    @abstractmethod
    def of(cls, event: Any) -> Self:
        """Return what would have been sent of an event of the model."""


E = TypeVar("E", bound=Readable)


def encode(event: Event, *, traceparent: bytes | None = None, body: bytes | None = None) -> Record:
    """Return the Kafka record of an event; `body` when the caller already has its JSON."""
    return record_of(
        type(event),
        event_id=event.event_id,
        key=event.key,
        time=event.time,
        body=body or event.__pydantic_serializer__.to_json(event),
        traceparent=traceparent,
    )


def record_of(
    kind: type[Event], *, event_id: str, key: str, time: str, body: bytes, traceparent: bytes | None = None
) -> Record:
    """Return the Kafka record of an event whose JSON was made in bulk, without a model of it."""
    kind_and_source = _kind_and_source(kind)
    key_bytes = key.encode()
    headers: Headers = (
        _SPECVERSION,
        ("ce_id", event_id.encode()),
        *kind_and_source,
        ("ce_time", time.encode()),
        ("ce_subject", key_bytes),
        _CONTENT_TYPE_HEADER,
    )
    if traceparent is not None:
        headers = (*headers, ("traceparent", traceparent))
    return Record(kind.TOPIC, key_bytes, body, headers)


@cache
def _kind_and_source(kind: type[Event]) -> Headers:
    return ("ce_type", kind.TYPE.encode()), ("ce_source", kind.SOURCE.encode())


def decode(event: type[E], value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> E:
    """Return the event in a record, or raise EventError naming the header or field that is wrong."""
    kind = next((content for name, content in headers if name == "ce_type"), None)
    if kind != event.TYPE.encode():
        found = "none" if kind is None else ascii(kind.decode("utf-8", "replace")[:100])
        raise EventError(f"ce_type: expected {event.TYPE}, found {found}")
    if not value:
        raise EventError("value: the record is empty")
    try:
        return event.from_json(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "value"
        raise EventError(f"{field}: {first['msg']} ({error.error_count()} errors)") from None


def decode_one_of(events: Sequence[type[E]], value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> E:
    """Return the event in a record of a topic that carries several types; else EventError, as `decode`."""
    if len(events) == 1:
        return decode(events[0], value, headers)
    kind = next((content for name, content in headers if name == "ce_type"), None)
    return decode(next((event for event in events if event.TYPE.encode() == kind), events[0]), value, headers)


def traceparent_of(headers: Iterable[tuple[str, bytes | None]]) -> bytes | None:
    """Return a record's own W3C trace context, which survives batches."""
    return next((content for name, content in headers if name == "traceparent"), None)
