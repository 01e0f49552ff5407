"""Retention (Art. 5(1)(e) GDPR): rules as rows, a dry run that says what is due and why, a run that erases it.

A person is due when it was not used for longer than its kind is kept, or when all of its recorded legal bases ended
long enough ago and it was not used since. A restricted person is never due: somebody may need the data (Art. 18).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.contracts.vault_people import DuePersons, RetentionCall, RetentionRun, RuleAnswer, RulesCall
from vault import store
from vault.domain import KINDS, Refusal
from vault.duties import rows
from vault.errors import item_problem
from vault.scope import EVERY_ACCOUNT, scoped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.contracts.vault_people import RuleItem
    from common.postgres.pool import Connection, Pool
    from vault.domain import Access
    from vault.erasing import Eraser
    from vault.keyring import Keyring

REASON = "retention"
EVERYBODY = "*"
PERSONS_AT_ONCE = 1000
_NO_KIND = Refusal(422, "invalid-field", f"kind: one of {', '.join(KINDS)}", {"field": "kind"})
_STAYS = Refusal(422, "invalid-field", "account_id: the rule of all accounts may be changed, not removed")


async def set_rules(call: RulesCall, access: Access, pool: Pool, keyring: Keyring) -> list[RuleAnswer]:  # noqa: ARG001  every operation is called so
    """Set or remove rules; answer with what holds now for each account and kind."""
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        answers = [await _set_rule(connection, item, access.caller) for item in call.items]
        await store.log_access(connection, access, answered=sum(one.problem is None for one in answers))
    return answers


async def _set_rule(connection: Connection, item: RuleItem, caller: str) -> RuleAnswer:
    if item.kind not in KINDS:
        return RuleAnswer(problem=item_problem(_NO_KIND))
    if item.remove and item.account_id == EVERYBODY:
        return RuleAnswer(problem=item_problem(_STAYS))
    if item.remove:
        await rows.remove_rule(connection, item.account_id, item.kind)
    else:
        days = (item.unused_days, item.basis_ended_days)
        await rows.set_rule(connection, item.account_id, item.kind, days, caller)
    rules = await rows.rules_for(connection, [item.account_id])
    holds = rules.get((item.account_id, item.kind)) or rules[EVERYBODY, item.kind]
    return RuleAnswer(item.account_id, item.kind, *holds)


class Retention:
    """The work behind `POST /v1/retention-runs`."""

    def __init__(self, eraser: Eraser) -> None:
        self._eraser = eraser

    async def run(self, call: RetentionCall, access: Access, pool: Pool, keyring: Keyring) -> RetentionRun:  # noqa: ARG002  every operation is called so
        """Say what is due; unless it is a dry run, erase up to the limit, a thousand persons a transaction."""
        scope = EVERY_ACCOUNT if call.account_id is None else (call.account_id,)
        async with scoped(pool, scope) as connection:
            due = [_due(row) for row in await rows.due_counts(connection, call.account_id)]
            if call.dry_run:
                await store.log_access(connection, access, answered=1)
        persons = sum(one.persons - one.kept_as_restricted for one in due)
        if call.dry_run:
            return RetentionRun(dry_run=True, due=due, erased=0, remaining=persons)
        erased = await self._erase(call, access, pool, scope)
        return RetentionRun(dry_run=False, due=due, erased=erased, remaining=max(persons - erased, 0))

    async def _erase(self, call: RetentionCall, access: Access, pool: Pool, scope: Sequence[str]) -> int:
        erased, after = 0, ""
        while erased < call.limit:
            async with scoped(pool, scope) as connection:
                wanted = min(PERSONS_AT_ONCE, call.limit - erased)
                persons = await rows.lock_due(connection, call.account_id, after, wanted)
                await self._eraser.erase_locked(connection, persons, REASON, access.caller)
                await store.log_access(connection, access, answered=1, touched=sorted(persons))
            erased += len(persons)
            if len(persons) < wanted:
                break
            after = max(persons)
        return erased


def _due(row: Mapping[str, Any]) -> DuePersons:
    names = ("account_id", "kind", "rule", "days", "persons", "kept")
    return DuePersons(*(row[name] for name in names))
