"""Open: from capsule and token back to the message key."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from common.contracts.vault import OpenAnswer, OpenCall, OpenItem
from vault import store
from vault.domain import BAD_CAPSULE, ERASED, INTEGRITY_FAILED, PURPOSES_OF_PEOPLE, UNKNOWN_RECIPIENT, Refusal
from vault.errors import item_problem
from vault.keys.blobs import BlobError
from vault.scope import scoped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.postgres.pool import Pool
    from vault.domain import Access
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys
    from vault.keys.subjects import SubjectKeys
    from vault.store import WrappedKey

log = logging.getLogger(__name__)


async def open_capsules(call: OpenCall, access: Access, pool: Pool, keyring: Keyring) -> list[OpenAnswer]:
    """Answer each item with its message key; the log row is there before.

    Of what people read it names the messages that were asked for, and the persons of those that were opened.
    """
    by_people = access.purpose in PURPOSES_OF_PEOPLE
    async with scoped(pool, {item.account_id for item in call.items}) as connection:
        rows = await store.wrapped_keys(connection, {item.token for item in call.items})
        accounts = await keyring.of(connection, {(row.account_id, row.epoch) for row in rows.values()})
        missing = [item.token for item in call.items if item.token not in rows]
        erased = await store.erased_tokens(connection, missing)
        answers = [_open(item, rows.get(item.token), accounts, erased) for item in call.items]
        answered = sum(answer.problem is None for answer in answers)
        touched = None
        if by_people:
            opened = {item.token for item, answer in zip(call.items, answers, strict=True) if answer.problem is None}
            touched = [*(item.message_id for item in call.items), *sorted(opened)]
        await store.log_access(connection, access, answered=answered, touched=touched)
    return answers


def _open(item: OpenItem, row: WrappedKey | None, accounts: Mapping[str, AccountKeys], erased: set[str]) -> OpenAnswer:
    if row is None or row.account_id != item.account_id:
        return OpenAnswer(problem=item_problem(ERASED if item.token in erased else UNKNOWN_RECIPIENT))
    keys = unlock(accounts.get(row.account_id), row.token, row.epoch, row.wrapped)
    if isinstance(keys, Refusal):
        return OpenAnswer(problem=item_problem(keys))
    try:
        return OpenAnswer(message_key=keys.unwrap_message_key(item.message_id, item.capsule))
    except BlobError:
        return OpenAnswer(problem=item_problem(BAD_CAPSULE))


def unlock(account: AccountKeys | None, token: str, epoch: int, wrapped: bytes) -> SubjectKeys | Refusal:
    """Return a stored person's keys, or why there are none."""
    if account is not None:
        try:
            return account.subject(token, epoch, wrapped)
        except BlobError:
            pass
    report_broken(token, "the data key")
    return INTEGRITY_FAILED


def report_broken(token: str, what: str) -> None:
    """Raise the alarm: stored ciphertext was changed, or moved to another place."""
    log.error("%s of %s does not open: its row was changed or belongs elsewhere", what, token)
