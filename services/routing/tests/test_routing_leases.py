"""Leases in memory: deadlines, renewal by id, epochs."""

from __future__ import annotations

from types import SimpleNamespace

from routing.leases import Leased, Leases


def leased(message_id: str, epoch: int = 1, deadline: float = 10.0) -> Leased:
    instruction = SimpleNamespace(instruction=SimpleNamespace(message_id=message_id, account_id="a"))
    return Leased(instruction, verdict=None, epoch=epoch, deadline=deadline, attempts=0)


def test_rule_deadline_ends_a_margin_before_the_lease_does():
    assert Leases(lease_seconds=12, margin_seconds=3).deadline(asked_at=100.0) == 109.0


def test_rule_renew_ids_extends_what_was_renewed_and_forgets_what_was_not():
    leases = Leases(12, 3)
    kept, lost, calling = leased("kept"), leased("lost"), leased("calling")
    calling.calling = True
    for one in (kept, lost, calling):
        leases.hold(one)
    leases.renewed(leases.epochs(), {"kept"}, asked_at=100.0)
    assert kept.deadline == 109.0
    assert not leases.holds(lost)
    assert leases.holds(calling)
    assert calling.deadline == 10.0


def test_only_leases_that_are_half_used_are_renewed():
    leases = Leases(lease_seconds=12, margin_seconds=3)
    leases.hold(leased("fresh", deadline=leases.deadline(100.0)))
    leases.hold(leased("used", deadline=leases.deadline(94.0)))
    assert leases.ending(now=100.0) == [("used", 1)]


def test_rule_epoch_dropping_an_old_lease_leaves_the_newer_one():
    leases = Leases(12, 3)
    old, new = leased("m", epoch=1), leased("m", epoch=2)
    leases.hold(old)
    asked = leases.epochs()
    leases.hold(new)
    leases.drop(old)
    leases.renewed(asked, set(), asked_at=100.0)
    assert leases.holds(new)
