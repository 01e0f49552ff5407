from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.mime import ContentError, Mailbox, Original, original
from ingestion.mime.mailboxes import AddressListError, mailboxes

LIMIT = 25 * 1024 * 1024
HEAD = b"From: a@b.example\r\nTo: c@d.example\r\n"


def carried(raw: bytes) -> Original:
    return original(raw, content_bytes_max=LIMIT)


def refused(raw: bytes, limit: int = LIMIT) -> ContentError:
    with pytest.raises(ContentError) as caught:
        original(raw, content_bytes_max=limit)
    assert caught.value.field == "content.eml"
    return caught.value


def multipart(boundary: str, body: bytes) -> bytes:
    return HEAD + f'Content-Type: multipart/mixed; boundary="{boundary}"\r\n\r\n'.encode() + body


body_lines = st.lists(
    st.binary(max_size=80).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")),
    max_size=20,
)


@given(lines=body_lines)
def test_a_mail_with_crlf_is_carried_byte_for_byte(lines):
    raw = HEAD + b"\r\n" + b"".join(line + b"\r\n" for line in lines)
    assert carried(raw).content == raw


@given(lines=body_lines, final=st.booleans())
def test_only_line_ends_change(lines, final):
    raw = HEAD.replace(b"\r\n", b"\n") + b"\n" + b"\n".join(lines) + (b"\n" if final else b"")
    content = carried(raw).content
    assert content == raw.replace(b"\n", b"\r\n") + (b"" if raw.endswith(b"\n") else b"\r\n")
    assert carried(content).content == content


def test_the_facts_of_a_mail_are_read_and_nothing_is_added():
    raw = (
        b"Received: by x; Sun, 22 Nov 2026 09:30:00 +0000\r\n"
        b'From: =?utf-8?q?J=C3=B6rg?= "not used" (comment, with comma) <Jo@B.example>\r\n'
        b'To: "Muster, Erika" <erika@d.example>,\r\n\tteam: x@d.example, erika@D.example;, plain@d.example (Plain)\r\n'
        b"CC: last@d.example\r\nMessage-Id: <1@b.example>\r\n\r\nHi\r\n"
    ).replace(b' "not used"', b"")
    mail = carried(raw)
    assert mail == Original(
        content=raw,
        sender=Mailbox("Jo@b.example", "Jörg"),
        recipients=(
            Mailbox("erika@d.example", "Muster, Erika"),
            Mailbox("x@d.example"),
            Mailbox("plain@d.example"),
            Mailbox("last@d.example"),
        ),
        message_id="<1@b.example>",
        subject_present=False,
        date_present=False,
        eight_bit=False,
        smtputf8=False,
    )


def test_eight_bit_bodies_and_utf8_headers_are_flagged():
    assert carried(HEAD + "\r\nGrüße\r\n".encode("latin-1")).eight_bit
    assert not carried(HEAD + "\r\nGrüße\r\n".encode()).smtputf8
    mail = carried("Subject: Grüße\r\n".encode() + HEAD + b"\r\nx\r\n")
    assert (mail.eight_bit, mail.smtputf8, mail.subject_present) == (True, True, True)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "is empty"),
        (HEAD, "blank line"),
        (b"\r\nHello", "line 1"),
        (HEAD + b"\r\na\0b", "line 4: holds a NUL"),
        (HEAD + b"\r\na\rb\r\n", "line 4: holds a CR without LF"),
        (HEAD.replace(b"\n", b"") + b"\r", "CR without LF"),
        (HEAD + b"\r\n" + b"x" * 999, "line 4: is longer than 998"),
        (HEAD + b"\r\n" + b"x\r\n" * 999 + b"x" * 999 + b"\r\nx\r\n", "line 1003: is longer than 998"),
        (b"From a@b.example Sun Nov 22\r\n" + HEAD + b"\r\nx", "line 1: is no header"),
        (b" folded\r\n" + HEAD + b"\r\nx", "line 1: is no header"),
        (HEAD + b"no colon here\r\n\r\nx", "line 3: is no header"),
        (b"X: 1\r\n" * 1001 + HEAD + b"\r\nx", "1000 lines of headers"),
        ((b"X: " + b"1" * 900 + b"\r\n") * 300 + HEAD + b"\r\nx", "262144 bytes of headers"),
        (b"To: c@d.example\r\n\r\nx", "no From"),
        (b"From: a@b.example, b@b.example\r\nTo: c@d.example\r\n\r\nx", "From names 2 mailboxes"),
        (b"From: nobody:;\r\nTo: c@d.example\r\n\r\nx", "From names 0 mailboxes"),
        (HEAD + b"From: z@b.example\r\n\r\nx", "line 3: From stands there twice"),
        (HEAD + b"Subject: a\r\nSUBJECT: b\r\n\r\nx", "line 4: Subject stands there twice"),
        (b"From: a@b.example\r\n\r\nx", "no recipient"),
        (b"From: a@b.example\r\nTo: undisclosed-recipients:;\r\n\r\nx", "no recipient"),
        (HEAD + b"Bcc: e@d.example\r\n\r\nx", "line 3: Bcc would show hidden recipients"),
        (
            HEAD + b"cc: " + b",\r\n ".join(b"r%d@d.example" % n for n in range(100)) + b"\r\n\r\nx",
            "more than 100 recip",
        ),
        (HEAD + b"cc: not an address\r\n\r\nx", "Cc: an address needs one at sign"),
        (HEAD + b'cc: "open <e@d.example>\r\n\r\nx', "Cc: has a quote"),
        (HEAD + b"cc: " + b"(" * 900 + b"\r\n\r\nx", "Cc: has an opening bracket too many"),
        (HEAD + b"X: \xff\r\n\r\nx", "line 3: a header holds octets that are not UTF-8"),
        (multipart("b", b"--b\r\n\r\n" * 1001), "more than 1000 parts"),
        (HEAD + b"Content-Type: multipart/mixed\r\n\r\nx", "no one boundary"),
        (HEAD + b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\nx", "no one boundary"),
        (HEAD + b"Content-Type: multipart/mixed; boundary*=utf-8''a\r\n\r\nx", "no one boundary"),
        (multipart("b", b"--b\r\n" + b"X: 1\r\n" * 20_000 + b"\r\n--b--\r\n"), "line 6: a part has more than 65536"),
    ],
)
def test_what_cannot_be_carried_is_refused_with_its_place(raw, says):
    assert says in str(refused(raw))


def test_a_mail_of_30_mb_is_refused_with_the_limit():
    assert refused(HEAD + b"\r\n" + bytes(30_000_000)).limit == LIMIT


def test_line_ends_that_push_a_mail_over_the_limit_refuse_it():
    raw = HEAD + b"\r\n" + b"\n" * 1000
    assert refused(raw, limit=len(raw) + 10).limit == len(raw) + 10


def nested(levels: int) -> bytes:
    content = b"Content-Type: text/plain\r\n\r\nx"
    for level in range(levels):
        head = f"Content-Type: multipart/mixed; boundary=b{level}x\r\n\r\n--b{level}x\r\n".encode()
        content = head + content + f"\r\n--b{level}x--\r\n".encode()
    return HEAD + content


def forwarded(levels: int) -> bytes:
    return HEAD + b"Content-Type: message/rfc822\r\n\r\n" * levels + b"Subject: s\r\n\r\nx"


@pytest.mark.parametrize("build", [nested, forwarded])
def test_twenty_levels_are_carried_and_twenty_one_are_not(build):
    assert carried(build(20))
    error = refused(build(21))
    assert (error.limit, "nested" in error.reason) == (20, True)


def test_the_boundaries_of_closed_and_inner_multiparts_are_told_apart():
    inner = b"--bb\r\n\r\n1\r\n--b-\r\nnot a boundary\r\n--bb--\r\n"
    body = b"--b\r\nContent-Type: multipart/mixed;\r\n boundary=bb\r\n\r\n" + inner + b"--bb\r\n" * 1200 + b"--b--\r\n"
    assert carried(multipart("b", body))


FILLER = {
    "10,000 parts": b"--b\r\n\r\nx\r\n" * 10_000,
    "25 MB of boundaries": b"--b\r\n" * 5_000_000,
    "25 MB of lines like boundaries": b"--\r\n" * 6_200_000,
    "25 MB of lines that start like the boundary": b"--bx\r\n" * 4_100_000,
    "25 MB of empty lines": b"\r\n" * 12_900_000,
    "25 MB of LF": b"\n" * 12_900_000,
    "25 MB of closing boundaries": b"--b--\r\n" * 3_600_000,
    "25 MB of headers within parts": (b"--b\r\n" + b"X: 1\r\n" * 10_000) * 400,
    "25 MB of nested multiparts": b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 450_000,
    "25 MB of base64": (b"QUJD" * 19 + b"\r\n") * 330_000,
}


@pytest.mark.parametrize("name", FILLER)
def test_a_mime_bomb_is_dealt_with_in_half_a_second(name):
    raw = multipart("b", FILLER[name])[:LIMIT]
    started = time.process_time()
    with suppress(ContentError):
        carried(raw)
    assert time.process_time() - started < 0.5


def test_twenty_open_boundaries_over_25_mb_take_less_than_a_second():
    raw = nested(20).replace(b"\r\n\r\nx", b"\r\n\r\n" + b"--b1b2b3xb\r\n" * 2_000_000)[:LIMIT]
    started = time.process_time()
    carried(raw)
    assert time.process_time() - started < 1


@given(st.binary(max_size=300) | st.text(st.sampled_from("-b\r\n:; /=Contetyp"), max_size=200).map(str.encode))
@settings(max_examples=200)
def test_any_bytes_are_either_carried_or_refused(raw):
    with suppress(ContentError):
        content = carried(HEAD + raw).content
        assert carried(content).content == content


@given(st.text(st.sampled_from('a@.b "\\<>,:;()=?\t'), max_size=60))
def test_any_address_list_is_either_read_or_refused(value):
    with suppress(ContentError, AddressListError):
        assert all(mailbox.address for mailbox in mailboxes(value, field="content.eml"))


@pytest.mark.parametrize("value", ["(" * 200_000, '"' + "\\" * 200_000, "=?" * 100_000, "a," * 100_000, "<" * 200_000])
def test_a_hostile_address_list_is_read_in_one_pass(value):
    started = time.process_time()
    with pytest.raises((ContentError, AddressListError)):
        mailboxes(value, field="content.eml")
    assert time.process_time() - started < 0.25


def test_quotes_in_a_comment_mean_nothing_and_take_no_time():
    started = time.process_time()
    for comment in ('"\\' * 100_000 + "x", '"', 'a " b \\( c', '("(x)")'):
        written = f"({comment}) a@b.example"
        assert mailboxes(written, field="content.eml") == [Mailbox("a@b.example")]
    assert time.process_time() - started < 0.25


def test_a_charset_that_no_mail_can_name_leaves_the_name_as_it_stands():
    assert mailboxes("=?ü?q?a?= <a@b.example>", field="content.eml") == [Mailbox("a@b.example", "=?ü?q?a?=")]
