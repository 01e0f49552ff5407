"""The door's routes for messages, as a client of one account uses them: batches, patience, idempotency keys."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An item for the door, and where it came from (a file, or the command line)."""

    source: str
    item: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """About what it takes in a request."""
        content = self.item["content"]
        files = content.get("attachments") or ()
        texts = [value for part in (content, *files) if isinstance(part, dict) for value in part.values()]
        return 1000 + sum(len(value) for value in texts if isinstance(value, str))


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
        answer = self._ask("/v1/messages:batch", {"items": [each.item for each in batch]}, deadline)
        if not answer.is_success:
            raise _refused(answer)
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def _single(self, each: Outgoing, deadline: float) -> dict[str, Any]:
        """Ask for one message by the route that stays open longest, and return what a batch would have answered."""
        answer = self._ask("/v1/messages", each.item, deadline)
        if answer.is_success:
            return {"status": answer.status_code, "message": answer.json()}
        if answer.is_server_error or answer.status_code == httpx.codes.UNAUTHORIZED:
            raise _refused(answer)
        return {"status": answer.status_code, "problem": answer.json()}

    def _ask(self, path: str, body: Mapping[str, Any], deadline: float) -> httpx.Response:
        while True:
            try:
                answer = self.http.post(path, json=body, headers={"authorization": f"Bearer {self.api_key}"})
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
        recipient = each.item["recipient"]["address"]
        if given["status"] != httpx.codes.ACCEPTED:
            return Sent(each.source, recipient, accepted=False, reason=_reason(given["problem"]))
        message = given["message"]
        admitted_at = parse_rfc3339(message["acceptance"]["statement"]["admitted_at"])
        before = (self.started - admitted_at).total_seconds() > 1
        return Sent(each.source, recipient, accepted=True, id=message["id"], before=before)


def batches(outgoing: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    """Cut messages into requests of up to 100 and 24 MiB; one that is larger travels alone."""
    batch: list[Outgoing] = []
    size_bytes = 0
    for each in outgoing:
        if batch and (len(batch) == BATCH_ITEMS or size_bytes + each.size_bytes > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(each)
        size_bytes += each.size_bytes
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
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


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
