import base64
import io
import zipfile
from email.message import EmailMessage
from email.policy import SMTP
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.attachments import EICAR
from moderation.domain import Decision, erased_decision, screen
from moderation.examination import NOTHING_KNOWN, Case, Context
from moderation.examples import broken_examples, example_mail
from moderation.mail import Link, MailParts, TextPart, read_mail
from moderation.policy.reading import policy_of
from moderation.screening import Screener


def mail(text="", *, subject="Hello", html=None, attachments=()):
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = "shop@example.com", "ada@example.org", subject
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    for name, content in attachments:
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_every_rule_keeps_its_own_examples(policy):
    assert list(broken_examples(policy)) == []


def test_every_clause_has_a_rule(policy):
    clauses = {rule.clause for rule in policy.document.rules}
    assert clauses == {"R3.a", "R3.b", "R3.c", "R3.d", "R3.e", "R3.f", "R3.g", "R5.1", "R5.2", "R5.3"}


def test_ordinary_business_mail_passes(policy, clean_texts):
    assert len(clean_texts) >= 60
    stopped = {
        text: decision for text in clean_texts if (decision := screen(read_mail(mail(text)), policy)).action != "allow"
    }
    assert stopped == {}


def test_a_message_is_judged_the_same_alone_and_among_many(policy, clean_texts, violating_texts):
    contents = [mail(text) for text in clean_texts] + [mail(item["text"]) for item in violating_texts]
    contents += [mail(html="<a href='http://pay.example.top/x'>bank.example</a>"), b"", mail(EICAR.decode())]
    contents += [mail(attachments=[("invoice.pdf.exe", b"MZ" + bytes(80))]), mail("V3rify your p\u0430ssword")]
    cases = [
        Case(read_mail(content), tool, context)
        for content in contents
        for tool, context in (("email", NOTHING_KNOWN), ("telephony", Context(rspamd_score=20.0, degraded=("clamd",))))
    ]
    assert len(cases) > 150
    alone = [screen(*case[:1], policy, *case[1:]) for case in cases]
    assert len({decision.action for decision in alone}) == 3
    assert Screener(policy).screen(cases) == alone


def test_what_breaks_a_clause_is_stopped_and_the_clause_is_named(policy, violating_texts):
    assert len(violating_texts) >= 30
    missed = [
        (item["clause"], item["text"], decision)
        for item in violating_texts
        if (decision := screen(read_mail(mail(item["text"])), policy)).action == "allow"
        or item["clause"] not in decision.clauses
    ]
    assert missed == []


def test_both_engines_reach_the_same_decision(policy, portable_policy, clean_texts, violating_texts):
    if policy.bank.backend == portable_policy.bank.backend:
        pytest.skip("this platform has one engine only")
    mails = [read_mail(mail(text)) for text in clean_texts]
    mails += [read_mail(mail(item["text"])) for item in violating_texts]
    mails += [example_mail(one) for rule in policy.document.rules for one in (*rule.matches, *rule.passes)]
    for parts in mails:
        assert screen(parts, policy) == screen(parts, portable_policy)


def test_evidence_is_the_character_span_and_the_digest_of_what_stands_there(policy):
    text = "Größe und Preis: ä€😀 Order fake passports today."
    decision = screen(MailParts("", (TextPart("text", text),)), policy)
    (found,) = decision.evidence
    assert (found.rule, found.part) == ("crime.forged-documents", "text[0]")
    assert text[found.start : found.end] == "Order fake passports"
    assert found.digest == sha256(b"Order fake passports").hexdigest()


def test_the_worst_action_wins_and_all_rules_are_named(policy):
    text = "Flat to let. No immigrants allowed. Order fake passports today."
    decision = screen(MailParts("", (TextPart("text", text),)), policy)
    assert decision.action == "block"
    assert decision.rules == ("crime.forged-documents", "hate.exclusion")
    assert decision.clauses == ("R3.a", "R3.d")


def test_a_phrase_broken_over_lines_is_still_a_phrase(policy):
    content = mail("Order fake\r\n   passports today, undetectable.")
    assert screen(read_mail(content), policy).action == "block"


def test_a_phrase_in_the_subject_or_in_html_counts(policy):
    assert screen(read_mail(mail("see below", subject="Order fake passports")), policy).action == "block"
    assert screen(read_mail(mail("", html="<p>Order <b>fake</b> passports</p>")), policy).action == "block"


def test_a_rule_speaks_only_of_its_tools(policy):
    rule = policy.document.rules[0]
    quiet = policy.document.model_copy(update={"rules": (rule.model_copy(update={"tools": ("form",)}),)})
    compiled = policy_of(quiet, "quiet", backend="re2")
    parts = MailParts("", (TextPart("text", "Order fake passports today"),))
    assert screen(parts, compiled, "email").action == "allow"
    assert screen(parts, compiled, "form").action == "block"


def test_eicar_in_a_base64_attachment_is_blocked_by_r5_3(policy):
    content = mail("see attachment", attachments=[("report.bin", EICAR)])
    assert EICAR not in content, "the transfer encoding hides it"
    decision = screen(read_mail(content), policy)
    assert (decision.action, decision.clauses, decision.rules) == ("block", ("R5.3",), ("malware.eicar",))
    (found,) = decision.evidence
    assert (found.part, found.start, found.end, found.digest) == ("attachment[0]", 0, 68, sha256(EICAR).hexdigest())


@pytest.mark.parametrize(
    "content",
    [b"padding " + EICAR, base64.b64encode(EICAR), zipped(**{"inner/eicar.com": EICAR})],
    ids=["inside", "still base64", "in a zip"],
)
def test_eicar_is_found_wherever_it_hides_in_an_attachment(policy, content):
    assert screen(read_mail(mail("x", attachments=[("data.bin", content)])), policy).rules == ("malware.eicar",)


def test_eicar_as_the_text_of_the_mail_is_found(policy):
    assert "malware.eicar" in screen(read_mail(mail(EICAR.decode())), policy).rules


def test_a_link_shown_as_another_site_with_a_demand_is_blocked(policy):
    html = '<p>Please confirm your payment: <a href="http://collector.example.net/x">www.example-bank.com</a></p>'
    decision = screen(read_mail(mail("", html=html)), policy)
    assert decision.action == "block"
    assert "phishing.credentials-at-suspicious-host" in decision.rules
    assert any(found.part == "link[0]" for found in decision.evidence)


def test_a_phrase_far_from_the_link_is_not_near_it(policy):
    far = "Confirm your password immediately. " + "Nothing else. " * 100 + "https://shop.example.com/"
    near = "Nothing else. " * 100 + "Confirm your password immediately. https://shop.example.com/"
    url = (Link("https://shop.example.com/"),)
    assert screen(MailParts("", (TextPart("text", far),), url), policy).action == "allow"
    assert screen(MailParts("", (TextPart("text", near),), url), policy).action == "block"


def test_a_decoy_phrase_far_from_the_link_does_not_hide_the_one_beside_it(policy):
    demand, filler = "Confirm your password immediately. ", "Nothing else. " * 100
    parts = MailParts("", (TextPart("text", demand + filler + demand + "https://shop.example.com/"),))
    linked = MailParts("", parts.texts, (Link("https://shop.example.com/"),))
    assert screen(parts, policy).action == "allow"
    assert screen(linked, policy).action == "block"


def test_what_could_not_be_read_is_noted_and_the_rest_decides(policy):
    parts = MailParts("Hello", (TextPart("text", "hello"),), degraded=("charset",))
    decision = screen(parts, policy)
    assert (decision.action, decision.rules, decision.degraded) == ("allow", (), ("charset",))


def test_a_mail_of_which_nothing_could_be_read_is_held(policy):
    decision = screen(MailParts("", degraded=("decoded-bytes",)), policy)
    assert (decision.action, decision.degraded) == ("hold", ("decoded-bytes", "nothing-readable"))


def test_an_empty_mail_is_allowed(policy):
    assert screen(MailParts(""), policy).action == "allow"


def test_erased_content_is_held():
    assert erased_decision() == Decision("hold", degraded=("content-erased",))


def test_a_lone_surrogate_is_no_obstacle(policy):
    parts = MailParts("\ud800", (TextPart("text", "\udcff Order fake passports"),))
    (found,) = screen(parts, policy).evidence
    assert (found.start, found.end) == (2, 22)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=2000))
def test_screening_never_raises_on_arbitrary_bytes(policy, content):
    assert screen(read_mail(content), policy).action in {"allow", "hold", "block"}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                b"Content-Type: multipart/mixed; boundary=x\r\n",
                b"\r\n",
                b"--x\r\n",
                b"--x--\r\n",
                b"PK\x03\x04",
                b"PK\x01\x02",
                b"Content-Transfer-Encoding: base64\r\n",
                b"Content-Type: text/html\r\n",
                b"<a href='http://xn--\xff/'>x</a>",
                b'Content-Disposition: attachment; filename="a.pdf.exe"\r\n',
                b"http://[::1",
                b"MZ",
                b"UEsDBA==",
                b"\xff\xfe",
                b"=?x?b?",
            ]
        ),
        max_size=30,
    )
)
def test_screening_never_raises_on_bytes_that_look_like_mail(policy, pieces):
    screen(read_mail(b"".join(pieces)), policy)
