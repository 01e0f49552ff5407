from __future__ import annotations

import json

import asyncpg
import pytest

from common.contracts.vault import ITEMS_MAX, SealAnswer, SealAnswers, SealCall
from common.contracts.vault_duties import (
    BasisCall,
    DoneAnswers,
    FindAnswer,
    FindAnswers,
    FindCall,
    SuppressCall,
)
from common.contracts.vault_people import AccountCall, AccountEnd
from common.http.problems import Problem
from vault.batches import Batch
from vault.domain import Access
from vault.finding import refuse_person_item, refuse_person_of

ACCESS = Access("ingestion", "seal", "intake", None, 2)


class Desk:
    """Answers each item with its message id as a token, and keeps which calls came."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[list[str]] = []
        self.error = error

    async def seal(self, call, access, pool, keyring):
        self.calls.append([item.message_id for item in call.items])
        if self.error is not None and any(set("\x00\x1f") & set(item.message_id) for item in call.items):
            raise self.error
        return [SealAnswer(token=item.message_id) for item in call.items]


class Log:
    """A pool that takes rows of the access log only."""

    def __init__(self) -> None:
        self.rows: list[tuple[object, ...]] = []

    async def execute(self, sql, *values):
        assert "INTO access_log" in sql
        self.rows.append(values)


def sealing(desk):
    return Batch(SealCall, SealAnswers, desk.seal)


def body(*items, **members):
    whole = [{"account_id": "a", "message_id": f"m{number}", **item} for number, item in enumerate(items)]
    return json.dumps({"purpose": "intake", "items": whole, **members}).encode()


def told(answers):
    return [one.token or one.problem["type"].removeprefix("urn:waystation:problem:") for one in answers]


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"shoe_size": 43}, "unknown-field", "shoe_size"),
        ({"canary@example.org": 1}, "unknown-field", "item"),
        ({"fields": {"name": ["canary"]}}, "invalid-field", "fields"),
        ({"fields": {"name": "canary" * 1000}}, "invalid-field", "fields"),
        ({"address": "canary" * 1000}, "invalid-field", "address"),
        ({"message_key": "canary=="}, "invalid-field", "message_key"),
        ({"message_id": ""}, "invalid-field", "message_id"),
        ({"account_id": None}, "invalid-field", "account_id"),
    ],
)
async def test_an_item_that_does_not_fit_is_refused_alone(change, kind, field):
    desk = Desk()
    read = sealing(desk).read(body({}, change, {}))
    assert read.items == 3
    answers = await sealing(desk).answer(read, ACCESS, Log(), None)
    assert told(answers) == ["m0", kind, "m2"]
    assert (answers[1].problem["field"], answers[1].problem["status"]) == (field, 422)
    assert "canary" not in str(answers[1])


async def test_an_item_that_is_no_object_is_refused_alone():
    desk = Desk()
    read = sealing(desk).read(
        b'{"purpose": "intake", "items": ["canary", {"account_id": "a", "message_id": "m"}, null]}'
    )
    assert told(await sealing(desk).answer(read, ACCESS, Log(), None)) == ["invalid-field", "m", "invalid-field"]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (body({"shoe_size": 43}), "items.0.shoe_size"),
        (body({"shoe_size": 43}, {}, hat_size=6), "hat_size"),
        (body({"shoe_size": 43}, {}, purpose=5), "purpose"),
        (body({"shoe_size": 43}, *[{}] * ITEMS_MAX), "items"),
        (b'{"purpose": "intake", "items": {"a": 1}}', "items"),
        (b'{"purpose": "intake"}', "items"),
    ],
    ids=["no-item-fits", "call", "purpose", "too-many", "no-list", "missing"],
)
def test_a_call_that_does_not_fit_is_refused_as_a_whole(content, field):
    with pytest.raises(Problem) as refused:
        sealing(Desk()).read(content)
    assert (refused.value.status, refused.value.field) == (422, field)


@pytest.mark.parametrize("text", ["a\x00b", "a\x1fb"])
@pytest.mark.parametrize("error", [asyncpg.DataError("canary"), Problem(422, "invalid-field", "a separator")])
async def test_an_item_that_cannot_be_stored_is_refused_alone(text, error):
    desk = Desk(error)
    read = sealing(desk).read(body({}, {"message_id": text}, {"shoe_size": 43}, {}))
    answers = await sealing(desk).answer(read, ACCESS, Log(), None)
    assert told(answers) == ["m0", "invalid-field", "unknown-field", "m3"]
    assert desk.calls == [["m0", text, "m3"], ["m0", "m3"]]


async def test_a_call_of_which_nothing_can_be_stored_is_refused_as_a_whole():
    read = sealing(Desk()).read(body({"message_id": "\x00"}))
    with pytest.raises(asyncpg.DataError):
        await sealing(Desk(asyncpg.DataError("no"))).answer(read, ACCESS, Log(), None)


def finding(item):
    return json.dumps({"purpose": "data-protection", "items": [{"account_id": "a", **one} for one in item]}).encode()


async def test_malformed_names_of_persons_are_refused_before_anybody_is_looked_for():
    asked: list[object] = []

    async def run(call, access, pool, keyring):
        asked.extend(item.token for item in call.items)
        return [FindAnswer(tokens=[item.token]) for item in call.items]

    batch = Batch(FindCall, FindAnswers, run, refuse_person_item)
    items = [{"address": "canary"}, {"token": "rt_a"}, {"phone": "030 1"}, {}, {"token": "rt_b", "kind": "canary"}]
    answers = await batch.answer(batch.read(finding(items)), ACCESS, Log(), None)
    assert asked == ["rt_a"]
    assert [one.problem and one.problem["field"] for one in answers] == ["address", None, "phone", "token", "kind"]
    assert "canary" not in str(answers)


async def test_a_call_of_which_nobody_is_named_is_logged():
    async def run(call, access, pool, keyring):
        raise AssertionError

    batch = Batch(FindCall, FindAnswers, run, refuse_person_item)
    log = Log()
    answers = await batch.answer(batch.read(finding([{"address": "canary"}])), ACCESS, log, None)
    assert answers[0].problem["type"].endswith("invalid-address")
    assert len(log.rows) == 1


async def test_the_person_that_a_basis_is_of_is_looked_at_as_well():
    async def run(call, access, pool, keyring):
        raise AssertionError

    batch = Batch(BasisCall, DoneAnswers, run, refuse_person_of)
    item = {"person": {"account_id": "a", "phone": "1"}, "purpose": "news", "kind": "contract", "given_at": "now"}
    content = json.dumps({"purpose": "legal-basis", "items": [item]}).encode()
    answers = await batch.answer(batch.read(content), ACCESS, Log(), None)
    assert answers[0].problem["type"].endswith("invalid-phone")


def test_a_word_that_is_not_in_its_list_is_not_repeated():
    batch = Batch(SuppressCall, DoneAnswers, Desk().seal)
    with pytest.raises(Problem) as refused:
        batch.read(b'{"purpose": "legal-basis", "items": [{"account_id": "a", "tool": "canary"}]}')
    assert refused.value.field == "items.0.tool"
    assert "canary" not in refused.value.detail


def test_a_call_without_items_counts_as_one():
    batch = Batch(AccountCall, AccountEnd, Desk().seal)
    assert batch.read(b'{"purpose": "data-protection", "account_id": "a"}').items == 1
    with pytest.raises(Problem):
        batch.read(b'{"purpose": "data-protection", "account_id": 5}')
