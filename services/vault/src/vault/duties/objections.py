"""Accounts' objections to processors (Art. 28(2)), and notices to providers (Art. 19 GDPR)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.contracts.vault_people import NoticeAnswer, NoticesCall, ObjectAnswer, ObjectCall
from common.times import now, rfc3339
from vault import store
from vault.domain import Refusal
from vault.duties import rows
from vault.errors import item_problem
from vault.scope import EVERY_ACCOUNT, hold_disclosures, scoped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from common.contracts.vault_people import ObjectItem
    from common.postgres.pool import Pool
    from vault.domain import Access
    from vault.keyring import Keyring

_UNKNOWN_PROCESSOR = Refusal(404, "no-such-processor", "the register has no processor of this name")
_NO_SUCH_NOTICE = Refusal(404, "no-such-notice", "there is no notice with this id")


async def record_objections(call: ObjectCall, access: Access, pool: Pool, keyring: Keyring) -> list[ObjectAnswer]:  # noqa: ARG001  every operation is called so
    """Keep or lift objections; from the answer on the processor gets nothing of the account's persons."""
    today = now().date()
    answers: list[ObjectAnswer] = []
    account_ids = {item.account_id for item in call.items}
    async with scoped(pool, account_ids) as connection:
        await hold_disclosures(connection, account_ids)
        register = {row["name"]: row for row in await rows.register(connection)}
        for item in call.items:
            processor = register.get(item.processor)
            if refusal := refuse_objection(item, processor, today):
                answers.append(ObjectAnswer(problem=item_problem(refusal)))
                continue
            assert processor is not None
            reason = None if item.lift else item.reason
            await store.object_to_processor(connection, item.account_id, item.processor, reason)
            answers.append(ObjectAnswer(not item.lift, processor["approved_from"].isoformat()))
        await store.log_access(connection, access, answered=sum(one.problem is None for one in answers))
    return answers


def refuse_objection(item: ObjectItem, processor: Mapping[str, Any] | None, today: date) -> Refusal | None:
    """Return why an objection is not taken: nobody of that name, or the notice period is over."""
    if processor is None:
        return _UNKNOWN_PROCESSOR
    if item.lift or item.late or today < processor["approved_from"]:
        return None
    since = processor["approved_from"].isoformat()
    detail = f"the notice period of {item.processor} ended: it is approved since {since}; `late` records an agreement"
    return Refusal(409, "notice-period-over", detail, {"approved_from": since})


async def finish_notices(call: NoticesCall, access: Access, pool: Pool, keyring: Keyring) -> list[NoticeAnswer]:  # noqa: ARG001  every operation is called so
    """Mark notices as done, each once."""
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        done = await rows.finish_notices(connection, {item.id: item.evidence for item in call.items})
        await store.log_access(connection, access, answered=len(done))
    unknown = NoticeAnswer(problem=item_problem(_NO_SUCH_NOTICE))
    return [NoticeAnswer(rfc3339(done[item.id])) if item.id in done else unknown for item in call.items]
