"""Feedback reports: what is read from them, what is refused with which clause, and that nothing breaks the reading."""

from __future__ import annotations

import base64
import string
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.mime.text import MIMEText
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.arf import REPORT_BYTES_MAX, ArfError, NotAComplaintError, parse_report

MESSAGE = "01a20505-7237-7508-a48d-40411fd9f0e7"
ACCOUNT = "01a20505-7198-7254-b97b-9f6156b4de77"
CANARY = "jane.roe@example.org"
FIELDS = "Feedback-Type: abuse\nUser-Agent: SomeGenerator/1.0\nVersion: 1\n"
ORIGINAL = (
    f"From: Shop <hello@shop.example>\nTo: {CANARY}\nMessage-ID: <{MESSAGE}@shop.example>\n"
    f"Feedback-ID: order:{ACCOUNT}:email:waystation\nSubject: Your order\n"
)


def report(fields=FIELDS, original=ORIGINAL, third="message/rfc822", second="message/feedback-report", **parameters):
    kind = {"report-type": "feedback-report", "boundary": "b1"} | parameters
    told = "".join(f'; {name}="{value}"' for name, value in kind.items() if value is not None)
    return (
        f"From: <abuse@provider.example>\nSubject: FW\nMIME-Version: 1.0\nContent-Type: multipart/report{told}\n\n"
        f"for nobody\n--b1\nContent-Type: text/plain\n\n{CANARY} complains\n\n--b1\nContent-Type: {second}\n\n{fields}\n"
        f"--b1\nContent-Type: {third}\n\n{original}\nthe content\n--b1--\n"
    ).encode()


def test_a_report_tells_about_the_mail():
    fields = FIELDS + "Incidents: 3\nArrival-Date: Thu, 8 Mar 2026 14:00:00 +0200\nSource-IP: 192.0.2.1\n"
    found = parse_report(report(fields))
    assert (found.feedback_type, found.incidents) == ("abuse", 3)
    assert found.arrived_at == datetime(2026, 3, 8, 12, 0, tzinfo=UTC)
    assert (found.message_id, found.account_id, found.sender_domain) == (MESSAGE, ACCOUNT, "shop.example")
    assert found.original_digest == sha256(f"<{MESSAGE}@shop.example>".encode()).digest()


def test_nothing_of_who_complains_is_kept():
    fields = FIELDS + f"Original-Rcpt-To: <{CANARY}>\nRemoval-Recipient: {CANARY}\n"
    assert CANARY not in repr(parse_report(report(fields)))


@pytest.mark.parametrize("third", ["message/rfc822", "text/rfc822-headers", "TEXT/RFC822-Headers; charset=us-ascii"])
def test_line_ends_and_both_forms_of_the_third_part_are_read(third):
    whole = parse_report(report(third=third))
    assert parse_report(report(third=third).replace(b"\n", b"\r\n")) == whole
    assert whole.message_id == MESSAGE


def test_a_report_as_the_standard_library_writes_it_is_read():
    original = EmailMessage()
    original["From"], original["Message-ID"] = "hello@shop.example", f"<{MESSAGE}@shop.example>"
    original.set_content("Grüße\n")
    mail = MIMEMultipart("report", **{"report-type": "feedback-report"})
    mail.attach(MIMEText("for a person"))
    fields = MIMENonMultipart("message", "feedback-report")
    fields.set_payload(FIELDS)
    mail.attach(fields)
    mail.attach(MIMEMessage(original))
    assert parse_report(mail.as_bytes()).message_id == MESSAGE


def test_a_third_part_in_base64_is_read():
    encoded = base64.encodebytes(ORIGINAL.encode()).decode()
    third = "text/rfc822-headers\nContent-Transfer-Encoding: base64"
    raw = report(original=encoded, third=third).replace(b"the content\n", b"")
    assert parse_report(raw).account_id == ACCOUNT


@pytest.mark.parametrize(
    "original",
    [
        "From: redacted\nMessage-ID: <r3dact3d@shop.example>\nSubject: x\n",
        f"From: x@[192.0.2.1]\nFeedback-ID: a:{ACCOUNT}:email:somebody\nMessage-ID: <{MESSAGE}>\n",
        "Received: from somewhere\n",
    ],
)
def test_a_redacted_or_foreign_mail_is_unmatched_and_not_malformed(original):
    found = parse_report(report(original=original))
    assert (found.message_id, found.account_id) == (None, None)


@pytest.mark.parametrize(("said", "understood"), [("FRAUD", "fraud"), ("virus", "virus"), ("x-new", "other")])
def test_types_are_read_in_any_case_and_unknown_ones_are_other(said, understood):
    assert parse_report(report(FIELDS.replace("abuse", said))).feedback_type == understood


@pytest.mark.parametrize(("said", "clause"), [("not-spam", "RFC 6430"), ("auth-failure", "RFC 6591")])
def test_what_complains_about_nobody_is_told_apart(said, clause):
    with pytest.raises(NotAComplaintError, match=clause):
        parse_report(report(FIELDS.replace("abuse", said)))


@pytest.mark.parametrize(
    ("raw", "field", "clause"),
    [
        (b"", "Content-Type", "RFC 5965, 2"),
        (b"Subject: hello\n\ntext", "Content-Type", "RFC 5965, 2"),
        (report(**{"report-type": "delivery-status"}), "Content-Type", "RFC 5965, 2"),
        (report(boundary=None), "Content-Type", "RFC 2046, 5.1.1"),
        (report(boundary="b" * 71), "Content-Type", "RFC 2046, 5.1.1"),
        (report(boundary="other"), "body", "RFC 5965, 2"),
        (report().partition(b"--b1\nContent-Type: message/rfc822")[0] + b"--b1--", "body", "RFC 5965, 2"),
        (report(second="text/plain"), "Content-Type", "RFC 5965, 2"),
        (report(third="text/plain"), "Content-Type", "RFC 5965, 2"),
        (report("User-Agent: x\nVersion: 1\n"), "Feedback-Type", "RFC 5965, 3.1"),
        (report("Feedback-Type: abuse\nVersion: 1\n"), "User-Agent", "RFC 5965, 3.1"),
        (report("Feedback-Type: abuse\nUser-Agent: x\n"), "Version", "RFC 5965, 3.1"),
        (report(FIELDS.replace("Version: 1", "Version: 2")), "Version", "RFC 5965, 3.1"),
        (report(FIELDS + "Feedback-Type: fraud\n"), "Feedback-Type", "RFC 5965, 3.1"),
        (report(FIELDS + "Incidents: 0\n"), "Incidents", "RFC 5965, 3.2"),
        (report(FIELDS + "Incidents: many\n"), "Incidents", "RFC 5965, 3.2"),
        (report(FIELDS + "Incidents: 1\nIncidents: 1\n"), "Incidents", "RFC 5965, 3.2"),
        (report(FIELDS + "Source-IP: 192.0.2.1\nsource-ip: 192.0.2.1\n"), "Source-IP", "RFC 5965, 3.2"),
        (report(FIELDS + "Arrival-Date: yesterday\n"), "Arrival-Date", "RFC 5965, 3.2"),
        (report(FIELDS + "no field at all\n"), "body", "RFC 5965, 3.5"),
        (report(FIELDS + "X: y\n" * 300), "body", "RFC 5965, 3.5"),
        (report(original="\n"), "body", "RFC 5965, 2"),
        (
            report(third="message/rfc822\nContent-Transfer-Encoding: base64", original="A"),
            "Content-Transfer-Encoding",
            "",
        ),
    ],
)
def test_what_is_malformed_names_the_field_and_the_clause(raw, field, clause):
    with pytest.raises(ArfError) as refused:
        parse_report(raw)
    assert refused.value.field == field
    assert refused.value.clause.startswith(clause)
    assert field in str(refused.value)
    assert CANARY not in str(refused.value)


def test_a_boundary_inside_the_mail_complained_about_ends_no_part():
    nested = ORIGINAL + "Content-Type: multipart/mixed; boundary=b11\n\n--b11\n\ntext\n--b11--\n --b1\n--b1x\n"
    assert parse_report(report(original=nested)).message_id == MESSAGE


def test_a_report_that_is_nested_without_end_is_read_in_linear_time():
    deep = "".join(f"Content-Type: multipart/mixed; boundary=x{n}\n\n--x{n}\n" for n in range(10_000))
    raw = report(original=ORIGINAL + deep)[:REPORT_BYTES_MAX]
    assert parse_report(raw).account_id == ACCOUNT


@pytest.mark.parametrize(
    "parameters",
    ['x="' + ";" * 65_000, ";a*0*=b" * 8_000, "a*" + "9" * 5_000 + "=1", "\n ".join(["a*" + "9" * 1_990 + "=1"] * 30)],
)
def test_a_content_type_that_would_take_long_is_refused_at_once(parameters):
    started = time.process_time()
    for kind in (b"multipart/report", b"message/feedback-report", b"message/rfc822"):
        with pytest.raises(ArfError, match="Content-Type"):
            parse_report(report().replace(kind, kind + b"; " + parameters.encode()))
    assert time.process_time() - started < 0.25


def test_numbered_pieces_of_a_parameter_are_read_or_refused():
    assert parse_report(report().replace(b"multipart/report", b"multipart/report; a*0=1; a*1=2")).account_id == ACCOUNT
    with pytest.raises(ArfError, match="RFC 2231"):
        parse_report(report().replace(b"multipart/report", b"multipart/report; a*=1; a*0=2"))


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(raw):
    with pytest.raises(ArfError):
        parse_report(raw)


@settings(max_examples=300)
@given(st.data())
def test_a_report_that_was_damaged_anywhere_is_read_or_refused(data):
    raw = bytearray(report(FIELDS + "Incidents: 3\nArrival-Date: Thu, 8 Mar 2026 14:00:00 +0200\n"))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(raw)))
        raw[start : start + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    try:
        found = parse_report(bytes(raw))
    except ArfError:
        return
    assert found.feedback_type in ("abuse", "fraud", "virus", "other")
    assert 1 <= found.incidents <= 1_000_000


@given(
    st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=40).filter(
        lambda text: text[0].isalnum()
    ),
    st.uuids(version=4),
)
def test_whatever_account_and_message_a_mail_names_is_found(account, uuid):
    message = str(uuid)[:14] + "7" + str(uuid)[15:]
    original = f"Feedback-ID: order:{account}:email:waystation\nMessage-ID:\n <{message}@shop.example>\n"
    found = parse_report(report(original=original))
    assert (found.account_id, found.message_id) == (account, message)
