"""Messages made to keep screening busy: for the tests that bound its time, and as seeds of the fuzz run."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import random
import zipfile

HEAD = b"From: a@a.example\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
MEGABYTE = 1_000_000


def plain(text, head=HEAD):
    body = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return head + b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + body


def html(text):
    return HEAD + b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + text.encode()


def attached(name, content, times=1):
    part = (
        f'--b\r\nContent-Disposition: attachment; filename="{name}"\r\n'.encode()
        + b"Content-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(content)
    )
    start = b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n\r\nsee attachment\r\n'
    return HEAD + start + part * times + b"--b--\r\n"


def zipped(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def nested_zip(levels):
    content = b"innermost"
    for level in range(levels):
        content = zipped((f"{level}.zip", content))
    return content


def filled(piece, size=MEGABYTE):
    return (piece * (size // max(1, len(piece)) + 1))[:size]


def deep_mime(levels):
    start = b"".join(b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(levels))
    return HEAD + start + b"Content-Type: text/plain\r\n\r\nhello\r\n"


TEXTS = {
    "combining marks": "a" + "\u0301" * MEGABYTE,
    "marks on each letter": filled("e\u0301\u0323\u0308"),
    "zero width": filled("v\u200bi\u200ba\u200bg\u200br\u200ba "),
    "look-alikes": filled("\u0440\u0430ypal \u0430mazon "),
    "full width": filled("\uff46\uff52\uff45\uff45 "),
    "ligatures": filled("\ufdfa"),
    "emoji letters": filled("\U0001f1eb\U0001f1f7\U0001f1ea\U0001f1ea "),
    "letters apart": filled("f r e e  m o n e y  "),
    "leet": filled("v1agr4 c4s1n0 fr33 "),
    "drawn out": filled("freeeeeee moneeeeey "),
    "one letter": "a" * MEGABYTE,
    "spaces": " " * MEGABYTE,
    "line ends": "\r\n" * (MEGABYTE // 2),
    "capitals": filled("FREE MONEY NOW!!! "),
    "regex: almost a credential request": filled("please verify your the the the my "),
    "regex: almost a link phrase": filled("click the the the link below here and to verify "),
    "regex: almost forged papers": filled("buy real genuine quality high best top cheap fake "),
    "regex: all the words of the rules": filled(
        "your account password invoice parcel bitcoin casino winner lottery urgent suspended confirm bank card login "
    ),
    "long words": filled("x" * 5000 + " "),
    "surrogates": filled("\ud800\udfff free "),
    "mixed scripts": filled("абв abc αβγ 漢字 العربية "),
    "nulls": filled("\x00free"),
    "links": filled("https://paypa1-login.example-secure.tk/verify?a=1 verify your account "),
    "bare links": filled("paypal-login.xyz/verify "),
    "one long link": "https://" + "a." * 400_000 + "example",
    "dots": filled("a."),
    "at signs": filled("a@b.c "),
}  # fmt: skip

MAILS = {
    **{f"text: {name}": plain(text) for name, text in TEXTS.items()},
    "subject of a megabyte": HEAD.replace(b"x\r\n", b"y" * MEGABYTE + b"\r\n") + b"\r\nhello",
    "subject of encoded words": b"Subject: " + b"=?utf-8?B?Zm9v?= " * 12_000 + b"\r\n\r\nhello",
    "ten thousand headers": b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(10_000)) + b"\r\nhello",
    "from of many": b"From: " + b'"a, b" <a@b.example>, ' * 20_000 + b"\r\n\r\nhello",
    "from of comments": b"From: " + b"(" * 200_000 + b"\r\n\r\nhello",
    "deep mime": deep_mime(2_000),
    "many parts": HEAD + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + b"--b\r\n\r\nfree money\r\n" * 40_000,
    "closing lines": HEAD + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + b"--b--\r\nfree money\r\n" * 40_000,
    "lines that are no headers": HEAD
    + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + (b"--b\r\n" + b"free\r\nX: 1\r\n" * 100) * 900,
    "boundary of dashes": HEAD + b'Content-Type: multipart/mixed; boundary="--"\r\n\r\n' + b"--" * 400_000,
    "html: ten thousand links": html(
        "".join(f'<a href="https://h{n}.paypa1.tk/login">paypal.com</a> verify ' for n in range(10_000))
    ),
    "html: deep": html("<div>" * 100_000 + "free" + "</div>" * 50_000),
    "html: attributes": html("<a " + "b=c " * 200_000 + ">free"),
    "html: open tags": html("<" * MEGABYTE),
    "html: shortest tags": html("<b>" * 330_000),
    "html: shortest ends": html("</>" * 330_000),
    "html: shortest comments": html("<!---->" * 140_000),
    "html: anchors": html("<a href=x.tk>" * 76_000),
    "html: conditionals": html("<!--[if a]>" * 90_000),
    "html: tables of sites": html("<td><img src=//a.tk>" * 50_000),
    "html: open comment": html("<!--" * 250_000),
    "html: entities": html("&#x66;ree&amp;" * 70_000),
    "html: no end": html("<script>" + "a<b" * 300_000),
    "html: styles": html("<style>a{}</style><span style='display:none'>x</span>" * 18_000),
    "html: words parted by what is hidden": html("<i hidden>q</i>fr<img alt=q width=0>ee <s class=x>x</s>" * 25_000),
    "html: rules that hide": html("<style>" + "a.b,#c{display:none}" * 6_000 + "</style>" + "fr<b class=b>x</b>ee " * 6_000),
    "html: declarations without end": html("<!" * 500_000),
    "html: quoted-printable": HEAD
    + b"Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=3D=41=\r\n" * 110_000,
    "html: UTF-7 of megabytes": HEAD + b"Content-Type: text/html; charset=utf-7\r\n\r\n" + b"+AGY-" * 200_000,
    "zip in zip": attached("a.zip", nested_zip(50)),
    "zip bomb": attached("a.zip", zipped(*((f"{n}.txt", bytes(5_000_000)) for n in range(30)))),
    "zip of thousands": attached("a.zip", zipped(*((f"{n}.txt.exe", b"x") for n in range(5_000)))),
    "zip of web pages": attached("a.zip", zipped(*((f"{n}.html", b"<form password" * 500) for n in range(100)))),
    "zip of zips": attached("a.zip", zipped(*((f"{n}.zip", nested_zip(3)) for n in range(100)))),
    "zip of large zips": attached("a.zip", zipped(*((f"{n}.dat", zipped(("a", bytes(900_000)))) for n in range(100)))),
    "tar of a gigabyte": attached("a.tgz", gzip.compress(bytes(257) + b"ustar" + bytes(200_000_000))),
    "bzip2 bomb": attached("a.bz2", bz2.compress(bytes(50_000_000))),
    "bzip2 of noise": attached("a.bz2", bz2.compress(random.Random(1).randbytes(1_400_000))),
    "bzip2 of noise, often": attached("a.bz2", bz2.compress(random.Random(1).randbytes(250_000)), 12),
    "thousands of gzips": attached("a.gz", gzip.compress(b"x") * 40_000),
    "tar of digits": attached("a.tar", (bytes(124) + b"00003641000" + bytes(21) + b"x" + bytes(100) + b"ustar").ljust(512, b"\0")
        + b"1" * 1_000_000),
    "tar of thousands": attached("a.tar", ((b"a.exe" + bytes(252) + b"ustar").ljust(512, b"\0")) * 2_500),
    "program of a megabyte": attached("a.pdf.exe", b"MZ" + b"powershell -enc " * 60_000),
    "page of a megabyte": attached("a.html", b"document.write(unescape(atob(" * 34_000),
    "rtf of a megabyte": attached("a.rtf", rb"{\rt" + b"equation.3 0002ce02" * 50_000),
    "pdf of a megabyte": attached("a.pdf", b"%PDF-1.7 /Launch /JavaScript " * 34_000),
    "ole of a megabyte": attached("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "VBA".encode("utf-16-le") * 160_000),
    "eicar over and over": attached("a.txt", b"X5O!P%@AP" * 110_000),
    "base64 that breaks off": HEAD + b"Content-Transfer-Encoding: base64\r\n\r\n" + b"Zm9v=" * 200_000,
    "forwarded again and again": b"".join(
        b"Subject: fwd %d\r\nContent-Type: message/rfc822\r\n\r\n" % n for n in range(5_000)
    ),
    "nothing": b"",
    "no headers": filled(b"\xff\xfe\x00", MEGABYTE),
}  # fmt: skip


def together(*parts):
    """One mail of several texts and files."""
    pieces = [HEAD, b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n']
    for media, name, content in parts:
        disposition = f'Content-Disposition: attachment; filename="{name}"\r\n' if name else ""
        head = f"Content-Type: {media}; charset=utf-8\r\n{disposition}Content-Transfer-Encoding: base64\r\n\r\n"
        body = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
        pieces += [b"--b\r\n", head.encode(), base64.encodebytes(body), b"\r\n"]
    return b"".join([*pieces, b"--b--\r\n"])


_PROGRAM = b"MZ" + b"powershell -enc WScript.Shell " * 30_000
MAILS |= {
    "everything at once": together(
        ("text/plain", "", TEXTS["regex: almost forged papers"]),
        ("text/html", "", "<a href=x.tk>" * 76_000),
        ("text/html", "", TEXTS["marks on each letter"]),
        ("application/octet-stream", "a.exe", _PROGRAM),
        ("application/zip", "a.zip", zipped(*((f"{n}.txt.exe", b"x" * 60_000) for n in range(100)))),
    ),
    "many html parts": together(*[("text/html", "", "<a href=x.tk>" * 20_000)] * 30),
    "twenty megabytes of program": attached("a.exe", b"MZ" + b"powershell -enc WScript.Shell " * 700_000),
    "thirty programs": together(*[("application/octet-stream", f"{n}.exe", _PROGRAM) for n in range(30)]),
    "thirty archives": together(
        *[("application/zip", "a.zip", zipped(*((f"{m}.txt", b"x" * 60_000) for m in range(100))))] * 30
    ),
    "a thousand empty files": together(*[("application/octet-stream", f"{n}.pdf.exe", b"") for n in range(990)]),
}
