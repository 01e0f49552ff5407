"""`waystation trace`: one story out of what four services know."""

import pytest

from waystation.errors import CommandError
from waystation.operator import RefusedError
from waystation.trace import Known, ask, headline, moments, trace_table

MESSAGE = "0197a2b4-5c1e-7d34-9b6a-2f1c3d4e5f60"
ADMISSION = {
    "id": MESSAGE,
    "reference": "AF-1",
    "digest": "ab" * 32,
    "state": "handed_over",
    "admitted_at": "2026-11-22T10:00:00.000Z",
    "acceptance": {"statement": {"purpose": "order-confirmation", "legal_basis": "contract"}, "proof": {}},
    "steps": [
        {"sequence": 0, "state": "admitted", "reason": "stored", "occurred_at": "2026-11-22T10:00:00.000Z"},
        {
            "sequence": 1,
            "state": "handed_over",
            "reason": "accepted",
            "attempt": 1,
            "occurred_at": "2026-11-22T10:00:00.300Z",
        },
    ],
}
VERDICT = {
    "action": "allow",
    "clauses": [],
    "policy": "road@sha256:00",
    "screened_at": "2026-11-22T10:00:00.050Z",
    "verdict": {"statement": {"rules": []}, "proof": {}},
}
ATTEMPT = {
    "number": 1,
    "epoch": 1,
    "provider": "smtp.default",
    "result": "accepted",
    "reason": "accepted at final dot: 250 2.0.0",
    "reply_code": 250,
    "begun_at": "2026-11-22T10:00:00.200000Z",
    "settled_at": "2026-11-22T10:00:00.300900Z",
}
DELIVERY = {
    "state": "handed_over",
    "planned_at": "2026-11-22T10:00:00.100000Z",
    "not_after": "2026-11-25T10:00:00Z",
    "attempts": [ATTEMPT],
}
DISCLOSURE = {
    "asked_at": "2026-11-22T10:00:00.150000Z",
    "acknowledged_at": "2026-11-22T10:00:00.300000Z",
    "fields": ["address"],
    "provider": "smtp.default",
    "purpose": "delivery",
    "legal_basis": "contract",
    "attempt": 1,
}


class FakeServices:
    """Knows what it was given; what is None is answered 404, what is an error is raised."""

    def __init__(self, **answers):
        self.answers = {"ingestion": ADMISSION, "vault": {"items": []}, "moderation": None, "routing": None} | answers

    def get(self, service, path, params=None):
        answer = self.answers[service]
        if answer is None:
            raise RefusedError(404, f"{service} refused (404)")
        if isinstance(answer, Exception):
            raise answer
        return answer


def whole():
    services = FakeServices(moderation=VERDICT, routing=DELIVERY, vault={"items": [DISCLOSURE]})
    return ask(services, MESSAGE)


def test_the_story_is_told_in_the_order_of_the_road():
    told = [(step.service, step.what) for step in moments(whole())]
    assert told == [
        ("ingestion", "admitted, instruction signed"),
        ("moderation", "verdict allow, signed"),
        ("routing", "planned"),
        ("vault", "address disclosed to smtp.default"),
        ("routing", "attempt 1 begun"),
        ("routing", "attempt 1: accepted"),
        ("routing", "receipt 1: handed over"),
        ("vault", "provider has acknowledged: spent"),
    ]


def test_a_message_that_only_the_door_knows_has_a_story_too():
    known = ask(FakeServices(), MESSAGE)
    assert known == Known(ADMISSION, None, None, [])
    assert [step.service for step in moments(known)] == ["ingestion", "routing"]


def test_a_block_names_clause_and_rule():
    blocked = {**VERDICT, "action": "block", "clauses": ["R3.e"]}
    blocked["verdict"] = {"statement": {"rules": ["gambling.advertising"]}}
    steps = moments(Known(ADMISSION, blocked, None, []))
    assert steps[1].what == "verdict block, signed"
    assert steps[1].detail == "R3.e: gambling.advertising (policy road)"


def test_an_attempt_without_an_outcome_has_begun_only():
    open_attempt = {**ATTEMPT, "result": "open", "settled_at": None}
    told = [step.what for step in moments(Known(ADMISSION, None, {**DELIVERY, "attempts": [open_attempt]}, []))]
    assert "attempt 1 begun" in told
    assert not any(what.startswith("attempt 1:") for what in told)


def test_an_outage_is_no_missing_document():
    services = FakeServices(moderation=RefusedError(503, "moderation refused (503): away"))
    with pytest.raises(CommandError, match="503"):
        ask(services, MESSAGE)


def test_the_headline_says_where_it_stands():
    assert headline(whole()) == f"{MESSAGE} (AF-1) is handed over; admitted 2026-11-22T10:00:00.000Z"


def test_times_count_from_the_admission_and_from_the_step_before():
    drawn = trace_table(whole(), moments(whole()))
    assert list(drawn.columns[0].cells)[:5] == ["0 ms", "50 ms", "100 ms", "150 ms", "200 ms"]
    assert list(drawn.columns[1].cells)[:3] == ["+0 ms", "+50 ms", "+50 ms"]
