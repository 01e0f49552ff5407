from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import msgspec
import pytest

from common.contracts.vault_people import (
    Export,
    ExportCall,
    ExportedBasis,
    ExportedDisclosure,
    ExportedErasure,
    ExportedPerson,
    ObjectItem,
    RectifyItem,
    RetentionCall,
)
from vault.domain import EEA, Refusal
from vault.duties.account_end import state_of
from vault.duties.export import erased_from, sum_up
from vault.duties.objections import refuse_objection
from vault.duties.pages import markdown_cell, page, readable_moment
from vault.duties.records import Deployment, describe_measures
from vault.formats import read_fields

DEPLOYMENT = Deployment("Haus", "privacy@haus.example", "dpo@haus.example", "file root.key", 24.0, production=False)


def disclosure(
    provider="smtp.default", *, at="2026-11-22T09:30:00.000Z", fields=("address",), acknowledged=False, **rest
):
    values = {
        "entry": "1.1",
        "country": "DE",
        "why": "hand-over",
        "message_id": "m",
        "legal_basis": "contract",
        "attempt": 1,
        "hand_over": "acknowledged" if acknowledged else "may-have-happened",
        "acknowledged_at": at if acknowledged else None,
        **rest,
    }
    return ExportedDisclosure(at=at, provider=provider, fields=list(fields), **values)


def person(**changes):
    values = {
        "account_id": "a",
        "token": "rt_a",
        "state": "kept",
        "kind": "recipient",
        "fields": {},
        "created_on": "2026-01-01",
        "used_on": "2026-02-01",
        "purposes": [],
        "bases": [],
        "opt_outs": [],
        "recipients": [],
        "disclosures": [],
        "handlings": [],
        "notices": [],
        "retention": None,
        "erasure": None,
        "unreadable": [],
        "more": None,
        **changes,
    }
    return ExportedPerson(**values)


def shown(**changes):
    return page("person.html", export=Export("2026-11-22T09:30:00.000Z", [person(**changes)]), deployment=DEPLOYMENT)


def test_recipients_are_summed_up_by_provider_with_the_fields_of_all_times():
    first, last = "2026-01-01T00:00:00.000Z", "2026-03-01T00:00:00.000Z"
    some = [
        disclosure(at=last, acknowledged=True),
        disclosure("sms", fields=["phone"]),
        disclosure(at=first, fields=["name", "address"]),
    ]
    sms, mail = sum_up(some)
    assert (mail.provider, mail.fields, mail.disclosures, mail.acknowledged) == (
        "smtp.default",
        ["address", "name"],
        2,
        1,
    )
    assert (mail.first, mail.last) == (first, last)
    assert (sms.provider, sms.acknowledged) == ("sms", 0)


@pytest.mark.parametrize(
    ("basis_ended", "basis_days", "day"),
    [
        (None, 10, date(2026, 4, 12)),
        (datetime(2026, 1, 5, tzinfo=UTC), None, date(2026, 4, 12)),
        (datetime(2026, 1, 5, tzinfo=UTC), 10, date(2026, 1, 16)),
        (datetime(2025, 12, 1, tzinfo=UTC), 10, date(2026, 4, 12)),
        (datetime(2026, 1, 5, tzinfo=UTC), 1000, date(2026, 4, 12)),
    ],
    ids=["no basis ended", "no rule for bases", "basis ended", "used since", "the nearer of two"],
)
def test_the_day_of_erasure_is_the_nearer_of_both_rules(basis_ended, basis_days, day):
    assert erased_from(date(2026, 1, 1), basis_ended, 100, basis_days) == day


def test_an_objection_is_taken_until_the_day_before_the_approval_holds():
    item = ObjectItem("a", "smtp.new", "why")
    processor = {"approved_from": date(2026, 12, 1)}
    assert refuse_objection(item, processor, date(2026, 11, 30)) is None
    late = refuse_objection(item, processor, date(2026, 12, 1))
    assert late is not None
    assert (late.status, late.kind) == (409, "notice-period-over")
    assert refuse_objection(msgspec.structs.replace(item, late=True), processor, date(2027, 1, 1)) is None
    assert refuse_objection(msgspec.structs.replace(item, lift=True), processor, date(2027, 1, 1)) is None
    nobody = refuse_objection(item, None, date(2026, 1, 1))
    assert nobody is not None
    assert nobody.kind == "no-such-processor"


def test_fields_to_rectify_take_their_forms_and_null_removes_one():
    read = read_fields({"address": "a@example.org", "phone": "+49 30 123456", "name": None})
    assert read == {"address": "a@example.org", "phone": "+4930123456", "name": None}
    for fields, kind in (({"shoe_size": "44"}, "unknown-field"), ({"address": "canary"}, "invalid-address")):
        refused = read_fields(fields)
        assert isinstance(refused, Refusal)
        assert refused.kind == kind
        assert "canary" not in refused.detail


@pytest.mark.parametrize(
    ("moments", "state"),
    [((None, None, None), "asked"), ((1, None, None), "exported"), ((1, 1, None), "ending"), ((None, 1, 1), "ended")],
)
def test_an_accounts_end_has_four_states(moments, state):
    assert state_of(dict(zip(("exported_at", "confirmed_at", "ended_at"), moments, strict=True))) == state


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (RetentionCall, {"purpose": "p", "limit": 20_001}),
        (RetentionCall, {"purpose": "p", "dry_run": "no"}),
        (ExportCall, {"purpose": "p", "person": {"account_id": "a"}, "before": "1"}),
        (ExportCall, {"purpose": "p", "person": {"account_id": "a"}, "email": "x"}),
        (RectifyItem, {"person": {"account_id": "a"}, "fields": {}}),
        (RectifyItem, {"person": {"account_id": "a"}, "fields": {"name": "x" * 4001}}),
    ],
)
def test_calls_are_closed_and_bounded(kind, body):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, kind)


def test_a_retention_run_is_a_dry_one_unless_it_is_told_otherwise():
    assert msgspec.convert({"purpose": "p"}, RetentionCall).dry_run is True


def test_the_page_escapes_every_value():
    bad = "<script>x</script>"
    basis = ExportedBasis(bad, bad, True, True, None, bad, bad, "2026-01-01T00:00:00.000Z", None, None, bad)
    text = shown(
        fields={"name": bad},
        bases=[basis],
        disclosures=[disclosure(bad, legal_basis=bad, message_id=bad)],
        recipients=sum_up([disclosure(bad, why=bad)]),
        unreadable=[bad],
    )
    assert bad not in text
    assert text.count("&lt;script&gt;") >= 9


def test_the_page_of_an_erased_person_says_so_and_what_remains_of_it():
    text = shown(
        state="erased",
        kind=None,
        created_on=None,
        erasure=ExportedErasure("2026-11-22T09:30:00.000Z", "request-of-person", None),
        disclosures=[disclosure()],
        recipients=sum_up([disclosure()]),
    )
    assert "Erased person" in text
    assert "None is stored any more." in text
    assert "with the end of the present epoch" in text
    assert "may have happened" in text
    assert "Opt-outs outlive an erasure" in text


def test_nothing_of_a_page_comes_from_elsewhere():
    text = shown()
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert not any(sign in text for sign in ("src=", "href=", "@import", "url(", "<script"))


def test_a_cell_of_markdown_stays_one_cell():
    assert markdown_cell("a|b\n<i> [x](y)") == "a\\|b \\<i\\> \\[x\\](y)"
    assert readable_moment(None) == "-"
    assert readable_moment("2026-11-22T09:30:00.000Z") == "2026-11-22 09:30:00 UTC"


def measures(**changes):
    began = datetime.now(UTC) - timedelta(hours=changes.pop("hours", 1))
    found = {
        "walled_tables": 9,
        "unwalled_tables": 0,
        "is_above_walls": False,
        "epoch": 7,
        "epoch_began_at": began,
        "log_size": 3,
        "log_signed_at": began,
        "erased": 2,
        **changes,
    }
    return [one.holds for one in describe_measures(DEPLOYMENT, found)]


def test_a_measure_that_does_not_hold_is_told():
    assert measures() == [True] * 5
    assert measures(hours=30)[1] is False
    assert measures(unwalled_tables=1)[2] is False
    assert measures(is_above_walls=True)[2] is False
    assert measures(log_signed_at=None)[3] is False
    assert len(EEA) == 30
