from __future__ import annotations

import base64

import pytest

from waystation.eml import MAIL_BYTES_MAX, EmlError, items_from_eml

MAIL = (
    b'From: "Shop, Nord" <service@shop.example>\nTo: erika@example.org,\n =?utf-8?q?J=C3=B6rg?= <joerg@example.org>\n'
    b"Cc: erika@example.org, team: third@example.org;\nSubject: Hi\n\nHello\n"
)


def test_each_recipient_gets_an_item_with_the_very_bytes_of_the_file(tmp_path):
    path = tmp_path / "mail.eml"
    path.write_bytes(MAIL)
    items = items_from_eml(path)
    recipients = ["erika@example.org", "joerg@example.org", "third@example.org"]
    assert [item["recipient"] for item in items] == [{"address": address} for address in recipients]
    for item in items:
        assert (item["tool"], item["inbox"]) == ("email", "service@shop.example")
        assert base64.b64decode(item["content"]["eml"]) == MAIL


def test_an_address_in_utf8_is_read(tmp_path):
    path = tmp_path / "mail.eml"
    path.write_bytes("From: a@b.example\nTo: jörg@example.org\n\nx".encode())
    assert items_from_eml(path)[0]["recipient"] == {"address": "jörg@example.org"}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "From names 0"),
        (b"From: a@b.example, c@d.example\nTo: e@f.example\n\n", "From names 2"),
        (b"From: a@b.example\n\nTo: hidden@in.the.body\n", "neither To nor Cc"),
        (b"\x00\xff\xfe", "From names 0"),
        (b"From: a@b.example\nTo: " + b":" * 3_000 + b"\n\n", "To or Cc is no list of addresses"),
    ],
)
def test_a_file_that_is_no_mail_is_refused_by_name(tmp_path, raw, says):
    path = tmp_path / "mail.eml"
    path.write_bytes(raw)
    with pytest.raises(EmlError, match=says) as caught:
        items_from_eml(path)
    assert "mail.eml" in str(caught.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "mail.eml"
    with path.open("wb") as file:
        file.truncate(MAIL_BYTES_MAX + 1)
    with pytest.raises(EmlError, match="larger than"):
        items_from_eml(path)


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(EmlError, match="No such file"):
        items_from_eml(tmp_path / "missing.eml")
