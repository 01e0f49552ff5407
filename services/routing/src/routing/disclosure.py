"""Asking the vault for what a hand-over needs, and opening the content in this process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import orjson

from common.contracts.vault import DiscloseCall, DiscloseItem
from common.http.problems import TYPE_PREFIX
from common.security.sealing import SealError, unseal
from routing.domain import DeliveryState
from routing.providers import Disclosed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.contracts.vault import DiscloseAnswer
    from common.http.vault import VaultClient
    from routing.leases import Leased
    from routing.providers import Provider

# A withdrawal acts within a second, also on what was disclosed before it and waits.
FRESH_SECONDS = 0.5

# Another worker has gone further with the delivery.
_STALE_EPOCH = "stale-epoch"
# The vault holds a signed receipt of the hand-over. A row that still waits is one of a database put back to earlier.
_SPENT = "spent"
# Refusals that are final for the message.
_WITHHELD = frozenset(
    {"erased", "withdrawn", "expired-basis", "suppressed", "restricted", "unknown-recipient", "bad-capsule"}
)


@dataclass(slots=True, eq=False)
class Ready:
    """A leased delivery with what the vault disclosed, and when (monotonic seconds)."""

    leased: Leased
    mail: Disclosed
    disclosed_at: float

    @property
    def is_stale(self) -> bool:
        """True when the vault has to be asked again: a withdrawal since then would not be known."""
        return time.monotonic() - self.disclosed_at > FRESH_SECONDS


@dataclass(frozen=True, slots=True)
class Withheld:
    """A leased delivery that must not be handed over (again, or now): the state it goes to, and why."""

    leased: Leased
    state: DeliveryState
    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A leased delivery that the vault refuses because somebody else has gone further with it."""

    leased: Leased


async def disclose(vault: VaultClient, provider: Provider, leased: Sequence[Leased]) -> list[Ready | Withheld | Lost]:
    """Ask for a batch (rule ledgerFirst: the vault answers after its ledger has the row)."""
    call = DiscloseCall(
        purpose="delivery", provider=provider.name, fields=list(provider.fields), items=[_item(one) for one in leased]
    )
    answers = await vault.disclose(call)
    answered_at = time.monotonic()
    return [_opened(one, answer, answered_at) for one, answer in zip(leased, answers, strict=True)]


def _item(leased: Leased) -> DiscloseItem:
    instruction = leased.instruction.instruction
    return DiscloseItem(
        account_id=instruction.account_id,
        message_id=instruction.message_id,
        token=instruction.recipient_token,
        capsule=leased.instruction.sealed.capsule,
        instruction_digest=leased.instruction.digest,
        legal_basis=instruction.legal_basis,
        epoch=leased.epoch,
        attempt=leased.attempts + 1,
        message_purpose=instruction.purpose,
    )


def _opened(leased: Leased, answer: DiscloseAnswer, answered_at: float) -> Ready | Withheld | Lost:
    if answer.problem is not None:
        return _refused(leased, str(answer.problem.get("type", "")).removeprefix(TYPE_PREFIX))
    assert answer.message_key is not None
    assert answer.fields is not None
    instruction, sealed = leased.instruction.instruction, leased.instruction.sealed
    try:
        envelope = orjson.loads(unseal(answer.message_key, instruction.message_id, "envelope", sealed.envelope))
        content = unseal(answer.message_key, instruction.message_id, "content", sealed.content)
    except SealError:
        return Withheld(leased, DeliveryState.WITHHELD, "the sealed content does not open under its key")
    if sha256(content).hexdigest() != instruction.content_digest:
        return Withheld(leased, DeliveryState.WITHHELD, "the content is not the one that was instructed")
    mail = Disclosed(envelope["mail_from"], answer.fields["address"], content, answer.message_key)
    return Ready(leased, mail, answered_at)


def _refused(leased: Leased, kind: str) -> Withheld | Lost:
    if kind == _STALE_EPOCH:
        return Lost(leased)
    if kind == _SPENT:
        return Withheld(leased, DeliveryState.HANDED_OVER, "vault: spent, it has the receipt of an earlier hand-over")
    if kind in _WITHHELD:
        return Withheld(leased, DeliveryState.WITHHELD, f"vault: {kind}")
    return Withheld(leased, DeliveryState.PLANNED, f"vault: {kind}; tried again later")
