"""The record of a standing."""

from __future__ import annotations

from datetime import UTC, datetime

from common.events import StandingChanged, decode
from enforcement.domain import Outcome, StandingChange
from enforcement.publishing import standing_record


def test_the_record_of_a_standing_decodes_to_what_was_decided():
    since = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    change = StandingChange("acme", 3, "suspended", Outcome.TIGHTENED, "person", "R5.2", "phishing kit", "c-1", since)
    record = standing_record(change)
    event = decode(StandingChanged, record.value, record.headers)
    assert (record.topic, record.key) == ("enforcement.standings", b"acme")
    assert dict(record.headers)["ce_id"] == b"acme.3"
    assert (event.account_id, event.standing, event.revision, event.clause) == ("acme", "suspended", 3, "R5.2")
    assert (event.reason, event.complaint_id, event.decided_by) == ("phishing kit", "c-1", "person")
    assert event.since == "2026-01-31T09:30:00.000Z"
