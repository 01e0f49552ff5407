from __future__ import annotations

import base64
import json
import time
from email import policy
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.mail import AttachmentPart, Correspondent, Link, TextPart, read_mail
from moderation.mail.hypertext import read_html
from moderation.messages import case_of_line

COMPOSED = (
    b"From: =?utf-8?b?SsO2cmc=?= <service@shop.example>\r\n"
    b'To: "Muster, Erika" <erika@example.org>\r\n'
    b"Subject: =?utf-8?b?R3LDvMOf?=\r\n =?utf-8?b?ZSE=?=\r\n"
    b"Date: Sun, 22 Nov 2026 09:30:00 +0000\r\n"
    b"Message-ID: <1@shop.example>\r\n"
    b"Reply-To: help@shop.example\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n"
    b"\r\nSch=C3=B6n: https://shop.example/a?b=3D1 (or www.shop.example/x_(y)).\r\n"
)


def mail(content_type: str, body: bytes, *more: str) -> bytes:
    lines = ["From: a@b.example", "Subject: s", f"Content-Type: {content_type}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_a_plain_mail_is_read():
    parts = read_mail(COMPOSED)
    assert parts.subject == "Grüße!"
    assert parts.texts == (TextPart("text", "Schön: https://shop.example/a?b=1 (or www.shop.example/x_(y)).\n"),)
    assert parts.links == (Link("https://shop.example/a?b=1"), Link("www.shop.example/x_(y)"))
    assert parts.senders == (Correspondent("service@shop.example", "Jörg"),)
    assert parts.reply_to == (Correspondent("help@shop.example"),)
    assert (parts.attachments, parts.degraded) == ((), ())


printable = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029")
words = st.text(printable, min_size=1, max_size=60).map(str.strip).filter(bool)


@given(subject=words, text=words, html=words, filename=words, octets=st.binary(max_size=200))
@settings(max_examples=60)
def test_what_the_standard_library_composes_is_read_back(subject, text, html, filename, octets):
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = "a@b.example"
    message["Subject"] = subject
    message.set_content(text + "\n")
    message.add_alternative(f"<p>{html.replace('&', '&amp;').replace('<', '&lt;')}</p>", subtype="html")
    message.add_attachment(octets, maintype="application", subtype="pdf", filename=filename)
    parts = read_mail(message.as_bytes())
    assert parts.degraded == (("unread-part",) if octets.strip() else ())
    assert "".join(parts.subject.split()) == "".join(subject.split())
    assert parts.texts == (TextPart("text", text + "\n"), TextPart("html-text", " ".join(html.split())))
    (attachment,) = parts.attachments
    assert (attachment.content_type, attachment.content) == ("application/pdf", octets)
    if filename.isascii():
        assert "".join(attachment.filename.split()) == "".join(filename.split())


def test_html_becomes_text_and_links_with_what_they_show():
    html = (
        "<html><head><title>T</title><style>p{}</style><script>var x='<a href=no>'</script></head>"
        "<body><p>Dear&nbsp;customer,<br>your <b>acc</b>ount</p><!-- hidden <a href='no'> -->"
        '<a class=x HREF="https://evil.example/?a=1&amp;b=2">https://bank.example <i>login</i></a>'
        "<table><tr><td>a</td><td>b</td></tr></table><img src=//pix.example/i.png><a href='#top'>up</a>"
        "<a href=' java\nscript:x '></a> 1 < 2 <3</body>"
    )
    text, links, _, _ = read_html(html, 10)
    assert text == "T\nDear customer,\nyour account\nhttps://bank.example login\na b\nup 1 < 2 <3"
    assert links == [
        Link("https://evil.example/?a=1&b=2", "https://bank.example login"),
        Link("//pix.example/i.png"),
        Link("javascript:x"),
    ]


@pytest.mark.parametrize(
    "html",
    [
        "<a title=it's>{}</a><b title='>",
        '<a title="x>y">{}</a>',
        "<!--[if mso]>{}<![endif]-->",
        "<!-->{}<!-- -->",
        "<!-- a --!>{}",
        "<p/{}",
        "<p {}",
        "<é>{}",
        "</ x>{}",
        "<a href=x/>{}",
        "<p title='{}",
        "<svg><style>a</style>{}</svg>",
    ],
)
def test_text_that_some_reader_would_show_is_not_hidden_by_odd_markup(html):
    text, *_ = read_html(html.format("evil words"), 10)
    assert "evil words" in text


@pytest.mark.parametrize(
    "html",
    [
        "<head><title><style></title></head><body>{}",
        "<head><title><style></title></head><body>{}<style></style>",
        "<title><!--</title>{}<!-- -->",
        "<textarea hidden><script></textarea>{}<script></script>",
        "<textarea><!--</textarea>{}",
        "<svg><style></svg>{}<style></style>",
        "<svg><text><![CDATA[{}]]></text></svg>",
        "<select><style></select>{}<style></style>",
        "<iframe><style></iframe>{}",
        "<xmp><script></xmp>{}",
        "<noscript><style></noscript>{}",
        "<style><p>{}</p></style>",
        "<img src=a alt='{}'>",
        "<input value='{}'>",
    ],
)
def test_text_is_seen_where_a_style_a_script_or_a_comment_is_none(html):
    assert "evil <words>" in read_html(html.format("evil &lt;words>"), 10).text


@pytest.mark.parametrize("html", ["<style>{}", "<script>{}", "<!-- {}", "<select><style></select>{}"])
def test_what_a_style_a_script_or_a_comment_without_end_swallows_is_text(html):
    page = read_html(html.format("evil <i>wo</i>rds"), 10)
    assert ("evil words" in page.text, page.whole) == (True, False)
    assert read_mail(mail("text/html", html.format("evil words").encode())).degraded == ("html",)


@pytest.mark.parametrize("hiding", ["<!--{}-->", "<style>{}</style>", "<script>{}</script>"])
def test_what_is_hidden_beyond_the_limit_leaves_room_for_what_follows(hiding):
    page = "before " + hiding.format("x" * 260_000) + "words to be judged"
    assert "words to be judged" in read_mail(mail("text/html", page.encode())).texts[0].text[:50_000]
    (_, case, _) = case_of_line(json.dumps({"html": page}).encode())
    assert "words to be judged" in case.parts.texts[0].text[:50_000]
    assert case.parts.degraded == ("html",)


@pytest.mark.parametrize(
    "between",
    [
        '<span style="display:none">q</span>',
        '<span style="display&#58;/* */none">q</span>',
        '<span style="visibility: hidden">q</span>',
        '<i style="font-size:0">q</i>',
        '<i style="font-size:0.0em">q</i>',
        "<b hidden>q<i>q</i></b>",
        "<i><span hidden>q</i>",
        '<i class="a x">q</i>',
        "<i id=y>q</i>",
        "<s>q</s>",
        "<img width=0 height=0 alt=q>",
        "<img src=a>",
        "<select hidden><option>q</select>",
        "<input type=hidden>",
        '<div style="display:inline"></div>',
    ],
)  # fmt: skip
def test_what_is_hidden_within_a_line_does_not_part_its_words(between):
    style = "<style>p{} .x, #y{display:none}@media all{s{font-size:0}}</style>"
    page = read_html(f"{style}<p>ev{between}il wo{between}rds<p>again", 10)
    assert page.shown == "evil words\nagain"
    texts = read_mail(mail("text/html", f"{style}ev{between}il wo{between}rds".encode())).texts
    assert TextPart("html-text", "evil words") in texts


@pytest.mark.parametrize(
    "html",
    [
        "<div style='display:none'>preview</div><p>Dear Ben,<p>hello <img src=a alt=logo> there",
        "<p style='font-size:0.9em'>small<i style='font-size:10px'>er</i>",
        "<p>letter</p><p hidden>end",
        "<div>a</div><div>b</div>",
    ],
)
def test_a_page_whose_lines_hide_nothing_within_is_read_once(html):
    assert read_html(html, 10).shown == ""


@given(st.text(st.sampled_from("<>/!-a'\"= &;b\n[]") | st.characters(exclude_categories=("Cs",)), max_size=200))
def test_any_html_is_read(html):
    text, links, _, _ = read_html(html, 10)
    assert len(links) <= 10
    assert isinstance(text, str)


def test_addresses_written_in_a_page_are_links_beside_its_anchors():
    page = (
        '<p>See http://written.example/a or other-site.com/b. <a href="//host.example/login">www.shown.example</a>'
        '<p>htt<i hidden>q</i>p://parted.example/c <a href="http://written.example/a">again</a>'
    )
    links = [Link("//host.example/login", "www.shown.example"), Link("http://written.example/a", "again")]
    links += [Link("http://parted.example/c"), Link("http://other-site.com/b", "other-site.com/b", bare=True)]
    assert list(read_mail(mail("text/html", page.encode())).links) == links
    (_, case, _) = case_of_line(json.dumps({"html": page}).encode())
    assert list(case.parts.links) == links


def test_a_text_to_be_saved_is_both_text_and_attachment():
    content = mail("text/plain; name=a.txt", b"hello", "Content-Disposition: attachment; filename*=utf-8''%C3%BC.txt")
    parts = read_mail(content)
    assert parts.texts == (TextPart("text", "hello"),)
    assert parts.attachments == (AttachmentPart("ü.txt", "text/plain", b"hello", ("a.txt",)),)


def test_file_names_in_pieces_and_in_encoded_words_are_read():
    pieces = "Content-Disposition: attachment; filename*1*=%A4b; filename*0*=utf-8''a%C3; filename*2=\"c;d\""
    assert read_mail(mail("application/pdf", b"", pieces)).attachments[0].filename == "aäbc;d"
    word = 'Content-Disposition: attachment; filename="=?utf-8?b?w7w=?=.pdf"'
    assert read_mail(mail("application/pdf", b"", word)).attachments[0].filename == "ü.pdf"


@pytest.mark.parametrize(
    ("content_type", "disposition"),
    [
        ("application/pdf; name=evil.js", "attachment; filename="),
        ("application/pdf; name=evil.js", "attachment; filename=a.txt"),
        ("application/pdf", "attachment; filename=a.txt; filename=evil.js"),
        ("application/pdf", "attachment; filename=a.txt; filename*=utf-8''evil%2Ejs"),
        ("application/pdf", 'attachment filename="evil.js"'),
    ],
)
def test_all_names_that_a_mail_gives_a_file_are_kept(content_type, disposition):
    (file,) = read_mail(mail(content_type, b"x", f"Content-Disposition: {disposition}")).attachments
    assert "evil.js" in (file.filename, *file.other_names)


def test_forwarded_messages_are_read_with_their_subjects():
    inner = mail("multipart/mixed; boundary=i", b"--i\r\n\r\nwithin\r\n--i--\r\n").replace(
        b"Subject: s", b"Subject: inner"
    )
    body = b"--o\r\nContent-Type: message/rfc822\r\n\r\n" + inner + b"\r\n--o\r\n\r\nafter\r\n--o--\r\n"
    parts = read_mail(mail("multipart/mixed; boundary=o", body))
    assert parts.texts == (TextPart("text", "within"), TextPart("text", "after"), TextPart("text", "inner"))
    assert parts.degraded == ()


WORDS = b"words to be judged"


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html charset=utf-8", "text", "html", "plain/text", "text/foo", "text/markdown", "text/enriched",
        "text/rtf", "text/calendar; method=REQUEST", "application/xhtml+xml", "message/rfc822", "message/global",
        "message/delivery-status",
    ],
)  # fmt: skip
def test_what_a_mail_program_shows_as_text_is_read(content_type):
    parts = read_mail(mail(content_type, b"\r\n" + WORDS if content_type.startswith("message/") else WORDS))
    assert [part.text.strip() for part in parts.texts] == [WORDS.decode()]
    assert (parts.attachments, parts.degraded) == ((), ())


@pytest.mark.parametrize("content_type", ["text/foo", "html", "text/x-amp-html", "application/xhtml+xml"])
def test_what_looks_like_a_page_is_read_as_one(content_type):
    texts = read_mail(mail(content_type, b"<html><body>words<i></i> to be ju<b>dg</b>ed</body></html>")).texts
    assert TextPart("html-text", WORDS.decode()) in texts


@pytest.mark.parametrize(("name", "page"), [("a.txt", WORDS), ("a.HTML", b"<p>" + WORDS), ("a.eml", b"\r\n" + WORDS)])
def test_a_file_that_its_name_calls_a_text_is_read_and_stays_a_file(name, page):
    content = mail("application/octet-stream", page, f"Content-Disposition: inline; filename={name}")
    parts = read_mail(content)
    assert [part.text for part in parts.texts] == [WORDS.decode()]
    assert ([file.filename for file in parts.attachments], parts.degraded) == ([name], ())


def test_lines_of_a_calendar_entry_are_read_unfolded():
    folded = b"BEGIN:VEVENT\r\nDESCRIPTION:words to be ju\r\n dged\\nagain\r\nEND:VEVENT"
    assert "words to be judged\nagain" in read_mail(mail("text/calendar", folded)).texts[0].text


MIXED = "multipart/mixed; boundary=b"
ENCODED = {"base64": base64.encodebytes, "quoted-printable": lambda octets: octets.replace(b"=", b"=3D")}


@pytest.mark.parametrize("encoding", ENCODED)
def test_a_message_in_an_encoding_is_read_with_its_files(encoding):
    file = mail("application/x-msdownload", b"TVqQ", "Content-Transfer-Encoding: base64")
    inner = mail(MIXED, b"--b\r\n\r\n" + WORDS + b"\r\n--b\r\n" + file + b"\r\n--b--\r\n")
    parts = read_mail(mail("message/rfc822", ENCODED[encoding](inner), f"Content-Transfer-Encoding: {encoding}"))
    assert [part.text for part in parts.texts] == [WORDS.decode(), "s"]
    assert [file.content for file in parts.attachments] == [b"MZ\x90"]


def test_messages_in_encodings_are_read_twenty_levels_deep():
    def wrapped(levels):
        content = b"\r\n" + WORDS
        for _ in range(levels):
            content = mail("message/rfc822", content, "Content-Transfer-Encoding: quoted-printable")
        return read_mail(content)

    assert (wrapped(20).texts[0].text, wrapped(20).degraded) == (WORDS.decode(), ())
    assert (WORDS.decode() in wrapped(40).texts[0].text, wrapped(40).degraded) == (True, ("nesting",))


@pytest.mark.parametrize(
    "content",
    [
        mail("image/png", b"\x89PNG"),
        mail("audio/mpeg", b"ID3"),
        mail("application/pdf", b"%PDF-1.4 /Encrypt"),
        mail("application/ms-tnef", b"\x78\x9f\x3e\x22"),
        mail("application/pkcs7-mime; smime-type=signed-data", b"0\x80"),
        mail("application/pkcs7-mime; smime-type=enveloped-data", b"0\x80"),
        mail(
            "multipart/encrypted; protocol=application/pgp-encrypted; boundary=b",
            b"--b\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n"
            b"--b\r\nContent-Type: application/octet-stream\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n--b--",
        ),
        mail("message/partial; id=a; number=1; total=2", b"\r\nwords"),
        mail("text/csv", b"a;b", "Content-Disposition: attachment; filename=a.csv"),
    ],
)
def test_what_is_not_read_as_text_is_said(content):
    assert read_mail(content).degraded == ("unread-part",)


CLOSED = b"--b\r\n\r\nhello\r\n--b--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\n" + WORDS + b"\r\n--b--",
        b"--b\r\nContent-Type: text/plain\r\n" + WORDS + b"\r\n--b--",
        b"--b\r\nContent-Type: text/plain\r\n" + WORDS + b"\r\n\r\nand more\r\n--b--",
        b"--b\r\nContent-Transfer-Encoding: base64\r\n" + base64.encodebytes(WORDS) + b"\r\n--b--",
        b"--b\r\n" + WORDS + b"\r\nContent-Transfer-Encoding: base64\r\n\r\nYWI=\r\n--b--",
        WORDS + b"\r\n" + CLOSED,
        CLOSED + WORDS,
        CLOSED + b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(WORDS) + b"--b--",
    ],
)
def test_words_outside_of_wellformed_parts_are_read(body):
    parts = read_mail(mail(MIXED, body))
    assert WORDS.decode() in "\n".join(part.text for part in parts.texts)
    assert parts.degraded == ()


def test_a_line_before_the_headers_that_is_none_hides_no_header():
    content = b"a line\r\n" + mail("text/plain", base64.encodebytes(WORDS), "Content-Transfer-Encoding: base64")
    assert TextPart("text", WORDS.decode()) in read_mail(content).texts
    assert read_mail(b"From a@b.example Sun Nov 22\r\n" + mail("text/plain", WORDS)).texts == (
        TextPart("text", WORDS.decode()),
    )


@pytest.mark.parametrize(
    "aside",
    [
        b"This is a multi-part message in MIME format.",
        b"This is a cryptographically signed message in MIME format.",
        b"This is an OpenPGP/MIME signed message (RFC 4880 and 3156)",
        b"This is a MIME-encapsulated message.",
    ],
)
def test_what_writers_say_to_readers_without_mime_is_no_text(aside):
    parts = read_mail(mail(MIXED, aside + b"\r\n\r\n" + CLOSED))
    assert (parts.texts, parts.degraded) == ((TextPart("text", "hello"),), ())


def test_a_boundary_ends_without_its_spaces():
    assert read_mail(mail('multipart/mixed; boundary="b "', CLOSED)).texts == (TextPart("text", "hello"),)


@pytest.mark.parametrize("encoding", ["base64 (x)", '"base64"', "base64;", " BASE64"])
def test_a_transfer_encoding_is_known_whatever_is_written_around_it(encoding):
    content = mail("text/plain", base64.encodebytes(WORDS), f"Content-Transfer-Encoding: {encoding}")
    assert read_mail(content).texts == (TextPart("text", WORDS.decode()),)


def test_an_encoded_word_may_have_spaces_within():
    assert read_mail(b"Subject: a =?utf-8?Q?words to be j=75dged?= b\r\n\r\n").subject == "a words to be judged b"


@pytest.mark.parametrize("label", ["cp037", "cp500", "ibm273", "cp875", "utf_8_sig"])
def test_a_charset_that_mail_programs_do_not_know_is_read_as_utf_8(label):
    parts = read_mail(mail(f"text/plain; charset={label}", WORDS))
    assert (parts.texts, parts.degraded) == ((TextPart("text", WORDS.decode()),), ("charset",))


def test_a_signature_beside_a_text_hides_nothing():
    body = b"--b\r\n\r\nhello\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\n-----BEGIN\r\n--b--"
    assert read_mail(mail("multipart/signed; boundary=b", body)).degraded == ()


@pytest.mark.parametrize(
    ("content", "named", "text"),
    [
        (mail("text/plain; charset=utf-8", b"\xff!"), "charset", "\ufffd!"),
        (mail("text/plain", b"\xe4!"), "charset", "ä!"),
        (mail("text/plain; charset=punycode", b"abc"), "charset", "abc"),
        (mail("text/plain; charset=nonsense", b"abc"), "charset", "abc"),
        (mail("text/plain; charset=base64", b"abc"), "charset", "abc"),
        (mail("text/plain", b"YWJjZ", "Content-Transfer-Encoding: base64"), "transfer-encoding", "abc"),
        (mail("text/plain", b"YWI=YWI=", "Content-Transfer-Encoding: base64"), "transfer-encoding", "ab"),
        (mail("text/plain", b"abc", "Content-Transfer-Encoding: x-uuencode"), "transfer-encoding", "abc"),
        (mail("multipart/mixed; boundary=zzz", b"one text"), "boundary", "one text"),
        (mail("multipart/mixed", b"--b\r\n\r\nx"), "boundary", "--b\r\n\r\nx".replace("\r\n", "\n")),
        (mail("message/rfc822", b"Content-Type: message/rfc822\r\n\r\n" * 30 + b"x"), "nesting", "x"),
        (mail("text/html", b"x" * 1_000_001 + b"<a>"), "html", "x" * 1_000_001 + "<a>"),
        (mail("text/html", b"<!-- x"), "html", "x"),
        (mail("text/plain", b"www.a.example " * 1_001), "links", "www.a.example " * 1_001),
        (b"X: 1\r\n" * 1_001 + b"\r\nx", "headers", "x"),
        (b"X: " + b"1" * 300_000 + b"\r\n\r\nx", "headers", None),
        (b"From: " + b"(" * 3_000 + b"\r\n\r\nx", "addresses", "x"),
        (b"Reply-To: " + b":" * 3_000 + b"\r\n\r\nx", "addresses", "x"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_rest_is_read(content, named, text):
    parts = read_mail(content)
    assert parts.degraded == (named,)
    if text is not None:
        assert text in parts.texts[0].text


def nested(levels: int) -> bytes:
    content = b"Content-Type: text/plain\r\n\r\ninnermost"
    for level in range(levels):
        head = f"Content-Type: multipart/mixed; boundary=b{level}x\r\n\r\n--b{level}x\r\n".encode()
        content = head + content + f"\r\n--b{level}x--\r\n".encode()
    return content


def test_twenty_levels_are_read_and_what_lies_deeper_is_one_text():
    assert read_mail(nested(20)).texts == (TextPart("text", "innermost"),)
    parts = read_mail(nested(2_000))
    assert parts.degraded == ("nesting",)
    assert "innermost" in parts.texts[0].text


BOMBS = {
    "100,000 parts": mail(MIXED, b"--b\r\n\r\nx\r\n" * 100_000),
    "25 MB of boundaries": mail(MIXED, b"--b\r\n" * 5_000_000),
    "lines like the boundary": mail(MIXED, b"--bx\r\n" * 4_000_000),
    "closing lines": mail(MIXED, b"--b--\r\n" * 4_000_000),
    "multiparts": mail(
        MIXED,
        b"".join(
            b'--b\r\nContent-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n\r\nx\r\n--%d--\r\n' % (n, n, n)
            for n in range(400)
        )
        + b"x" * 3_000_000,
    ),
    "lines that are no headers": mail(MIXED, (b"--b\r\n" + b"x\r\nX: 1\r\n" * 300 + b"\r\n") * 900),
    "headers": mail(MIXED, (b"--b\r\n" + b"X:\r\n" * 12_000) * 500),
    "quotes in a content type": mail('multipart/mixed; a="' + '\\"' * 120_000, b"x"),
    "brackets in a content type": mail("multipart/mixed; " + "(" * 240_000, b"x"),
    "open tags": mail("text/html", b"<a " * 8_000_000),
    "tags": mail("text/html", b"<b>" * 8_000_000),
    "anchors": mail("text/html", b"<a href=x>" * 2_500_000),
    "comments": mail("text/html", b"<!--" * 6_000_000),
    "quoted attributes": mail("text/html", b"<a b='" * 4_000_000),
    "angle brackets": mail("text/html", b"<" * 25_000_000),
    "styles": mail("text/html", b"<style>" * 3_500_000),
    "rules": mail("text/html", b"<style>" + b"a{display:none}" * 1_000_000 + b"</style><input>"),
    "a selector": mail("text/html", b"<style>" + b"a" * 240_000 + b"!{display:none}</style><input>"),
    "hidden elements": mail("text/html", b"<b hidden><i>" * 1_000_000 + b"</b>" * 1_000_000),
    "pictures": mail("text/html", b"<a href=x><img alt=x>" * 1_000_000),
    "encoded words": b"Subject: " + b"=?utf-8?q?" * 25_000 + b"\r\n\r\nx",
    "an address list": b"From: " + b"a," * 100_000 + b"\r\n\r\nx",
    "a list of open brackets": b"From: " + b"<" * 3_900 + b"\r\n\r\nx",
    "white space in From": b"From: " + b" " * 3_900 + b"x\r\n\r\nx",
    "links": mail("text/plain", b"http://" * 3_500_000),
    "closing brackets": mail("text/plain", b"http://a" + b")" * 1_000_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_read_in_two_seconds(name):
    started = time.process_time()
    read_mail(BOMBS[name])
    assert time.process_time() - started < 2


@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                b"\r\n",
                b"\n",
                b"--b",
                b"--",
                b"Content-Type: ",
                b"multipart/mixed; boundary=b",
                b"message/rfc822",
                b"text/html",
                b"Content-Transfer-Encoding: base64",
                b"From: ",
                b"=?utf-8?b?w7w=?=",
                b"<a href=x>",
                b"\xff",
                b"a@b",
                b'"',
                b";",
            ]
        ),
        max_size=40,
    ).map(b"".join)
)
@settings(max_examples=300)
def test_any_bytes_are_read(content):
    assert isinstance(read_mail(content).subject, str)


@given(st.lists(st.sampled_from(["a", "bb", "c" * 70, "\n", "="]), min_size=1, max_size=60).map("".join))
def test_each_transfer_encoding_gives_the_same_text(text):
    octets = text.encode()
    message = mail(
        "text/plain", base64.encodebytes(octets).replace(b"\n", b"\r\n"), "Content-Transfer-Encoding: base64"
    )
    assert read_mail(message).texts == (TextPart("text", text),)
