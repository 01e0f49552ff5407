"""The conservation equation, as `waystation ledger` reads it."""

from hypothesis import given
from hypothesis import strategies as st

from waystation.ledger import (
    Balance,
    Ledger,
    as_document,
    balances,
    count_before_routing,
    differences,
    equation,
    ledger_table,
    read_balances,
    read_ledger,
    total,
    unexplained,
)

STATES = (
    "planned",
    "handing",
    "held",
    "in_doubt",
    "handed_over",
    "delivered",
    "refused",
    "withheld",
    "expired",
)


def door(*accounts, following=None):
    """Ingestion's answer; an account is (id, admitted, waiting), `following` the id that the next page begins after."""
    named = [
        {"id": key, "name": f"name of {key}", "admitted": admitted, "waiting": list(waiting)}
        for key, admitted, waiting in accounts
    ]
    return {"accounts": named, "next": following, "outbox_records": 0, "outbox_seconds": 0.0}


def road(accounts, present=(), unauthorised=0):
    return {"accounts": accounts, "present": list(present), "unauthorised": unauthorised}


def read(door, road):
    """The balances of one page."""
    return balances(door["accounts"], road["accounts"], count_before_routing(door, road))


class FakeServices:
    """Answers with one prepared pair of readings after the other; the last one stays."""

    def __init__(self, *readings, unauthorised=0):
        self.readings = list(readings)
        self.unauthorised = unauthorised
        self.asked = []

    def get(self, service, path, params=None):
        self.asked.append((service, path))
        if path == "/v1/unauthorised":
            items = [{}] * self.unauthorised
            return {"count": self.unauthorised, "by_reason": {}, "items": items[: params["limit"]]}
        return self.readings[0][0]

    def post(self, service, path, body=None):
        self.asked.append((service, path))
        reading = self.readings[0]
        if len(self.readings) > 1:
            self.readings.pop(0)
        return reading[1]


def naps():
    slept = []
    return slept, slept.append


messages = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((*STATES, "kafka")), st.booleans()), max_size=60)


@given(messages)
def test_wherever_messages_are_each_is_counted_once(sent):
    waiting = {account: [] for account in "abc"}
    counts = {}
    present = []
    for number, (account, state, receipted) in enumerate(sent):
        message_id = f"m-{number}"
        if state == "kafka" or not receipted:
            waiting[account].append(message_id)
        if state != "kafka":
            present.append(message_id)
            counts.setdefault(account, {}).setdefault(state, 0)
            counts[account][state] += 1
    admitted = {account: sum(one[0] == account for one in sent) for account in "abc"}
    parts = read(door(*((key, admitted[key], waiting[key]) for key in "abc")), road(counts, present))
    assert [part.difference for part in parts] == [0, 0, 0]
    assert total(parts).admitted == len(sent)
    assert total(parts).difference == 0
    assert total(parts).in_flight == sum(state in {"planned", "handing", "kafka"} for _, state, _ in sent)
    assert total(parts).handed_over == sum(state in {"handed_over", "delivered"} for _, state, _ in sent)


@given(messages.filter(bool), st.data())
def test_a_message_whose_rows_are_gone_is_missing(sent, data):
    lost = data.draw(st.integers(0, len(sent) - 1))
    kept = [one for number, one in enumerate(sent) if number != lost and one[1] != "kafka"]
    counts = {}
    for account, state, _ in kept:
        counts.setdefault(account, {}).setdefault(state, 0)
        counts[account][state] += 1
    admitted = [(key, sum(one[0] == key for one in kept) + (sent[lost][0] == key), ()) for key in "abc"]
    wrong = unexplained(read(door(*admitted), road(counts)), {})
    assert [(part.account_id, part.difference) for part in wrong] == [(sent[lost][0], -1)]


@given(st.integers(0, 50), st.integers(0, 50))
def test_only_what_may_have_been_seen_twice_explains_a_surplus(surplus, since):
    part = Balance("a", "A", admitted=10, handed_over=10 + surplus)
    assert bool(unexplained([part], {"a": since})) == (surplus > since)


def test_nothing_explains_a_lack():
    part = Balance("a", "A", admitted=10, handed_over=9)
    assert unexplained([part], {"a": 100}) == [part]


def test_an_account_that_only_routing_knows_is_too_much():
    (part,) = read(door(), road({"ghost": {"handed_over": 2}}))
    assert (part.account_id, part.admitted, part.difference) == ("ghost", 0, 2)


def test_a_balance_at_the_first_reading_needs_no_second():
    slept, sleep = naps()
    services = FakeServices((door(("a", 2, ["m1"])), road({"a": {"handed_over": 1}})))
    read = read_ledger(services, sleep=sleep)
    assert read.balanced
    assert read.total.in_flight == 1
    assert slept == []
    assert services.asked[:2] == [("ingestion", "/v1/ledger"), ("routing", "/v1/ledger")]


def test_a_difference_that_goes_away_is_none():
    slept, sleep = naps()
    short = (door(("a", 2, ())), road({"a": {"handed_over": 1}}))
    whole = (door(("a", 2, ())), road({"a": {"handed_over": 2}}))
    assert read_ledger(FakeServices(short, short, whole), sleep=sleep).balanced
    assert slept == [1.0, 1.0]


def test_a_difference_that_lasts_is_told_with_account_and_size():
    slept, sleep = naps()
    services = FakeServices((door(("a", 3, ()), ("b", 1, ())), road({"a": {"held": 1}, "b": {"refused": 1}})))
    read = read_ledger(services, sleep=sleep)
    assert [part.account_id for part in read.wrong] == ["a"]
    assert len(slept) == 5
    (line,) = differences(read)
    assert "name of a (a): 2 messages are missing" in line
    assert as_document(read)["balanced"] is False
    assert equation(read.total).startswith("4 admitted is not 0 handed over + 1 refused")
    assert ledger_table(read).row_count == 3


class PagedServices:
    """A door with messages 1 to `waiting` before the road, of which routing plans some after each question."""

    def __init__(self, waiting, page, planned_a_question=0, lost=0):
        self.waiting, self.page, self.planned_a_question, self.lost = waiting, page, planned_a_question, lost
        self.planned = 0

    def get(self, service, path, params=None):
        if path == "/v1/unauthorised":
            return {"count": 0, "by_reason": {}, "items": []}
        begin = int(params.get("after") or 0) + 1
        listed = [str(number) for number in range(begin, self.waiting + 1)][: self.page]
        following = listed[-1] if len(listed) == self.page else None
        return door(("a", self.waiting + self.lost, listed), following=following)

    def post(self, service, path, body=None):
        assert len(body["waiting"]) <= self.page
        present = [one for one in body["waiting"] if int(one) <= self.planned]
        answer = road({"a": {"planned": self.planned}}, present)
        self.planned = min(self.waiting, self.planned + self.planned_a_question)
        return answer


@given(st.integers(0, 40), st.integers(1, 10))
def test_what_waits_is_counted_to_its_end_however_many_pages_it_takes(waiting, page):
    parts, wrong = read_balances(PagedServices(waiting, page))
    assert (total(parts).in_flight, total(parts).difference, wrong) == (waiting, 0, [])


@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 20))
def test_what_routing_plans_between_two_pages_is_no_surplus(waiting, page, planned_a_question):
    parts, wrong = read_balances(PagedServices(waiting, page, planned_a_question))
    assert (total(parts).difference >= 0, wrong) == (True, [])


def test_a_loss_is_seen_however_many_messages_wait():
    (part,) = read_balances(PagedServices(25, 10, lost=1))[1]
    assert part.difference == -1


def test_what_came_without_authority_is_counted_by_each_owner():
    read = read_ledger(FakeServices((door(), road({})), unauthorised=4))
    assert read.unauthorised == {"moderation": 4, "routing": 4, "vault": 4, "ingestion": 4}


def test_one_account_needs_no_line_for_all():
    part = Balance("a", "A", admitted=1, handed_over=1)
    assert ledger_table(Ledger([part], total([part]), [], {})).row_count == 1
