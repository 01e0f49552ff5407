"""Finding persons for an operator's duties: by token, or by address or phone through the blind indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.contracts.vault_duties import FindAnswer, FindCall, PersonItem
from vault import store
from vault.domain import KINDS, UNKNOWN_RECIPIENT, Refusal
from vault.errors import item_problem
from vault.formats import mail_address, normal_addresses, phone_number
from vault.scope import scoped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.contracts.vault_duties import BasisItem, RestrictItem, WithdrawItem
    from common.contracts.vault_people import RectifyItem
    from common.postgres.pool import Pool
    from vault.domain import Access
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys

_NAMELESS = Refusal(422, "invalid-field", "token: name a person by token, address or phone", {"field": "token"})


def refuse_person_item(item: PersonItem) -> Refusal | None:
    """Return why an item names nobody, whoever the vault knows, or None."""
    if item.kind is not None and item.kind not in KINDS:
        return Refusal(422, "invalid-field", f"kind: one of {', '.join(KINDS)}", {"field": "kind"})
    if item.token is not None:
        return None
    formed: str | Refusal = _NAMELESS
    if item.address is not None:
        formed = mail_address(item.address)
    elif item.phone is not None:
        formed = phone_number(item.phone)
    return formed if isinstance(formed, Refusal) else None


def refuse_person_of(item: BasisItem | WithdrawItem | RestrictItem | RectifyItem) -> Refusal | None:
    """The same, for the person that an item is about."""
    return refuse_person_item(item.person)


async def find(call: FindCall, access: Access, pool: Pool, keyring: Keyring) -> list[FindAnswer]:
    """Answer each item with the tokens of the persons that have this address or phone."""
    wanted = await find_tokens(call.items, pool, keyring)
    answered = sum(map(bool, wanted))
    async with scoped(pool, {item.account_id for item in call.items}) as connection:
        await store.log_access(connection, access, answered=answered, touched=sorted({t for f in wanted for t in f}))
    unknown = FindAnswer(problem=item_problem(UNKNOWN_RECIPIENT))
    return [FindAnswer(tokens=found) if found else unknown for found in wanted]


async def find_tokens(
    items: Sequence[PersonItem], pool: Pool, keyring: Keyring, *, kinds: Sequence[str] = KINDS
) -> list[list[str]]:
    """Return the tokens that each item names: its own, or those of the persons with its address or phone.

    An item that names no kind is about all of `kinds`: somebody may be a recipient and a user.
    """
    found: list[list[str]] = [[item.token] if item.token is not None else [] for item in items]
    by_address = [number for number, item in enumerate(items) if item.token is None]
    if not by_address:
        return found
    account_ids = {items[number].account_id for number in by_address}
    async with scoped(pool, account_ids) as connection:
        accounts = await keyring.load(connection, account_ids)
        wanted = [(number, index) for number in by_address for index in _indexes(items[number], accounts, kinds)]
        if wanted:
            for place, token in await store.find_tokens(connection, [index for _, index in wanted]):
                found[wanted[place][0]].append(token)
    return found


def _indexes(
    item: PersonItem, accounts: dict[str, AccountKeys], kinds: Sequence[str]
) -> list[tuple[str, bytes, bytes | None]]:
    """Return account, index and phone index to look for, for each kind that the item is about."""
    account = accounts.get(item.account_id)
    if account is None:
        return []
    asked = kinds if item.kind is None else [item.kind]
    if item.address is not None and not isinstance(mail_address(item.address), Refusal):
        forms = normal_addresses(item.address)
        indexes = [account.index_of(kind, "address", form) for kind in asked for form in forms]
        return [(item.account_id, index, None) for index in indexes]
    if item.phone is not None and isinstance(number := phone_number(item.phone), str):
        indexes = [account.index_of(kind, "phone", number) for kind in asked]
        return [(item.account_id, index, index) for index in indexes]
    return []
