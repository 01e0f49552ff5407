"""The demo's script and its checks: a check that cannot fail would prove nothing."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waystation.demo.acts import COMPLAINED, RESOLVED, TRACED, outcome_rows, shortened
from waystation.demo.checks import (
    LOST_IN_CALL,
    Fate,
    Sent,
    check_bytes,
    check_ends,
    check_equation,
    check_verdicts,
    is_kept,
)
from waystation.demo.messages import VERDICT_LEADS_TO, DemoMessage, load_script, read_script
from waystation.demo.stage import LocalStage
from waystation.errors import CommandError
from waystation.laboratory import RecordedMail, find_fault
from waystation.ledger import Balance, Ledger, total
from waystation.stack import Stack

SCRIPT = load_script()
CLAUSES_SHOWN = {"R3.a", "R3.b", "R3.c", "R3.d", "R3.e", "R3.f", "R3.g", "R5.2", "R5.3"}


def sent(key="k1", **fields):
    message = DemoMessage(key, "morning", "finch", f"{key}@mail.example", "Subject", {}, **fields)
    return Sent(message, f"id-{key}", f"digest-{key}")


def mail(one, answer="250 2.0.0 queued", **changes):
    fields = {
        "time": 0.0,
        "mail_from": "a@shop.example",
        "rcpt_to": one.message.recipient,
        "sha256": one.digest,
        "size_octets": 1,
        "message_id": None,
        "answer": answer,
        "content": None,
    }
    return RecordedMail(**(fields | changes))


def fate(state="handed_over", action="allow", clauses=(), rules=(), *, reason="as planned", results=()):
    return Fate(action, tuple(clauses), tuple(rules), state, reason, tuple(results))


# The script


def test_the_script_holds_about_a_hundred_messages_each_with_its_own_key():
    assert 95 <= len(SCRIPT.messages) <= 110
    assert max(Counter(message.key for message in SCRIPT.messages).values()) == 1


def test_every_clause_of_content_is_broken_once_at_least():
    assert {message.clause for message in SCRIPT.messages if message.clause} == CLAUSES_SHOWN


def test_what_is_stopped_names_clause_and_rule_and_ends_by_its_verdict():
    for message in SCRIPT.messages:
        assert (message.action == "allow") == (message.rule is None) == (message.clause is None)
        if message.action != "allow":
            assert message.ends == VERDICT_LEADS_TO[message.action]


def test_no_address_and_no_link_leads_anywhere():
    for message in SCRIPT.messages:
        assert message.recipient.endswith(".example")
        assert message.item["inbox"].endswith(".example")
        for word in f"{message.item['content'].get('text')} {message.item['content'].get('html', '')}".split():
            host = word.partition("https://")[2].partition("/")[0].partition('"')[0]
            assert not host or host.endswith(".example"), word


def test_the_laboratorys_faults_lead_to_what_the_script_says():
    ends = {"refuse": "refused", "refuse-content": "refused", "cut": "in_doubt", "cut-lost": "in_doubt"}
    faults = set()
    for message in SCRIPT.messages:
        if (fault := find_fault(message.recipient)) is not None:
            faults.add(fault.name)
            assert message.ends == ends.get(fault.name, "handed_over")
    assert faults >= {"refuse", "refuse-content", "later", "greylist", "slow", "cut", "cut-lost"}


def test_every_message_is_filled_in():
    for message in SCRIPT.messages:
        content = message.item["content"]
        assert content["subject"]
        assert not {"{", "}"} & set(content["subject"] + content["text"] + content.get("html", ""))


def test_the_acts_find_the_messages_they_speak_of():
    recipients = [message.recipient for message in SCRIPT.messages if message.wave == "morning"]
    assert recipients.count(TRACED) == 1
    assert recipients.count(RESOLVED) == 1
    assert any((message.wave, message.business) == COMPLAINED for message in SCRIPT.messages)
    assert sum(message.recipient.startswith("slow-") for message in SCRIPT.wave("kill")) >= 1


def test_a_row_without_a_word_its_template_needs_is_a_mistake():
    text = """
accounts: {a: {name: A, about: b, inboxes: [{address: a@a.example}]}}
mails: [{wave: w, account: a, inbox: a@a.example, purpose: p, basis: contract, subject: "{order}", text: t,
         rows: [{to: x@x.example, name: X}]}]
"""
    with pytest.raises(KeyError, match="order"):
        read_script(text)


# The checks


def balanced(admitted, in_flight=0):
    parts = [Balance("a", "A", admitted=admitted, handed_over=admitted - in_flight, in_flight=in_flight)]
    return Ledger(parts, total(parts), [], {"routing": 0})


def test_a_whole_equation_holds():
    assert check_equation(balanced(7), 7).holds


@pytest.mark.parametrize(
    ("ledger", "admitted"),
    [
        (balanced(7), 8),
        (balanced(7, in_flight=1), 7),
        (dataclasses.replace(balanced(7), wrong=[Balance("a", "A", admitted=7, handed_over=6)]), 7),
        (dataclasses.replace(balanced(7), unauthorised={"routing": 1}), 7),
    ],
)
def test_a_broken_equation_is_found(ledger, admitted):
    assert not check_equation(ledger, admitted).holds


def test_bytes_hold_when_each_arrived_once_and_refused_ones_were_thrown_away():
    first, second, third = sent("k1"), sent("k2"), sent("k3")
    states = {first.id: "handed_over", second.id: "in_doubt", third.id: "refused"}
    recorded = [mail(first, "451 4.3.0 not now"), mail(first), mail(second, "cut"), mail(third, "554 5.7.1 no")]
    check = check_bytes([first, second, third], states, recorded)
    assert check.holds
    assert check.found == "4 contents reached the laboratory, 0 altered; it kept 2, 0 twice"


@pytest.mark.parametrize(
    ("state", "copies", "said"),
    [
        ("handed_over", 0, "has not got it"),
        ("delivered", 0, "has not got it"),
        ("handed_over", 2, "2 times"),
        ("in_doubt", 2, "2 times"),
        ("refused", 1, "has got it"),
        ("held", 1, "has got it"),
        ("unknown", 1, "has got it"),
    ],
)
def test_a_mail_lost_doubled_or_sent_without_leave_is_found(state, copies, said):
    one = sent()
    check = check_bytes([one], {one.id: state}, [mail(one)] * copies)
    assert not check.holds
    assert said in check.faults[0]
    assert check.found.endswith(f"{int(copies > 1)} twice")


def test_one_altered_bit_is_found_as_a_stranger_and_as_a_loss():
    one = sent()
    check = check_bytes([one], {one.id: "handed_over"}, [mail(one, sha256="digest-kX")])
    assert len(check.faults) == 2


def test_the_right_bytes_at_the_wrong_address_are_found():
    one = sent()
    check = check_bytes([one], {one.id: "handed_over"}, [mail(one, rcpt_to="other@mail.example")])
    assert check.faults == ("k1 went to another recipient",)


@given(st.sampled_from(["250 2.0.0 ok", "cut", "garbage", "451 4.3.0", "554 5.7.1", "550 5.1.1"]))
def test_a_mail_is_kept_when_it_was_accepted_or_nobody_was_told(answer):
    assert is_kept(mail(sent(), answer)) == (answer[0] != "4" and answer[:2] != "55")


def test_verdicts_hold_when_rule_and_clause_are_the_expected_ones():
    good, bad = sent("good"), sent("bad", action="block", clause="R3.e", rule="gambling.advertising", ends="refused")
    fates = {
        good.id: fate(),
        bad.id: fate("refused", "block", ["R3.e", "R5.3"], ["gambling.advertising", "malware.program"]),
    }
    assert check_verdicts([good, bad], fates).holds


@pytest.mark.parametrize(
    "found",
    [
        None,
        fate("handed_over"),
        fate("held", "hold", ["R3.e"], ["gambling.advertising"]),
        fate("refused", "block", ["R3.g"], ["drugs.sale"]),
    ],
)
def test_a_verdict_that_is_not_the_expected_one_is_found(found):
    bad = sent("bad", action="block", clause="R3.e", rule="gambling.advertising", ends="refused")
    check = check_verdicts([bad], {} if found is None else {bad.id: found})
    assert check.faults[0].startswith("bad should be block gambling.advertising")


def test_a_harmless_mail_that_is_stopped_is_found():
    good = sent("good")
    assert not check_verdicts([good], {good.id: fate("held", "hold", ["R5.2"], ["phishing.raw-ip-host"])}).holds


@pytest.mark.parametrize("lost", sorted(LOST_IN_CALL))
def test_ends_hold_by_script_by_an_operators_word_and_by_the_kill(lost):
    plain, asked, killed = sent("plain"), sent("asked", ends="in_doubt"), sent("killed")
    fates = {
        plain.id: fate(),
        asked.id: fate("handed_over"),
        killed.id: fate("in_doubt", reason=lost),
    }
    check = check_ends([plain, asked, killed], fates, {asked.id: "handed_over"})
    assert check.holds
    assert check.found.endswith("1 in doubt because of the kill")


@pytest.mark.parametrize(
    "found",
    [fate("refused"), fate("in_doubt", reason="connection lost at final dot"), fate("expired"), fate("planned")],
)
def test_a_message_that_rests_elsewhere_is_found(found):
    one = sent()
    assert not check_ends([one], {one.id: found}, {}).holds


def test_a_blocked_message_is_never_in_doubt_by_a_kill():
    bad = sent("bad", action="block", clause="R3.e", rule="gambling.advertising", ends="refused")
    assert not check_ends([bad], {bad.id: fate("in_doubt", "block", reason=min(LOST_IN_CALL))}, {}).holds


# What is told


def test_outcomes_are_counted_by_state_and_reason_the_most_frequent_first():
    ones = [sent(f"k{number}") for number in range(4)]
    states = ["handed_over", "refused", "handed_over", "handed_over"]
    results = [("accepted",), ("refused",), ("accepted",), ("later", "accepted")]
    fates = {one.id: fate(state, results=tried) for one, state, tried in zip(ones, states, results, strict=True)}
    assert [row[:3] for row in outcome_rows(ones, fates)] == [
        (2, "handed over", "as planned"),
        (1, "refused", "as planned"),
        (1, "handed over", "as planned, at attempt 2"),
    ]


@given(st.text(max_size=200))
def test_a_shortened_subject_fits_its_column(text):
    assert len(shortened(text)) <= 44
    assert len(text) > 44 or shortened(text) == text


def test_a_folder_that_is_not_an_earlier_demos_is_never_wiped(tmp_path):
    (tmp_path / "logs").mkdir()
    with pytest.raises(CommandError, match="not an earlier demo"):
        LocalStage(Stack.open(tmp_path)).clear()
    assert (tmp_path / "logs").is_dir()


def test_an_earlier_demo_is_wiped(tmp_path):
    for name in ("laboratory", "logs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "left").write_text("over")
    LocalStage(Stack.open(tmp_path)).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["laboratory"]
    assert list((tmp_path / "laboratory").iterdir()) == []
