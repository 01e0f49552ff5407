"""From an admitted message to a signed verdict: verify, open, screen, sign, store, publish what the rows say.

The order guards three rules of the road's model: `insertOnce` (the first stored verdict of a message stands),
`readBack` (published is what the rows say, never an own result that lost) and `commitLast` (offsets follow the return
of the handler, so a crash anywhere repeats the same bytes).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
import orjson

from common.contracts.vault import OpenCall, OpenItem
from common.events.envelope import record_of
from common.events.intake import SentMessage, VerifiedInstruction
from common.events.screening import VerdictReached
from common.http.problems import TYPE_PREFIX
from common.http.vault import VaultRefusedError
from common.ids import claimed_id
from common.security.sealing import SealError, unseal
from common.security.signing import SignatureError, canonical
from common.times import now, rfc3339
from moderation.domain import ENGINE, erased_decision, in_ten_thousandths, scores_in_ten_thousandths
from moderation.errors import RefusedRecordError, ScreeningUnavailableError
from moderation.examination import Case
from moderation.mail import read_mail
from moderation.opinions import Submitted, joined
from moderation.rejudging.store import Carried, insert_signals
from moderation.review.cases import Clocks
from moderation.review.opening import case_of_hold, severities_of
from moderation.review.store import insert_cases
from moderation.store import KeptVerdict, NewVerdict, Unauthorised, find_verdicts, insert_unauthorised, insert_verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from common.contracts.vault import OpenAnswer
    from common.kafka.consumer import Received
    from common.kafka.records import Record
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Signer, Statement, TrustedKeys
    from common.telemetry.measuring import Counts
    from moderation.domain import Decision
    from moderation.opinions import Opinions
    from moderation.policy.reading import Policy
    from moderation.screening import Screener, Screening
    from moderation.watching import Watch

YIELD_MESSAGES = 64
YIELD_BYTES = 64 * 1024
CAPPED_MESSAGES = 25
"""How many messages of a policy with caps know as little as the first of them of what a cap has left."""
SLOW_MODELS_SECONDS_MAX = 0.5
"""How long the messages of one batch wait for slower models; what comes after that is judged without them."""
_PROBLEM_CHARACTERS_MAX = 100
_ERASED = "erased"
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Opener(Protocol):
    """The vault, as far as screening needs it."""

    async def open(self, call: OpenCall, /) -> Sequence[OpenAnswer]:
        """Return the message keys, an answer per item, in order."""


class RecordPublisher(Protocol):
    """Kafka, as far as screening needs it."""

    async def publish(self, records: Sequence[Record], /) -> None:
        """Write all records, or raise."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A record with a verified instruction."""

    received: Received[SentMessage]
    verified: VerifiedInstruction

    @property
    def message_id(self) -> str:
        return self.verified.instruction.message_id


@dataclass(frozen=True, slots=True)
class _Opened:
    """A message with its content; None when the recipient was erased and nobody can open it."""

    judged: _Judged
    content: bytes | None


async def on_message_admitted(
    batch: Sequence[Received[SentMessage]],
    *,
    pool: Pool,
    vault: Opener,
    publisher: RecordPublisher,
    signer: Signer,
    instruction_keys: TrustedKeys,
    screener: Screener,
    clock: Callable[[], datetime] = now,
    counted: Counts | None = None,
    watch: Watch | None = None,
    clocks: Clocks | None = None,
    opinions: Opinions | None = None,
) -> None:
    """Screen each genuine message once and publish its one verdict; forged records are counted, never opened."""
    screened_at, policy = clock(), screener.policy
    genuine, refused = _verify(batch, instruction_keys)
    async with pool.acquire() as connection:
        verdicts = await find_verdicts(connection, {judged.message_id for judged in genuine}) if genuine else {}
        fresh = {judged.message_id: judged for judged in reversed(genuine) if judged.message_id not in verdicts}
        opened, reasons = await _open(list(fresh.values()), vault)
        if opened:
            if watch is not None:
                await watch.begin(connection, policy, screened_at)
            judging = _Judging(screener, policy, screened_at, watch, opinions)
            await judging.judge(opened)
            if judging.carried:
                await insert_signals(connection, judging.carried, screened_at)
            verdicts |= await _keep(connection, opened, judging.statements, signer, screened_at)
            if watch is not None:
                await watch.end(connection)
            _count(judging.statements, counted)
        await _open_cases(connection, genuine, verdicts, policy, clocks)
        records, without_verdict = _outcomes(genuine, verdicts, reasons)
        refused += without_verdict
        if refused:
            await insert_unauthorised(connection, refused, screened_at)
    await publisher.publish(records)


def _count(statements: Sequence[Statement], counted: Counts | None) -> None:
    if counted is not None:
        for action, count in Counter(statement["action"] for statement in statements).items():
            counted.add(count, action)


def _verify(batch: Sequence[Received[SentMessage]], keys: TrustedKeys) -> tuple[list[_Judged], list[Unauthorised]]:
    genuine: list[_Judged] = []
    refused: list[Unauthorised] = []
    checked = VerifiedInstruction.verify_all([received.event for received in batch], keys)
    for received, verified in zip(batch, checked, strict=True):
        if isinstance(verified, SignatureError):
            refused.append(_unauthorised(received, str(verified)))
        elif _CANONICAL_UUID.fullmatch(verified.instruction.message_id) is None:
            reason = "instruction: the message id is not a UUID in its canonical form"
            refused.append(_unauthorised(received, reason))
        else:
            genuine.append(_Judged(received, verified))
    return genuine, refused


async def _open(fresh: Sequence[_Judged], vault: Opener) -> tuple[list[_Opened], dict[str, str]]:
    """Return what could be opened and, by message id, why the rest is not what was instructed."""
    opened: list[_Opened] = []
    reasons: dict[str, str] = {}
    askable: list[tuple[_Judged, OpenItem]] = []
    for judged in fresh:
        try:
            askable.append((judged, _open_item(judged.verified)))
        except RefusedRecordError as error:
            reasons[judged.message_id] = str(error)
    answers = await _ask([item for _, item in askable], vault)
    for (judged, _), answer in zip(askable, answers, strict=True):
        try:
            opened.append(_Opened(judged, _content(judged.verified, answer)))
        except RefusedRecordError as error:
            reasons[judged.message_id] = str(error)
    return opened, reasons


async def content_of(messages: Sequence[VerifiedInstruction], vault: Opener) -> dict[str, bytes | str]:
    """Open messages again, as screening does; return by id the content, or why there is none."""
    answers: dict[str, bytes | str] = {}
    askable: list[tuple[VerifiedInstruction, OpenItem]] = []
    for verified in messages:
        try:
            askable.append((verified, _open_item(verified)))
        except RefusedRecordError:
            answers[verified.instruction.message_id] = "refused"
    for (verified, _), answer in zip(askable, await _ask([item for _, item in askable], vault), strict=True):
        try:
            content = _content(verified, answer)
        except RefusedRecordError:
            answers[verified.instruction.message_id] = "refused"
        else:
            answers[verified.instruction.message_id] = "erased" if content is None else content
    return answers


def _open_item(verified: VerifiedInstruction) -> OpenItem:
    instruction = verified.instruction
    item = {
        "account_id": instruction.account_id,
        "message_id": instruction.message_id,
        "token": instruction.recipient_token,
        "capsule": verified.sealed.capsule,
    }
    try:
        return msgspec.convert(item, OpenItem, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].strip("`") or "a field"
        raise RefusedRecordError(f"instruction: {field} is outside its bounds") from None


async def _ask(items: list[OpenItem], vault: Opener) -> Sequence[OpenAnswer]:
    if not items:
        return ()
    try:
        return await vault.open(OpenCall(purpose="screening", items=items))
    except VaultRefusedError as error:
        # Waiting is right: the messages are good, the deployment is not.
        raise ScreeningUnavailableError(str(error)) from error


def _content(verified: VerifiedInstruction, answer: OpenAnswer) -> bytes | None:
    """Return the content that was instructed; None when it was erased."""
    if answer.problem is not None or answer.message_key is None:
        kind = str((answer.problem or {}).get("type", "")).removeprefix(TYPE_PREFIX)[:_PROBLEM_CHARACTERS_MAX]
        if kind == _ERASED:
            return None
        raise RefusedRecordError(f"vault: {kind or 'no key'}")
    instruction = verified.instruction
    try:
        content = unseal(answer.message_key, instruction.message_id, "content", verified.sealed.content)
    except SealError as error:
        raise RefusedRecordError(f"content: {error}") from None
    if sha256(content).hexdigest() != instruction.content_digest:
        raise RefusedRecordError("content: its SHA-256 is not the one that was instructed")
    return content


class _Begun(NamedTuple):
    """Messages that are screened between two turns of the loop; those that can be read have a case."""

    slice_: Sequence[_Opened]
    cases: Sequence[Case]
    screening: Screening
    slow_models: asyncio.Task[float] | None


@dataclass(slots=True)
class _Judging:
    """Judges the messages of a batch, and notes what they carry.

    The loop turns in between, so that heartbeats go on. While slower models read texts of some messages, in a thread,
    the next ones are looked at.
    """

    screener: Screener
    policy: Policy
    screened_at: datetime
    watch: Watch | None
    opinions: Opinions | None
    statements: list[Statement] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    slow_seconds: float = 0.0

    async def judge(self, opened: Sequence[_Opened]) -> None:
        waiting: _Begun | None = None
        has_caps = self.watch is not None and self.watch.has_caps
        for slice_ in _slices(opened, CAPPED_MESSAGES if has_caps else YIELD_MESSAGES):
            if waiting is not None and has_caps:
                await self._end(waiting)
                waiting = None
            cases, screening = await self._begin(slice_)
            if waiting is not None:
                await self._end(waiting)
            waiting = _Begun(slice_, cases, screening, self._ask_slow_models(screening))
            await asyncio.sleep(0)
        if waiting is not None:
            await self._end(waiting)

    async def _begin(self, slice_: Sequence[_Opened]) -> tuple[Sequence[Case], Screening]:
        readable = [item for item in slice_ if item.content is not None]
        cases = _cases(readable, self.screened_at, self.watch)
        if self.opinions is not None and self.opinions.asked:
            cases = await _with_opinions(readable, cases, self.opinions)
        return cases, self.screener.begin(cases, self.policy)

    def _ask_slow_models(self, screening: Screening) -> asyncio.Task[float] | None:
        if not screening.takes_long:
            return None
        if self.slow_seconds < SLOW_MODELS_SECONDS_MAX:
            return asyncio.create_task(asyncio.to_thread(_ask_models, screening))
        screening.ask_models(hurried=True)
        return None

    async def _end(self, begun: _Begun) -> None:
        if begun.slow_models is not None:
            self.slow_seconds += await begun.slow_models
        decisions = begun.screening.decisions()
        if self.watch is not None:
            accounts = [
                item.judged.verified.instruction.account_id for item in begun.slice_ if item.content is not None
            ]
            self.watch.judged(self.policy, begun.cases, decisions)
            await self.watch.compare(self.policy, accounts, begun.cases, decisions, begun.screening.said)
        moment, model, reached = rfc3339(self.screened_at), self.screener.model, iter(decisions)
        for item in begun.slice_:
            decision = erased_decision() if item.content is None else next(reached)
            self.statements.append(_statement(item.judged.verified, decision, self.policy.name, model, moment))
            if decision.carried[1] and decision.action != "block":
                instruction = item.judged.verified.instruction
                self.carried.append(Carried(instruction.message_id, instruction.recipient_token, *decision.carried))


def _ask_models(screening: Screening) -> float:
    """Let slower models finish; return the seconds."""
    began = time.monotonic()
    screening.ask_models()
    return time.monotonic() - began


async def _with_opinions(readable: Sequence[_Opened], cases: Sequence[Case], opinions: Opinions) -> list[Case]:
    """Add what scanners say; who does not answer in time is named in `degraded`."""
    asked = [
        Submitted(
            item.content or b"",
            tuple(file.content for file in case.parts.attachments),
            is_mail=item.judged.verified.instruction.tool == "email",
        )
        for item, case in zip(readable, cases, strict=True)
    ]
    told = await opinions.of(asked)
    return [case._replace(context=joined(case.context, one)) for case, one in zip(cases, told, strict=True)]


def _cases(readable: Sequence[_Opened], moment: datetime, watch: Watch | None) -> list[Case]:
    instructions = [item.judged.verified.instruction for item in readable]
    mails = [read_mail(item.content or b"") for item in readable]
    if watch is None:
        return [Case(parts, of.tool) for of, parts in zip(instructions, mails, strict=True)]
    return [
        Case(parts, of.tool, watch.context(of, parts, moment)) for of, parts in zip(instructions, mails, strict=True)
    ]


def _slices(opened: Sequence[_Opened], messages_max: int) -> Iterator[list[_Opened]]:
    """Yield what is screened between two turns of the loop."""
    slice_: list[_Opened] = []
    size = 0
    for item in opened:
        slice_.append(item)
        size += len(item.content or b"")
        if len(slice_) >= messages_max or size > YIELD_BYTES:
            yield slice_
            slice_, size = [], 0
    if slice_:
        yield slice_


def _statement(
    verified: VerifiedInstruction, decision: Decision, policy: str, model: str | None, screened_at: str
) -> Statement:
    """Return the statement of a verdict, keys in canonical order so that its JSON is the same before and after storing.

    The fields are those of `common.events.screening.Verdict`.
    """
    return {
        "action": decision.action,
        "clauses": list(decision.clauses),
        "content_digest": verified.instruction.content_digest,
        "degraded": list(decision.degraded),
        "engine": ENGINE,
        "evidence": [
            {"digest": found.digest, "end": found.end, "part": found.part, "rule": found.rule, "start": found.start}
            for found in decision.evidence
        ],
        "features": in_ten_thousandths(decision.features),
        "heads": list(decision.heads),
        "instruction_digest": verified.digest,
        "message_id": verified.instruction.message_id,
        "model": model,
        "policy": policy,
        "rules": list(decision.rules),
        "scores": scores_in_ten_thousandths(decision.scores),
        "screened_at": screened_at,
        "tiers": list(decision.tiers),
        "tool": verified.instruction.tool,
    }


async def _keep(
    connection: Connection,
    opened: Sequence[_Opened],
    statements: Sequence[Statement],
    signer: Signer,
    screened_at: datetime,
) -> dict[str, KeptVerdict]:
    """Store what is new and return what the rows say (rules insertOnce, readBack)."""
    signed = signer.sign_json([canonical(statement) for statement in statements])
    new = [
        NewVerdict(item.judged.verified.instruction.account_id, statement, verdict, _place(item.judged))
        for item, statement, verdict in zip(opened, statements, signed, strict=True)
    ]
    own = {verdict.message_id: verdict.kept for verdict in new}
    stored = await insert_verdicts(connection, new, screened_at)
    kept = {message_id: own[message_id] for message_id in stored}
    if lost := own.keys() - stored:
        # A second statement: the first one's snapshot cannot see what a concurrent copy just committed.
        kept |= await find_verdicts(connection, lost)
    return kept


def _place(judged: _Judged) -> tuple[int, int]:
    return judged.received.record.partition, judged.received.record.offset


async def _open_cases(
    connection: Connection,
    genuine: Sequence[_Judged],
    verdicts: Mapping[str, KeptVerdict],
    policy: Policy,
    clocks: Clocks | None,
) -> None:
    """Open a case for each held message; one that comes again has its case already."""
    held = [
        (judged.verified, verdict)
        for judged in genuine
        if (verdict := verdicts.get(judged.message_id)) is not None
        and verdict.action == "hold"
        and verdict.instruction_digest == judged.verified.digest
    ]
    if held:
        severities = severities_of(policy)
        found = [
            case_of_hold(one, orjson.loads(kept.signed.statement), severities, clocks or Clocks()) for one, kept in held
        ]
        await insert_cases(connection, [case for case in found if case is not None])


def _outcomes(
    genuine: Sequence[_Judged], verdicts: dict[str, KeptVerdict], reasons: dict[str, str]
) -> tuple[list[Record], list[Unauthorised]]:
    """Return for each record its verdict to publish, or why it has none."""
    records: list[Record] = []
    refused: list[Unauthorised] = []
    for judged in genuine:
        verdict = verdicts.get(judged.message_id)
        if verdict is None:
            refused.append(_refusal(judged, reasons[judged.message_id]))
        elif verdict.instruction_digest == judged.verified.digest:
            records.append(_record(judged, verdict))
        else:
            refused.append(_refusal(judged, "instruction: another one was judged under this message id"))
    return records, refused


def _record(judged: _Judged, verdict: KeptVerdict) -> Record:
    record = judged.received.record
    return record_of(
        VerdictReached,
        event_id=VerdictReached.id_for(judged.message_id),
        key=judged.verified.instruction.recipient_token,
        time=verdict.screened_at,
        body=VerdictReached.body(verdict.signed, record.value),
        traceparent=judged.received.traceparent,
    )


def _refusal(judged: _Judged, reason: str) -> Unauthorised:
    return _unauthorised(judged.received, reason, judged.verified.instruction.account_id)


def _unauthorised(received: Received[SentMessage], reason: str, account_id: str | None = None) -> Unauthorised:
    record = received.record
    claims = received.event.instruction.claims() or {}
    event_id = claimed_id(claims.get("message_id"))
    return Unauthorised(record.topic, record.partition, record.offset, event_id, account_id, reason)
