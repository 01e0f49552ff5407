from __future__ import annotations

import base64
import json
from typing import get_args

import httpx
import pytest
from typer.testing import CliRunner

from common.contracts.basis import BasisKind
from common.times import now, rfc3339
from waystation.accounts import KeyFile, KnownAccount
from waystation.cli import app
from waystation.door import BATCH_BYTES, Door, Outgoing, batches
from waystation.errors import CommandError
from waystation.send import (
    Basis,
    account_for,
    as_document,
    in_words,
    own_mails,
    sent_table,
)
from waystation.stack import Stack

FACTS = {"purpose": "correspondence", "legal_basis": {"kind": "contract", "attested": True}}
SHOP = KnownAccount("Shop", "a-1", "wk_shop", ("hello@shop.example",))
OTHER = KnownAccount("Other", "a-2", "wk_other", ("hello@other.example",))
KNOWN = {"Shop": SHOP, "Other": OTHER}
EML = b"From: Shop <hello@shop.example>\nTo: a@mail.example, b@mail.example\nSubject: x\n\ntext\n"


def outgoing(number=1, size=10):
    item = {"recipient": {"address": f"p{number}@mail.example"}, "content": {"text": "x" * size}, "inbox": "i"}
    return Outgoing.of("here", item)


def admitted(identity="m-1", at=None):
    return {"id": identity, "acceptance": {"statement": {"admitted_at": rfc3339(at or now())}, "proof": {}}}


class FakeDoor:
    """Answers requests from a list; an exception in it is raised."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.slept = []

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def door(self, clock=lambda: 0.0):
        http = httpx.Client(base_url="http://door", transport=httpx.MockTransport(self))
        return Door(http, "wk_shop", sleep=self.slept.append, clock=clock)


def batch_answer(*items):
    return httpx.Response(200, json={"items": list(items)})


PROBLEM = {"detail": "no legal basis is named", "clause": "R4.3", "status": 422}
BUSY = httpx.Response(503, headers={"retry-after": "2"}, json={"detail": "congested"})


def test_the_bases_to_choose_from_are_those_that_a_message_can_rest_on():
    assert [basis.value for basis in Basis] == list(get_args(BasisKind))


def test_each_message_gets_its_own_result():
    fake = FakeDoor(batch_answer({"status": 202, "message": admitted()}, {"status": 422, "problem": PROBLEM}))
    one, two = fake.door().send([outgoing(1), outgoing(2)])
    assert (one.accepted, one.id, one.recipient) == (True, "m-1", "p1@mail.example")
    assert (two.accepted, two.reason) == (False, "no legal basis is named (clause R4.3)")
    assert fake.requests[0].headers["authorization"] == "Bearer wk_shop"


def test_one_message_takes_the_route_that_stays_open_longest():
    fake = FakeDoor(httpx.Response(202, json=admitted()), httpx.Response(422, json=PROBLEM))
    door = fake.door()
    assert door.send([outgoing()])[0].accepted
    assert not door.send([outgoing()])[0].accepted
    assert {request.url.path for request in fake.requests} == {"/v1/messages"}


def test_a_message_that_was_admitted_by_an_earlier_run_is_told_apart():
    early = now().replace(year=2020)
    (sent,) = FakeDoor(httpx.Response(202, json=admitted(at=early))).door().send([outgoing()])
    assert sent.before


def test_a_busy_door_is_asked_again_with_the_same_words():
    fake = FakeDoor(BUSY, BUSY, batch_answer(*[{"status": 202, "message": admitted()}] * 2))
    sent = fake.door().send([outgoing(1), outgoing(2)])
    assert fake.slept == [2.0, 2.0]
    assert len({request.content for request in fake.requests}) == 1
    assert all(each.accepted for each in sent)


def test_a_door_that_stays_busy_is_an_error_that_says_what_to_do():
    moments = iter([0.0, 61.0])
    with pytest.raises(CommandError, match="waystation status"):
        FakeDoor(BUSY).door(clock=lambda: next(moments)).send([outgoing()])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(401, json={"detail": "the API key is not known"}), "create the account again"),
        (httpx.ConnectError("refused"), "waystation status"),
        (httpx.Response(500, text="no json"), "500"),
    ],
)
def test_what_goes_wrong_as_a_whole_says_what_to_do(answer, words):
    with pytest.raises(CommandError, match=words):
        FakeDoor(answer).door().send([outgoing()])


@pytest.mark.parametrize("status", [400, 413])
def test_what_spoils_a_batch_as_a_whole_is_found_and_the_rest_is_accepted(status):
    def answer(request):
        body = json.loads(request.content)
        if b"spoils" in request.content:
            return httpx.Response(status, json={"detail": "no parser takes it", "field": "body"})
        if "items" in body:
            return batch_answer(*[{"status": 202, "message": admitted()}] * len(body["items"]))
        return httpx.Response(202, json=admitted())

    http = httpx.Client(base_url="http://door", transport=httpx.MockTransport(answer))
    spoiling = Outgoing.of("spoiling", {"inbox": "i", "recipient": {"address": "p@mail.example"}, "text": "spoils"})
    sent = Door(http, "wk_shop").send([*map(outgoing, range(40)), spoiling, *map(outgoing, range(30))])
    assert [each.source for each in sent if not each.accepted] == ["spoiling"]
    assert [each.reason for each in sent if not each.accepted] == ["body: no parser takes it"]


def test_a_refusal_by_what_stands_before_the_door_is_told_by_its_status():
    (sent,) = FakeDoor(httpx.Response(413, text="<html>")).door().send([outgoing()])
    assert (sent.accepted, sent.reason) == (False, "Request Entity Too Large")


def test_a_request_is_measured_in_bytes():
    texts = [Outgoing.of("here", {"inbox": "i", "recipient": {"address": "a"}, "t": "语" * 150_000})] * 100
    assert all(sum(len(each.json) for each in batch) <= BATCH_BYTES for batch in batches(texts))


def test_requests_hold_up_to_100_messages_and_24_mib():
    assert [len(batch) for batch in batches(outgoing(n) for n in range(250))] == [100, 100, 50]
    large = [outgoing(n, BATCH_BYTES // 2) for n in range(3)]
    assert [len(batch) for batch in batches(large)] == [1, 1, 1]
    assert list(batches([])) == []


def test_own_mails_go_to_each_recipient_with_their_own_bytes(tmp_path):
    (tmp_path / "a.eml").write_bytes(EML)
    found, refused = own_mails([tmp_path / "a.eml"], FACTS, again=False)
    assert [each.recipient for each in found] == ["a@mail.example", "b@mail.example"]
    assert {base64.b64decode(json.loads(each.json)["content"]["eml"]) for each in found} == {EML}
    assert refused == []


def test_the_same_file_twice_is_one_message_unless_asked_for_again(tmp_path):
    (tmp_path / "a.eml").write_bytes(EML)

    def keys(again):
        return [
            json.loads(each.json)["idempotency_key"] for each in own_mails([tmp_path / "a.eml"], FACTS, again=again)[0]
        ]

    assert keys(again=False) == keys(again=False)
    assert len({*keys(again=False), *keys(again=True), *keys(again=True)}) == 6


def test_a_file_that_is_no_mail_is_told_and_the_others_go_on(tmp_path):
    (tmp_path / "a.eml").write_bytes(EML)
    (tmp_path / "b.eml").write_bytes(b"no mail")
    found, refused = own_mails([tmp_path / "b.eml", tmp_path / "none.eml", tmp_path / "a.eml"], FACTS, again=False)
    assert len(found) == 2
    assert [each.accepted for each in refused] == [False, False]
    assert all(each.reason for each in refused)


def test_the_account_is_found_by_name_by_inbox_or_because_it_is_the_only_one():
    assert account_for(KNOWN, "Other", None) == OTHER
    assert account_for(KNOWN, None, "hello@Other.EXAMPLE") == OTHER
    assert account_for({"Shop": SHOP}, None, None) == SHOP


@pytest.mark.parametrize(
    ("known", "name", "inbox", "words"),
    [
        (KNOWN, "None", None, "accounts create"),
        (KNOWN, None, None, "--account"),
        (KNOWN, None, "x@y.example", "--inbox x@y.example"),
        ({}, None, None, "accounts create"),
    ],
)
def test_without_a_fitting_account_the_next_step_is_named(known, name, inbox, words):
    with pytest.raises(CommandError, match=words):
        account_for(known, name, inbox)


def test_a_message_in_words_goes_out_by_the_first_inbox():
    content = {"subject": "Hi", "text": "there", "html": None}
    sent = in_words(SHOP, None, {"address": "p@mail.example", "name": None}, content, FACTS)
    item = json.loads(sent.json)
    assert item["inbox"] == sent.inbox == "hello@shop.example"
    assert item["content"] == {"subject": "Hi", "text": "there"}
    assert item["recipient"] == {"address": "p@mail.example"}


def test_a_message_without_words_is_not_sent():
    with pytest.raises(CommandError, match="--text"):
        in_words(
            SHOP, None, {"address": "p@x.example", "name": None}, {"subject": "Hi", "text": "", "html": None}, FACTS
        )


def test_a_message_that_is_no_text_is_told():
    content = {"subject": "Hi", "text": "caf\udce9", "html": None}
    with pytest.raises(CommandError, match="UTF-8"):
        in_words(SHOP, None, {"address": "p@mail.example", "name": None}, content, FACTS)


@pytest.fixture
def home_of_shop(tmp_path, monkeypatch):
    """A stack's folder with the key of one account, at a door that accepts everything."""
    stack = Stack.open(tmp_path / "home")
    stack.layout.secrets.mkdir(parents=True)
    KeyFile.of(stack).add(SHOP)
    monkeypatch.setattr(Stack, "url", lambda _, service: f"http://{service}")
    monkeypatch.setattr(Door, "_ask", lambda *_: httpx.Response(202, json=admitted()))
    return stack.layout.home


def test_mails_of_a_foreign_inbox_are_refused_and_the_others_are_sent(home_of_shop, tmp_path):
    own = EML.replace(b", b@mail.example", b"")
    (tmp_path / "own.eml").write_bytes(own)
    (tmp_path / "foreign.eml").write_bytes(own.replace(b"hello@shop", b"hello@elsewhere"))
    files = [str(tmp_path / name) for name in ("foreign.eml", "own.eml")]
    ran = CliRunner().invoke(app, ["send", "--home", str(home_of_shop), "--json", "--eml", *files])
    refused, sent = json.loads(ran.stdout)["items"]
    assert (sent["source"], sent["accepted"], ran.exit_code) == (files[1], True, 1)
    assert (refused["source"], refused["accepted"]) == (files[0], False)
    assert "no account with the inbox hello@elsewhere.example" in refused["reason"]


def test_standard_input_that_is_no_text_is_told(home_of_shop):
    words = ["send", "--home", str(home_of_shop), "--to", "a@mail.example", "--subject", "Hi", "--text", "-"]
    ran = CliRunner().invoke(app, words, input=b"caf\xe9")
    assert isinstance(ran.exception, CommandError)
    assert "UTF-8" in str(ran.exception)


def test_results_are_counted():
    fake = FakeDoor(batch_answer({"status": 202, "message": admitted()}, {"status": 422, "problem": PROBLEM}))
    sent = fake.door().send([outgoing(1), outgoing(2)])
    document = as_document(sent)
    assert (document["accepted"], document["refused"], len(document["items"])) == (1, 1, 2)
    assert sent_table(sent).row_count == 2
