"""Traces that survive batches: a record is a step of its own trace, whatever batch it travels in.

A record's W3C trace context stands in its header `traceparent`. Who handles a batch opens one span for each record that
is sampled, as a child of that record's own context, and what it publishes carries the span's context on. A record that
is not sampled costs one look at one byte. The decision to sample is made once, at the door; everybody else follows it.

A call that serves a whole batch (to the vault) names the contexts of the sampled messages in hand in one header, so
that the vault's span stands in each of their traces.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.trace import Span
    from opentelemetry.trace import Tracer as SdkTracer

CONTEXTS_HEADER = "waystation-traceparents"
CONTEXTS_MAX = 100
"""Of a batch with more sampled messages the call shows in the traces of the first so many."""

Attributes = Mapping[str, str | int]

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_LENGTH = 55
_SAMPLED_DIGITS = frozenset(b"13579bdf")
_NOTHING: AbstractContextManager[None] = nullcontext()


class InHand(NamedTuple):
    """The sampled contexts of the messages that the present task works on, and how many messages those are in all."""

    contexts: tuple[bytes, ...]
    messages: int


_IN_HAND: ContextVar[InHand | None] = ContextVar("waystation_in_hand", default=None)


def in_hand() -> InHand | None:
    """Return what the present task works on; None when nothing of it is sampled."""
    return _IN_HAND.get()


def is_sampled(traceparent: bytes | None) -> bool:
    """Tell by its last digit whether a trace context asks for spans."""
    return (
        traceparent is not None
        and len(traceparent) == _LENGTH
        and traceparent[-1] in _SAMPLED_DIGITS
        and _TRACEPARENT.fullmatch(traceparent) is not None
    )


class OpenSpan:
    """A span that has begun, with the context that what it causes carries on."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span) -> None:
        context = span.get_span_context()
        self._span = span
        self.traceparent = b"00-%032x-%016x-01" % (context.trace_id, context.span_id)

    def fail(self, error: str) -> None:
        """Mark the span, which goes on, as failed; `error` is the type of what went wrong, never its text."""
        self._span.set_attribute("error.type", error)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self, error: str | None = None, attributes: Attributes | None = None) -> None:
        """Finish the span."""
        if attributes:
            self._span.set_attributes(attributes)
        if error is not None:
            self.fail(error)
        self._span.end()


class Tracer:
    """Opens spans for what is sampled. Without an SDK tracer it is off: `on` is false and nothing else is done."""

    __slots__ = ("_asks_caller", "_ratio", "_sdk", "on")

    def __init__(self, sdk: SdkTracer | None = None, *, ratio: float = 0.0, asks_caller: bool = True) -> None:
        self.on = sdk is not None
        self._sdk = sdk
        self._ratio = ratio
        self._asks_caller = asks_caller

    def arrive(self, traceparent: bytes | None, name: str, attributes: Attributes) -> OpenSpan | None:
        """Begin the way of a message at the door: decide whether it is sampled; None when it is not.

        A caller's own decision is followed when the sampler asks for that (`parentbased_...`).
        """
        if self._sdk is None:
            return None
        parent = _parent(traceparent) if traceparent is not None else None
        if parent is not None and self._asks_caller:
            return self._open(parent, name, SpanKind.SERVER, attributes) if is_sampled(traceparent) else None
        if self._ratio < 1 and random.random() >= self._ratio:
            return None
        return self._open(parent, name, SpanKind.SERVER, attributes)

    def carried(self, traceparent: bytes | None, span: OpenSpan | None) -> bytes | None:
        """Return what a message carries on from the door; a decision to sample that was not followed ends there."""
        if span is not None:
            return span.traceparent
        return None if self.on and is_sampled(traceparent) else traceparent

    def follow(
        self,
        traceparent: bytes | None,
        name: str,
        kind: SpanKind = SpanKind.CLIENT,
        attributes: Attributes | None = None,
    ) -> OpenSpan | None:
        """Begin the next step of a trace, by default a call; None when it is not sampled or is no trace context."""
        if self._sdk is None or traceparent is None or not is_sampled(traceparent):
            return None
        parent = _parent(traceparent)
        return None if parent is None else self._open(parent, name, kind, attributes)

    def follow_all(
        self, traceparents: Iterable[bytes | None], name: str, kind: SpanKind, attributes: Attributes | None = None
    ) -> Sequence[OpenSpan]:
        """Begin the same step of many traces, of those that are sampled."""
        if self._sdk is None:
            return ()
        spans = (self.follow(traceparent, name, kind, attributes) for traceparent in traceparents)
        return [span for span in spans if span is not None]

    def carry(self, traceparents: Iterable[bytes | None]) -> AbstractContextManager[None]:
        """Let calls and log lines within the block know which sampled messages are in hand."""
        return _carry(list(traceparents)) if self.on else _NOTHING

    def call(self, name: str, attributes: Attributes) -> Sequence[OpenSpan]:
        """Begin a call for what is in hand, in each of its traces; `contexts_header` tells them to who is called."""
        found = _IN_HAND.get() if self._sdk is not None else None
        if found is None:
            return ()
        count: Attributes = {**attributes, "waystation.batch.messages": found.messages}
        return self.follow_all(found.contexts[:CONTEXTS_MAX], name, SpanKind.CLIENT, count)

    def _open(self, parent: Context | None, name: str, kind: SpanKind, attributes: Attributes | None) -> OpenSpan:
        assert self._sdk is not None
        return OpenSpan(self._sdk.start_span(name, parent, kind, attributes))


OFF = Tracer()
"""No tracing."""


def end_all(spans: Iterable[OpenSpan], error: str | None = None, attributes: Attributes | None = None) -> None:
    """Finish spans that end together."""
    for span in spans:
        span.end(error, attributes)


def contexts_header(spans: Iterable[OpenSpan]) -> str:
    """Return the value of CONTEXTS_HEADER for a call."""
    return ",".join(span.traceparent.decode() for span in spans)


def read_contexts(header: bytes) -> list[bytes | None]:
    """Return the contexts that a caller named."""
    return list(header.split(b",", CONTEXTS_MAX)[:CONTEXTS_MAX])


@contextmanager
def _carry(traceparents: Sequence[bytes | None]) -> Iterator[None]:
    contexts = tuple(one for one in traceparents if one is not None and is_sampled(one))
    token = _IN_HAND.set(InHand(contexts, len(traceparents)) if contexts else None)
    try:
        yield
    finally:
        _IN_HAND.reset(token)


def _parent(traceparent: bytes) -> Context | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    flags = TraceFlags(int(traceparent[-2:], 16))
    context = SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(context)) if context.is_valid else None
