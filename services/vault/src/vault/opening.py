"""Open: from capsule and token back to the message key."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from common.contracts.vault import OpenAnswer, OpenCall, OpenItem
from vault import store
from vault.domain import BAD_CAPSULE, INTEGRITY_FAILED, UNKNOWN_RECIPIENT, Refusal
from vault.errors import item_problem
from vault.keys.blobs import BlobError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.postgres.pool import Connection
    from vault.domain import Access
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys
    from vault.keys.subjects import SubjectKeys
    from vault.store import StoredSubject

log = logging.getLogger(__name__)


async def open_capsules(call: OpenCall, access: Access, connection: Connection, keyring: Keyring) -> list[OpenAnswer]:
    """Answer each item with its message key; the access row is there before the answer."""
    subjects = await store.wrapped_keys(connection, {item.token for item in call.items})
    accounts = await keyring.of_subjects(connection, subjects.values())
    answers = [_open(item, subjects, accounts) for item in call.items]
    answered = sum(answer.problem is None for answer in answers)
    await store.log_access(connection, access, answered=answered)
    return answers


def _open(item: OpenItem, subjects: Mapping[str, StoredSubject], accounts: Mapping[str, AccountKeys]) -> OpenAnswer:
    keys = unlock(subjects.get(item.token), accounts)
    if isinstance(keys, Refusal):
        return OpenAnswer(problem=item_problem(keys))
    try:
        return OpenAnswer(message_key=keys.unwrap_message_key(item.message_id, item.capsule))
    except BlobError:
        return OpenAnswer(problem=item_problem(BAD_CAPSULE))


def unlock(subject: StoredSubject | None, accounts: Mapping[str, AccountKeys]) -> SubjectKeys | Refusal:
    """Return a stored subject's keys, or why there are none."""
    if subject is None:
        return UNKNOWN_RECIPIENT
    account = accounts.get(subject.account_id)
    try:
        if account is not None and account.has(subject.epoch):
            return account.subject(subject.token, subject.epoch, subject.wrapped)
    except BlobError:
        pass
    report_broken(subject.token, "the data key")
    return INTEGRITY_FAILED


def report_broken(token: str, what: str) -> None:
    """Raise the alarm: stored ciphertext was changed, or moved to another place."""
    log.error("%s of %s does not open: its row was changed or belongs elsewhere", what, token)
