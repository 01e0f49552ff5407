"""What the vault tells: a person was erased; a basis ended; the head of the access log."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from common.events.envelope import Event
from common.security.signing import Signed


class ErasureRecorded(Event):
    """A token is nobody's any more. The topic is compacted: it is the erasure ledger that a restore is measured by."""

    TYPE: ClassVar[str] = "vault.erasure.recorded.v1"
    TOPIC: ClassVar[str] = "vault.erasures"
    SOURCE: ClassVar[str] = "waystation/vault"

    recipient_token: str
    account_id: str
    erased_at: str
    reason: str
    asked_by: str
    epoch: int

    @property
    def event_id(self) -> str:
        """The token: a person is erased once."""
        return f"{self.recipient_token}.erased"

    @property
    def key(self) -> str:
        """The recipient token."""
        return self.recipient_token

    @property
    def time(self) -> str:
        """When it was erased."""
        return self.erased_at


class WithdrawalRecorded(Event):
    """Something now stands against disclosures to a person, or does not any more (`in_force` false).

    `basis` is the kind of basis that ended. An opt-out is told of each person who is known by the address, and once of
    the address, whoever is known by it: then `recipient_token` is empty and `opt_out_hash` is its hash (hexadecimal)
    under a key that only the vault has.
    """

    TYPE: ClassVar[str] = "vault.withdrawal.recorded.v1"
    TOPIC: ClassVar[str] = "vault.withdrawals"
    SOURCE: ClassVar[str] = "waystation/vault"

    withdrawal_id: str
    recipient_token: str
    account_id: str
    kind: Literal["basis", "suppression", "restriction"]
    purpose: str | None
    tool: str | None
    in_force: bool
    recorded_at: str
    basis: str | None = None
    opt_out_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    reason: str | None = None

    @property
    def event_id(self) -> str:
        """The withdrawal's id."""
        return self.withdrawal_id

    @property
    def key(self) -> str:
        """The recipient token, or the hash of the address."""
        return self.recipient_token or self.opt_out_hash or self.withdrawal_id

    @property
    def time(self) -> str:
        """When it was recorded."""
        return self.recorded_at


class CheckpointSigned(Event):
    """The head of the access log, signed by the vault: size, root, and the hashes of the leaves since the head before.

    The statement's members are kind, log, size, root (hexadecimal), leaves (32 bytes each, joined, base64url), at.
    """

    TYPE: ClassVar[str] = "vault.checkpoint.signed.v1"
    TOPIC: ClassVar[str] = "vault.checkpoints"
    SOURCE: ClassVar[str] = "waystation/vault"

    checkpoint: Signed

    @property
    def event_id(self) -> str:
        """Log and size: a head of a size is signed once."""
        return f"{self.checkpoint.statement['log']}.{self.checkpoint.statement['size']}"

    @property
    def key(self) -> str:
        """The log's id."""
        return str(self.checkpoint.statement["log"])

    @property
    def time(self) -> str:
        """When it was signed."""
        return str(self.checkpoint.statement["at"])
