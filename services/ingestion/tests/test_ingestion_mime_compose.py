from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from email import message_from_string, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.parser import BytesParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.mime import Attachment, Composed, ContentError, Email, Mailbox, compose, original

SENDER = Mailbox("service@shop.example", "Nordlicht Shop")
RECIPIENT = Mailbox("erika@example.org", "Erika Mustermann")
MESSAGE_ID = "0197a2b4-5c1e-7d34-9b6a-2f1c3d4e5f60"
DATE = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
LIMIT = 1 << 20
FORBIDDEN = "\u2028\u2029"

printable = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=FORBIDDEN)
header_text = st.text(printable, max_size=120)
names = st.text(printable, min_size=1, max_size=80).filter(lambda name: not name.isspace())
bodies = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=400).filter(
    lambda text: not text.isspace()
)
ascii_bodies = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=3000).filter(
    lambda text: not text.isspace()
)


def composed(email: Email, sender: Mailbox = SENDER, recipient: Mailbox = RECIPIENT, limit: int = LIMIT) -> Composed:
    return compose(email, sender=sender, recipient=recipient, message_id=MESSAGE_ID, date=DATE, content_bytes_max=limit)


def parsed(content: bytes) -> EmailMessage:
    message = BytesParser(policy=policy.default).parsebytes(content)
    assert isinstance(message, EmailMessage)
    return message


def normal(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return lines if lines.endswith("\n") else lines + "\n"


def body_of(part: EmailMessage) -> str:
    return part.get_payload(decode=True).decode("utf-8").replace("\r\n", "\n")


def unfolded(content: bytes, header: str) -> str:
    head = content.partition(b"\r\n\r\n")[0].decode().replace("\r\n ", " ")
    return next(line.partition(": ")[2] for line in head.split("\r\n") if line.startswith(f"{header}: "))


def assert_carriable(content: bytes) -> None:
    assert content.endswith(b"\r\n")
    assert content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n")
    assert max(map(len, content.split(b"\r\n"))) <= 998
    head = content.partition(b"\r\n\r\n")[0]
    assert all(line.strip() for line in head.split(b"\r\n")), "no line of white space alone"


def refused(email: Email, **mailboxes: Mailbox) -> ContentError:
    with pytest.raises(ContentError) as caught:
        composed(email, **mailboxes)
    return caught.value


@given(subject=header_text)
def test_any_subject_parses_back(subject):
    content = composed(Email(subject, text="x")).content
    assert_carriable(content)
    assert parsed(content)["Subject"] == subject


@given(subject=st.text(st.sampled_from('ab =?_"q'), max_size=200))
def test_an_ascii_subject_that_looks_encoded_or_is_long_parses_back(subject):
    assert parsed(composed(Email(subject, text="x")).content)["Subject"] == subject


@given(name=names)
def test_any_display_name_parses_back(name):
    content = composed(Email("s", text="x"), recipient=Mailbox("erika@example.org", name)).content
    assert_carriable(content)
    (address,) = parsed(content)["To"].addresses
    # Older versions of the standard library's parser lose or add white space in names; hence the second reading.
    assert "".join(address.display_name.split()) == "".join(name.split())
    phrase = unfolded(content, "To").rpartition("<")[0].strip()
    if phrase.startswith("=?"):
        assert str(make_header(decode_header(phrase))) == name
    assert address.addr_spec == "erika@example.org"


@given(text=bodies, html=st.none() | bodies)
def test_any_text_parses_back_with_its_line_ends_normalised(text, html):
    content = composed(Email("s", text=text, html=html)).content
    assert_carriable(content)
    message = parsed(content)
    assert body_of(message.get_body(("plain",))) == normal(text)
    if html is not None:
        assert body_of(message.get_body(("html",))) == normal(html)


@given(text=ascii_bodies)
@settings(max_examples=50)
def test_long_ascii_lines_are_encoded_and_short_ones_are_not(text):
    content = composed(Email("s", text=text)).content
    assert_carriable(content)
    assert (b": 7bit\r\n" in content) == (len(text) <= 998)
    assert body_of(parsed(content)) == text + "\n"


@given(filename=names.map(str.strip).filter(lambda name: name[:1] + name[-1:] != "<>"), octets=st.binary(max_size=300))
def test_any_file_parses_back(filename, octets):
    # Stripped, and not in angle brackets, only because the standard library takes those off what it parses.
    email = Email("s", text="x", html="<p>x</p>", attachments=(Attachment(filename, "application/pdf", octets),))
    content = composed(email).content
    assert_carriable(content)
    (attachment,) = parsed(content).iter_attachments()
    assert attachment.get_filename() == filename
    assert attachment.get_content() == octets


@given(subject=header_text, name=names, text=bodies)
@settings(max_examples=50)
def test_what_is_composed_is_a_mail_that_would_be_carried_unchanged(subject, name, text):
    content = composed(Email(subject, text=text, html=text), sender=Mailbox("a@b.example", name)).content
    seen = original(content, content_bytes_max=LIMIT)
    assert seen.content == content
    assert (seen.sender.address, seen.recipients[0].address) == ("a@b.example", "erika@example.org")
    assert (seen.eight_bit, seen.smtputf8) == (False, False)


@given(value=header_text, bad=st.sampled_from("\r\n\0\x01\t\x0b\x1f\x7f\x85\u2028\u2029\ud800"), at=st.integers(0, 120))
def test_header_injection_is_refused_in_every_value(value, bad, at):
    hostile = value[:at] + bad + value[at:]
    plain = Email("s", text="x")
    assert refused(plain._replace(subject=hostile)).field == "content.subject"
    assert refused(plain, sender=Mailbox("a@b.example", hostile)).field == "sender.name"
    assert refused(plain, recipient=Mailbox(hostile)).field == "recipient.address"
    assert refused(plain._replace(reply_to=Mailbox("a@b.example", hostile))).field == "content.reply_to.name"
    assert refused(plain._replace(unsubscribe_url=f"https://a/{hostile}")).field == "content.unsubscribe_url"
    assert refused(plain._replace(in_reply_to=f"<{hostile}@a>")).field == "content.in_reply_to"
    assert refused(plain._replace(references=("<a@b>", f"<{hostile}>"))).field == "content.references[1]"
    named = Attachment(hostile, "text/csv", b"")
    assert refused(plain._replace(attachments=(named,))).field == "content.attachments[0].filename"
    typed = Attachment("a", f"text/{hostile}", b"")
    assert refused(plain._replace(attachments=(typed,))).field == "content.attachments[0].content_type"


def test_a_refusal_never_repeats_the_value():
    error = refused(Email("secret-words\r\nBcc: victim@example.org", text="x"))
    assert "secret-words" not in str(error)
    assert "victim" not in str(error)


def test_the_headers_stand_as_documented():
    email = Email(
        "Your order",
        text="Hello\n",
        reply_to=Mailbox("help@shop.example"),
        unsubscribe_url="https://shop.example/u/1?a=b",
        in_reply_to="<1@example.org>",
        references=("<0@example.org>", "<1@example.org>"),
    )
    assert composed(email).content == (
        b"From: Nordlicht Shop <service@shop.example>\r\n"
        b"To: Erika Mustermann <erika@example.org>\r\n"
        b"Subject: Your order\r\n"
        b"Date: Sun, 22 Nov 2026 09:30:00 +0000\r\n"
        b"Message-ID: <0197a2b4-5c1e-7d34-9b6a-2f1c3d4e5f60@shop.example>\r\n"
        b"Reply-To: help@shop.example\r\n"
        b"In-Reply-To: <1@example.org>\r\n"
        b"References: <0@example.org>\r\n <1@example.org>\r\n"
        b"List-Unsubscribe: <https://shop.example/u/1?a=b>\r\n"
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\nHello\r\n"
    )


def test_encoded_words_keep_to_their_lengths_and_hold_whole_characters():
    content = composed(Email("é" * 400 + "汉" * 200, text="x"), sender=Mailbox("a@b.example", "字" * 200)).content
    for line in content.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        assert len(line) <= 78
        for word in re.findall(rb"=\?\S+\?=", line):
            assert len(line) <= 76
            assert len(word) <= 75
    for encoded in re.findall(rb"=\?utf-8\?b\?([^?]*)\?=", content):
        assert base64.b64decode(encoded).decode("utf-8")


def test_a_long_subject_of_plain_words_is_folded_not_encoded():
    content = composed(Email("word " * 100 + "end", text="x")).content
    assert b"=?" not in content
    assert max(map(len, content.split(b"\r\n"))) <= 78


def test_mostly_ascii_text_is_quoted_printable_and_cyrillic_text_base64():
    assert b": quoted-printable\r\n" in composed(Email("s", text="Ihre Bestellung für morgen ist da.")).content
    assert b": base64\r\n" in composed(Email("s", text="Ваш заказ передан в доставку")).content


def test_the_same_arguments_give_the_same_bytes():
    email = Email("s", text="x", html="<p>x</p>", attachments=(Attachment("a", "text/csv", b"1"),))
    assert composed(email).content == composed(email).content


def test_a_text_that_holds_the_boundary_gets_another_one():
    guessed = f"--=_alt0_{MESSAGE_ID}\n--=_alt1_{MESSAGE_ID}\n"
    message = parsed(composed(Email("s", text=guessed, html="<p>x</p>")).content)
    assert body_of(message.get_body(("plain",))) == guessed


def test_a_local_part_beyond_ascii_stays_utf8_and_is_flagged():
    email = composed(Email("s", text="x"), recipient=Mailbox("jörg@müller.example", "Jörg"))
    assert "jörg@xn--mller-kva.example".encode() in email.content
    assert (email.eight_bit, email.smtputf8) == (True, True)
    assert message_from_string(email.content.decode(), policy=policy.SMTPUTF8)["To"].addresses[0].username == "jörg"


def test_an_internationalised_domain_needs_no_smtputf8():
    email = composed(Email("s", text="x"), recipient=Mailbox("info@Straße.example"))
    assert b"info@xn--strae-oqa.example" in email.content
    assert not email.smtputf8


@pytest.mark.parametrize(
    ("change", "field", "limit"),
    [
        ({"subject": "x" * 999}, "content.subject", 998),
        ({"text": None}, "content", None),
        ({"text": ""}, "content.text", None),
        ({"html": " \n"}, "content.html", None),
        ({"text": "a\0b"}, "content.text", None),
        ({"text": "a\ud800b"}, "content.text", None),
        ({"text": "x" * (LIMIT + 1)}, "content", LIMIT),
        ({"text": "=" * (LIMIT - 10) + "é"}, "content", LIMIT),
        ({"attachments": (Attachment("a", "text/csv", b""),) * 101}, "content.attachments", 100),
        ({"attachments": (Attachment("a", "text/csv", bytes(LIMIT)),)}, "content", LIMIT),
        ({"attachments": (Attachment("a" * 256, "text/csv", b""),)}, "content.attachments[0].filename", 255),
        ({"attachments": (Attachment(" ", "text/csv", b""),)}, "content.attachments[0].filename", None),
        ({"attachments": (Attachment("a", "csv", b""),)}, "content.attachments[0].content_type", None),
        ({"attachments": (Attachment("a", "message/rfc822", b""),)}, "content.attachments[0].content_type", None),
        ({"reply_to": Mailbox("nobody")}, "content.reply_to.address", None),
        ({"reply_to": Mailbox("a@b.example", "x" * 201)}, "content.reply_to.name", 200),
        ({"reply_to": Mailbox("a@b.example", " ")}, "content.reply_to.name", None),
        ({"unsubscribe_url": "http://shop.example/u"}, "content.unsubscribe_url", None),
        ({"unsubscribe_url": "https://shop.example/<u>"}, "content.unsubscribe_url", None),
        ({"unsubscribe_url": "https://shop.example/" + "u" * 900}, "content.unsubscribe_url", 900),
        ({"in_reply_to": "1@example.org"}, "content.in_reply_to", None),
        ({"references": ("<a@b>",) * 101}, "content.references", 100),
    ],
)
def test_what_cannot_be_carried_is_refused_with_its_field_and_limit(change, field, limit):
    error = refused(Email("s", text="x")._replace(**change))
    assert (error.field, error.limit) == (field, limit)
    assert error.reason


def test_a_message_id_or_date_of_the_wrong_form_is_a_bug_of_the_caller():
    email = Email("s", text="x")
    with pytest.raises(ValueError, match="message_id"):
        compose(email, sender=SENDER, recipient=RECIPIENT, message_id="a\r\nb", date=DATE, content_bytes_max=LIMIT)
    naive = DATE.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        compose(email, sender=SENDER, recipient=RECIPIENT, message_id="a", date=naive, content_bytes_max=LIMIT)
