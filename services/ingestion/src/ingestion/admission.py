"""The way of a batch through the door: decide, compose, seal, sign, store. Each step once for all of the batch.

Nothing of a batch is kept before the one statement that stores messages and outbox rows together (rule
`oneTransaction`); until then every failure leaves no trace here, and after it every item has been answered for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, Protocol, TypeVar

import orjson

from common.contracts.vault import SealAnswer, SealCall, SealItem
from common.events.envelope import record_of
from common.events.intake import MessageAdmitted, admitted_body, sealed_digest
from common.http.problems import TYPE_PREFIX, Problem, failed
from common.http.vault import VaultRefusedError
from common.ids import new_id
from common.security.sealing import new_message_key, seal
from common.security.signing import canonical
from common.telemetry.measuring import Measures
from common.telemetry.metrics import DOOR_ITEMS
from common.telemetry.tracing import OFF
from common.times import rfc3339
from ingestion import store
from ingestion.domain import (
    Authority,
    Inbox,
    RulesInForce,
    TokenBucket,
    Window,
    check_account,
    check_basis,
    check_rate,
    checked_key,
    feedback_id,
    used_grants,
    validity,
)
from ingestion.errors import SealUnavailableError
from ingestion.mail import final_mail, normal_address, recipient_address
from ingestion.mime import Mailbox
from ingestion.row_seal import HEADER, OwnFields, RowSeal
from ingestion.store import AdmittedRow, Key, NewMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from common.outbox import StoredRecord
    from common.postgres.pool import Pool
    from common.security.signing import SignedJson, Signer, Statement
    from common.telemetry.tracing import Tracer
    from ingestion.mail import Mail
    from ingestion.submission import MessageItem, Parsed

_ITEMS_BETWEEN_YIELDS = 25
_PAUSES_SECONDS = (0.1, 0.4, 1.0, 2.0)
T = TypeVar("T")
P = ParamSpec("P")
log = logging.getLogger(__name__)

Outcome = AdmittedRow | Problem


class Submission(NamedTuple):
    """One item as it came, with the digest of the key it came with and its trace context."""

    key_digest: bytes
    parsed: Parsed
    traceparent: bytes | None = None


class Sealer(Protocol):
    """What the vault does for the door."""

    async def seal(self, call: SealCall, /) -> Sequence[SealAnswer]:
        """Find or create recipients and wrap message keys."""


class Relay(Protocol):
    """Who publishes what was stored."""

    def committed(self, records: Iterable[StoredRecord], /) -> None:
        """Take over records whose rows were just committed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one account and one mail may take."""

    content_bytes_max: int
    messages_per_second_max: float
    messages_burst_max: int


class _Candidate(NamedTuple):
    """An item that passed every check that needs no content."""

    position: int
    item: MessageItem
    authority: Authority
    inbox: Inbox
    grants: tuple[str, ...]
    window: Window
    address: str
    fingerprint: bytes
    key: Key | None
    traceparent: bytes | None


class _Composed(NamedTuple):
    candidate: _Candidate
    message_id: str
    message_key: bytes
    content_digest: str
    content_bytes: int
    envelope: bytes
    content: bytes


class _Sealed(NamedTuple):
    composed: _Composed
    token: str
    capsule: bytes


class _Follower(NamedTuple):
    """An item with the idempotency key of another item of the same batch."""

    position: int
    leader: _Candidate
    fingerprint: bytes


class _View(NamedTuple):
    """What a batch is decided by: all of one moment, and the idempotency keys that the batch itself has used."""

    authorities: Mapping[bytes, Authority]
    known: Mapping[Key, AdmittedRow]
    leaders: dict[Key, _Candidate]
    now: datetime

    def opened(self, submission: Submission) -> Authority:
        """Return what stands behind the key of a submission, or raise the Problem with the key."""
        return checked_key(self.authorities.get(submission.key_digest), self.now)


class Admission:
    """Admits or refuses batches of items; its `admit` is the work of the coalescer."""

    def __init__(
        self,
        *,
        pool: Pool,
        sealer: Sealer,
        signer: Signer,
        relay: Relay,
        rules: RulesInForce,
        limits: Limits,
        row_seal: RowSeal,
        now: Callable[[], datetime],
        tracer: Tracer = OFF,
        measures: Measures | None = None,
    ) -> None:
        self._pool = pool
        self._sealer = sealer
        self._signer = signer
        self._relay = relay
        self._rules = rules
        self._limits = limits
        self._row_seal = row_seal
        self._now = now
        self._tracer = tracer
        self._items = (measures or Measures()).counts(DOOR_ITEMS)
        self._buckets: dict[str, TokenBucket] = {}

    async def admit(self, submissions: Sequence[Submission]) -> Sequence[Outcome]:
        """Return the outcome of each item, in order.

        Raises:
            RetryableError and its like: something outside is away. Nothing was kept, unless it was the database and
                went away for longer than it is asked again; an idempotency key is what makes asking again safe.
        """
        now = self._now()
        authorities = await store.authorities(self._pool, {each.key_digest for each in submissions}, self._rules)
        keys = [_key_of(authorities.get(each.key_digest), each.parsed) for each in submissions]
        known = await store.known_messages(self._pool, [key for key in keys if key is not None])
        view = _View(authorities, known, {}, now)
        outcomes: dict[int, Outcome] = {}
        candidates: list[_Candidate] = []
        followers: list[_Follower] = []
        async for some in _slices(list(enumerate(zip(submissions, keys, strict=True)))):
            for position, (submission, key) in some:
                found = _of_one_item(self._decide, position, submission, key, view)
                if isinstance(found, _Candidate):
                    candidates.append(found)
                    if found.key is not None:
                        view.leaders[found.key] = found
                elif isinstance(found, _Follower):
                    followers.append(found)
                else:
                    outcomes[position] = found
        if candidates:
            await self._admit_candidates(candidates, outcomes, now)
        for follower in followers:
            outcomes[follower.position] = _follow(follower, outcomes[follower.leader.position])
        for kind, count in Counter(_kind(outcome) for outcome in outcomes.values()).items():
            self._items.add(count, kind)
        return [outcomes[position] for position in range(len(submissions))]

    def _decide(
        self, position: int, submission: Submission, key: Key | None, view: _View
    ) -> _Candidate | _Follower | Outcome:
        """Make the checks that need no content, in the order of the contract; a Problem is raised or returned."""
        authority, item = view.opened(submission), submission.parsed
        if isinstance(item, Problem):
            return item
        fingerprint = item.fingerprint()
        if key is not None and key in view.known:
            return _answer_again(view.known[key], fingerprint)
        if key is not None and key in view.leaders:
            return _Follower(position, view.leaders[key], fingerprint)
        grants = used_grants(authority, item.tool, view.now)
        check_account(authority, self._rules)
        check_rate(self._bucket(authority.account_id).take(time.monotonic()))
        inbox = _inbox(authority, item)
        address = recipient_address(item.recipient.address)
        basis = item.legal_basis
        check_basis(vouched_for=basis is not None and bool(basis.reference or basis.attested))
        window = validity(item.not_before, item.not_after, view.now)
        return _Candidate(
            position, item, authority, inbox, grants, window, address, fingerprint, key, submission.traceparent
        )

    async def _admit_candidates(
        self, candidates: Sequence[_Candidate], outcomes: dict[int, Outcome], now: datetime
    ) -> None:
        composed: list[_Composed] = []
        async for some in _slices(candidates):
            composed += self._compose(some, outcomes, now)
        if not composed:
            return
        sealed: list[_Sealed] = []
        with self._tracer.carry(each.candidate.traceparent for each in composed):
            answers = await self._seal(composed)
        for each, answer in zip(composed, answers, strict=True):
            if answer.token is None or answer.capsule is None:
                outcomes[each.candidate.position] = _vault_refusal(answer)
                continue
            sealed.append(_Sealed(each, answer.token, answer.capsule))
        if sealed:
            outcomes.update(await self._store(await self._sign(sealed, now)))

    def _compose(
        self, candidates: Sequence[_Candidate], outcomes: dict[int, Outcome], now: datetime
    ) -> list[_Composed]:
        """Write the mails of some candidates, then seal them; those that cannot be written have their outcome."""
        written: list[tuple[_Candidate, str, Mail]] = []
        for candidate in candidates:
            message_id = new_id()
            mail = _of_one_item(self._mail, candidate, message_id, now)
            if isinstance(mail, Problem):
                outcomes[candidate.position] = mail
            else:
                written.append((candidate, message_id, mail))
        return [_sealed(*each) for each in written]

    def _mail(self, candidate: _Candidate, message_id: str, now: datetime) -> Mail:
        item = candidate.item
        return final_mail(
            item.content,
            inbox=candidate.inbox,
            recipient=Mailbox(candidate.address, item.recipient.name),
            message_id=message_id,
            date=now,
            content_bytes_max=self._limits.content_bytes_max,
            feedback_id=feedback_id(item.purpose, candidate.authority.account_id, candidate.inbox.tool),
        )

    async def _seal(self, composed: Sequence[_Composed]) -> Sequence[SealAnswer]:
        items = [
            SealItem(
                account_id=each.candidate.authority.account_id,
                message_id=each.message_id,
                address=each.candidate.address,
                fields={"name": name} if (name := each.candidate.item.recipient.name) else {},
                message_key=each.message_key,
            )
            for each in composed
        ]
        try:
            return await self._sealer.seal(SealCall(purpose="intake", items=items))
        except VaultRefusedError as error:
            raise SealUnavailableError(str(error)) from error

    async def _sign(self, sealed: Sequence[_Sealed], now: datetime) -> list[tuple[int, NewMessage]]:
        statements: list[bytes] = []
        admitted_at = rfc3339(now)
        async for some in _slices(sealed):
            statements += map(canonical, [self._statement(each, admitted_at) for each in some])
        messages: list[tuple[int, NewMessage]] = []
        async for signed in _slices(list(zip(sealed, self._signer.sign_json(statements), strict=True))):
            own_fields = [self._own_fields(each.composed) for each, _ in signed]
            messages += [
                (each.composed.candidate.position, _new_message(each, instruction, own, now))
                for (each, instruction), own in zip(signed, own_fields, strict=True)
            ]
        return messages

    def _statement(self, sealed: _Sealed, admitted_at: str) -> Statement:
        """Return what `Instruction.statement` returns for the same facts, without the model's cost."""
        each = sealed.composed
        candidate = each.candidate
        item, basis, window = candidate.item, candidate.item.legal_basis, candidate.window
        assert basis is not None
        return {
            "message_id": each.message_id,
            "account_id": candidate.authority.account_id,
            "user_id": candidate.authority.user_id,
            "grants": list(candidate.grants),
            "rules_version": self._rules.version,
            "tool": candidate.inbox.tool,
            "direction": "outbound",
            "inbox_id": candidate.inbox.id,
            "recipient_token": sealed.token,
            "purpose": item.purpose,
            "legal_basis": f"{basis.kind}:{basis.reference}" if basis.reference else basis.kind,
            "content_digest": each.content_digest,
            "content_bytes": each.content_bytes,
            "sealed_digest": sealed_digest(sealed.capsule, each.envelope, each.content),
            "not_before": rfc3339(window.not_before),
            "not_after": rfc3339(window.not_after),
            "duplicates_allowed": item.duplicates_allowed,
            "admitted_at": admitted_at,
        }

    def _own_fields(self, each: _Composed) -> bytes:
        candidate = each.candidate
        key = None if candidate.key is None else candidate.key[1]
        return self._row_seal.seal(each.message_id, OwnFields(key, candidate.fingerprint, candidate.item.reference))

    async def _store(self, messages: Sequence[tuple[int, NewMessage]]) -> dict[int, Outcome]:
        stored = await self._stored([message for _, message in messages])
        outcomes: dict[int, Outcome] = {
            position: message.row for position, message in messages if message.row.id in stored
        }
        lost = {
            (message.account_id, message.idempotency_key): (position, message)
            for position, message in messages
            if message.row.id not in stored and message.idempotency_key is not None
        }
        winners = await store.known_messages(self._pool, list(lost))
        for key, (position, message) in lost.items():
            outcomes[position] = _answer_again(winners[key], message.row.fingerprint)
        return outcomes

    async def _stored(self, messages: Sequence[NewMessage]) -> Collection[str]:
        """Store messages; return the ids of those that are stored.

        Where the connection is lost before the answer, the statement may have been carried out, or still be: it is
        looked for, and repeated with the same ids, for some seconds.
        """
        for pause in (*_PAUSES_SECONDS, None):
            try:
                stored = await store.admit(self._pool, messages)
                self._relay.committed(stored.values())
                return stored.keys()
            except store.UNTOLD:
                if pause is None:
                    raise
            await asyncio.sleep(pause)
            with contextlib.suppress(*store.UNTOLD):
                if stored_ids := await store.stored_ids(self._pool, [message.row.id for message in messages]):
                    return stored_ids
        raise AssertionError("the last try returns or raises")

    def _bucket(self, account_id: str) -> TokenBucket:
        bucket = self._buckets.get(account_id)
        if bucket is None:
            limits = self._limits
            bucket = TokenBucket.full(limits.messages_per_second_max, limits.messages_burst_max, time.monotonic())
            self._buckets[account_id] = bucket
        return bucket


def _sealed(candidate: _Candidate, message_id: str, mail: Mail) -> _Composed:
    key = new_message_key()
    envelope = orjson.dumps({"mail_from": candidate.inbox.address, "smtputf8": mail.smtputf8})
    return _Composed(
        candidate,
        message_id,
        key,
        sha256(mail.content).hexdigest(),
        len(mail.content),
        seal(key, message_id, "envelope", envelope),
        seal(key, message_id, "content", mail.content),
    )


async def _slices(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """Yield some items after the others, and let other requests have the loop in between, after milliseconds."""
    for start in range(0, len(items), _ITEMS_BETWEEN_YIELDS):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + _ITEMS_BETWEEN_YIELDS]


def _of_one_item(step: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T | Problem:
    """Take a step that concerns one item: what goes wrong in it is that item's answer, not the whole batch's."""
    try:
        return step(*arguments, **named)
    except Problem as refusal:
        return refusal
    except Exception:
        log.exception("an item could not be admitted")
        return failed()


def _kind(outcome: Outcome) -> str:
    return outcome.kind if isinstance(outcome, Problem) else "admitted"


def _key_of(authority: Authority | None, item: Parsed) -> Key | None:
    if authority is None or isinstance(item, Problem) or item.idempotency_key is None:
        return None
    return authority.account_id, sha256(item.idempotency_key.encode()).digest()


def _answer_again(row: AdmittedRow, fingerprint: bytes) -> Outcome:
    if row.fingerprint == fingerprint:
        return row
    return Problem(
        422,
        "idempotency-key-reused",
        "a message with other content was admitted under this idempotency key: use a new key for new content",
        field="idempotency_key",
    )


def _follow(follower: _Follower, first: Outcome) -> Outcome:
    if isinstance(first, AdmittedRow):
        return _answer_again(first, follower.fingerprint)
    if follower.leader.fingerprint == follower.fingerprint:
        return first
    return Problem(
        409,
        "idempotency-key-in-use",
        "another item of the same time used this idempotency key and was refused: send this one again",
        field="idempotency_key",
    )


def _inbox(authority: Authority, item: MessageItem) -> Inbox:
    inbox = authority.inboxes.get(item.inbox) or authority.inboxes.get(normal_address(item.inbox))
    if inbox is None or inbox.tool != item.tool:
        raise Problem(
            422, "unknown-inbox", f"the account has no such inbox for {item.tool}: name one of its own", field="inbox"
        )
    return inbox


def _vault_refusal(answer: SealAnswer) -> Problem:
    problem = answer.problem or {}
    kind = str(problem.get("type", TYPE_PREFIX + "not-sealed")).removeprefix(TYPE_PREFIX)
    detail = str(problem.get("detail", "the recipient's data could not be sealed"))
    return Problem(int(problem.get("status", 422)), kind, detail, field="recipient", limit=problem.get("limit"))


def _new_message(sealed: _Sealed, instruction: SignedJson, own_fields: bytes, now: datetime) -> NewMessage:
    each, candidate = sealed.composed, sealed.composed.candidate
    row = AdmittedRow(
        each.message_id, candidate.fingerprint, each.content_digest, sealed.token, instruction.whole.decode()
    )
    record = record_of(
        MessageAdmitted,
        event_id=each.message_id,
        key=sealed.token,
        time=rfc3339(now),
        body=admitted_body(instruction, sealed.capsule, each.envelope, each.content),
        traceparent=candidate.traceparent,
    )
    return NewMessage(
        row=row,
        account_id=candidate.authority.account_id,
        idempotency_key=None if candidate.key is None else candidate.key[1],
        tool=candidate.item.tool,
        inbox_id=candidate.inbox.id,
        instruction_digest=instruction.digest,
        reference=candidate.item.reference,
        admitted_at=now,
        record=record._replace(headers=(*record.headers, (HEADER, own_fields))),
    )
