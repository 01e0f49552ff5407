"""The door's routes for messages, as a client of one account uses them: batches, patience, idempotency keys."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx

from common.times import now, parse_rfc3339
from waystation.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

BATCH_ITEMS = 100
BATCH_BYTES = 24 * 1024 * 1024
TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
LATER = (409, 429, 503)
"""What a later request with the same keys may be answered otherwise: the key is in use, too fast, too busy."""
UNREADABLE = (400, 413)
"""What a whole batch is answered because of one item: what no parser takes, or what is too large."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An item for the door as JSON, and where it came from (a file, or the command line)."""

    source: str
    inbox: str
    recipient: str
    json: bytes

    @classmethod
    def of(cls, source: str, item: Mapping[str, Any]) -> Self:
        """Write an item as JSON; equal items have equal bytes.

        Raises:
            ValueError: it cannot be written; the text says why, without the item's words.
        """
        return cls(source, item["inbox"], item["recipient"]["address"], written(item))


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one message at the door. `before`: it was admitted by an earlier run."""

    source: str
    recipient: str
    accepted: bool
    id: str | None = None
    reason: str | None = None
    before: bool = False


@dataclass(slots=True)
class Door:
    """The door's routes with one account's key. A busy door is asked again with the same idempotency keys.

    `patience_seconds` is how long one batch is asked again; `persistent` also when the door cannot be reached.
    """

    http: httpx.Client
    api_key: str
    patience_seconds: float = PATIENCE_SECONDS
    persistent: bool = False
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    started: datetime = field(default_factory=now)

    def send(self, batch: Sequence[Outgoing]) -> list[Sent]:
        """Return what became of up to 100 messages.

        Raises:
            CommandError: the door cannot be reached, stays busy, or refuses the request as a whole.
        """
        deadline = self.clock() + self.patience_seconds
        sent: dict[int, Sent] = {}
        left = list(enumerate(batch))
        while left:
            answers = self._answers([each for _, each in left], deadline)
            late = self.clock() > deadline
            again = [place for place, given in zip(left, answers, strict=True) if given["status"] in LATER and not late]
            for (number, each), given in zip(left, answers, strict=True):
                if (number, each) not in again:
                    sent[number] = self._sent(each, given)
            if again:
                self.sleep(max(_pause_seconds(given) for given in answers if given["status"] in LATER))
            left = again
        return [sent[number] for number in range(len(batch))]

    def _answers(self, batch: Sequence[Outgoing], deadline: float) -> list[dict[str, Any]]:
        if len(batch) == 1:
            return [self._single(batch[0], deadline)]
        body = b'{"items":[' + b",".join(each.json for each in batch) + b"]}"
        answer = self._ask("/v1/messages:batch", body, deadline)
        if answer.status_code in UNREADABLE:
            half = len(batch) // 2
            return self._answers(batch[:half], deadline) + self._answers(batch[half:], deadline)
        if not answer.is_success:
            raise _refused(answer)
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def _single(self, each: Outgoing, deadline: float) -> dict[str, Any]:
        """Ask for one message by the route that stays open longest, and return what a batch would have answered."""
        answer = self._ask("/v1/messages", each.json, deadline)
        if answer.is_success:
            return {"status": answer.status_code, "message": answer.json()}
        if answer.is_server_error or answer.status_code == httpx.codes.UNAUTHORIZED:
            raise _refused(answer)
        return {"status": answer.status_code, "problem": _problem(answer)}

    def _ask(self, path: str, body: bytes, deadline: float) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.api_key}", "content-type": "application/json"}
        while True:
            try:
                answer = self.http.post(path, content=body, headers=headers)
            except httpx.TransportError as error:
                if not self.persistent or self.clock() > deadline:
                    raise self._unreachable(error) from error
                self.sleep(1.0)
                continue
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or self.clock() > deadline:
                return answer
            self.sleep(_retry_after_seconds(answer))

    def _unreachable(self, error: httpx.TransportError) -> CommandError:
        return CommandError(
            f"the door at {self.http.base_url} did not answer ({type(error).__name__})",
            "see what runs: waystation status. Then repeat the command: own mails and files are never admitted twice",
        )

    def _sent(self, each: Outgoing, given: Mapping[str, Any]) -> Sent:
        if given["status"] != httpx.codes.ACCEPTED:
            return Sent(each.source, each.recipient, accepted=False, reason=_reason(given["problem"]))
        message = given["message"]
        admitted_at = parse_rfc3339(message["acceptance"]["statement"]["admitted_at"])
        before = (self.started - admitted_at).total_seconds() > 1
        return Sent(each.source, each.recipient, accepted=True, id=message["id"], before=before)


def written(value: Any) -> bytes:
    """Return a value as JSON in UTF-8; equal values have equal bytes.

    Raises:
        ValueError: it cannot be written; the text says why, without the value's words.
    """
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds what is no UTF-8, or half a surrogate pair") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except ValueError:
        raise ValueError("holds a number that JSON cannot hold") from None


def batches(outgoing: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    """Cut messages into requests of up to 100 and 24 MiB; one that is larger travels alone."""
    batch: list[Outgoing] = []
    size_bytes = 0
    for each in outgoing:
        if batch and (len(batch) == BATCH_ITEMS or size_bytes + len(each.json) > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(each)
        size_bytes += len(each.json)
    if batch:
        yield batch


def _reason(problem: Mapping[str, Any]) -> str:
    clause = f" (clause {problem['clause']})" if problem.get("clause") else ""
    field = problem.get("field")
    named = f"{field}: " if field and not problem["detail"].startswith(field) else ""
    return f"{named}{problem['detail']}{clause}"


def _refused(answer: httpx.Response) -> CommandError:
    return CommandError(f"the door refused ({answer.status_code}): {_detail(answer)}", _next_step(answer))


def _detail(answer: httpx.Response) -> str:
    return str(_problem(answer)["detail"])


def _problem(answer: httpx.Response) -> dict[str, Any]:
    """Return the problem that an answer tells; one that is not the door's tells no more than its status."""
    try:
        return {"detail": answer.reason_phrase, **answer.json()}
    except (ValueError, TypeError):
        return {"detail": answer.reason_phrase}


def _next_step(answer: httpx.Response) -> str:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return "the kept key is not of this stack any more: create the account again"
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return "see what is behind: waystation status, waystation ledger. Then repeat the command"
    return ""


def _pause_seconds(given: Mapping[str, Any]) -> float:
    return float(min(max(given["problem"].get("retry_after", 1), 0.1), 10.0))


def _retry_after_seconds(answer: httpx.Response) -> float:
    try:
        return min(max(float(answer.headers["retry-after"]), 0.1), 10.0)
    except (KeyError, ValueError):
        return 1.0
