"""How commands name a person of an account."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from waystation.errors import CommandError


class Kind(StrEnum):
    """As what the vault knows a person."""

    RECIPIENT = "recipient"
    USER = "user"
    ADMINISTRATOR = "administrator"
    COMPLAINANT = "complainant"


AccountOption = Annotated[str, typer.Option("--account", help="The account's id.")]
TokenOption = Annotated[str | None, typer.Option("--token", help="The person's token.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="The person's e-mail address.")]
PhoneOption = Annotated[str | None, typer.Option("--phone", help="The person's phone number.")]
KindOption = Annotated[
    Kind | None, typer.Option("--as", help="Only as what the person is known; without it, as whatever it is.")
]


def person(
    account: str, token: str | None, address: str | None, phone: str | None, kind: Kind | None = None
) -> dict[str, Any]:
    """Return how the vault is asked for a person; raise CommandError when nothing names one."""
    given = {"token": token, "address": address, "phone": phone}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise CommandError("nobody is named, or more than once", "give one of --token, --address, --phone")
    if kind is not None and token is not None:
        raise CommandError("--as beside --token", "a token names one person: leave --as out")
    return {"account_id": account, **named, **({} if kind is None else {"kind": kind.value})}
