"""Who complains: a person of the vault; here stands the token."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

from common.contracts.vault import SealCall, SealItem
from enforcement.errors import invalid_complainant, not_kept

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.contracts.vault import SealAnswer

ACCOUNT_ID = "complainants"
"""The operator's own account in the vault (ADR 25). Accounts of others have ids that the door makes, never a word."""
PURPOSE = "complaints"


class Complainant(BaseModel):
    """Who complains: kept in the vault, as a person of that kind, and shown to nobody but the operator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: Annotated[str, Field(min_length=1, max_length=254, description="An e-mail address.")]
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    language: (
        Annotated[str, Field(min_length=2, max_length=40, description="A tag such as `de` or `pt-BR`.")] | None
    ) = None


class Sealer(Protocol):
    """What the vault does for complaints."""

    async def seal(self, call: SealCall, /) -> Sequence[SealAnswer]:
        """Find or create persons."""


async def seal_complainant(sealer: Sealer, complaint_id: str, complainant: Complainant) -> str:
    """Hand the person who complains to the vault; return the token.

    Raises:
        Problem: the vault does not take a value, or keeps no complainants any more.
    """
    fields = {"name": complainant.name, "language": complainant.language}
    item = SealItem(
        account_id=ACCOUNT_ID,
        message_id=complaint_id,
        address=complainant.address,
        fields={name: value for name, value in fields.items() if value is not None},
        kind="complainant",
    )
    (answer,) = await sealer.seal(SealCall(purpose=PURPOSE, items=[item]))
    if answer.problem is not None:
        if answer.problem.get("status") == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise invalid_complainant(answer.problem.get("field"))
        raise not_kept()
    assert answer.token is not None
    return answer.token
