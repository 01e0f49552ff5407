from __future__ import annotations

import io

import pytest

from waystation.errors import CommandError
from waystation.feedback import REPORT_BYTES_MAX, FiledReport, file_report, read_report
from waystation.operator import RefusedError

RECEIPT = {"id": "c-1", "account_id": None, "message_id": None, "sender_domain": None}


class FakeServices:
    """Answers as enforcement and the door do; `messages` are account ids by message id."""

    def __init__(self, messages=None, accounts=(), **receipt):
        self.messages = messages or {}
        self.accounts = accounts
        self.receipt = {**RECEIPT, **receipt}
        self.assigned = []

    def post_mail(self, service, path, mail):
        assert (service, path) == ("enforcement", "/v1/complaints:report")
        return self.receipt

    def get(self, service, path, params=None):
        if path == "/v1/accounts":
            return {"items": list(self.accounts)}
        message = path.rpartition("/")[2]
        if message not in self.messages:
            raise RefusedError(404, "unknown-message")
        return {"account_id": self.messages[message]}

    def post(self, service, path, body=None):
        self.assigned.append((path, body["account_id"]))


def test_a_report_that_names_the_account_is_about_it():
    services = FakeServices({"m-1": "a-1"}, account_id="a-1", message_id="m-1")
    filed = file_report(services, b"")
    assert (filed.account_id, filed.found_by, filed.warning) == ("a-1", "Feedback-ID", None)
    assert services.assigned == []
    assert "complaints confirm c-1" in filed.text()


@pytest.mark.parametrize(("messages", "words"), [({"m-1": "a-2"}, "of account a-2"), ({}, "has no message m-1")])
def test_a_mail_that_names_another_account_than_the_door_is_doubted(messages, words):
    filed = file_report(FakeServices(messages, account_id="a-1", message_id="m-1"), b"")
    assert words in filed.warning
    assert "forged" in filed.text()


def test_a_report_that_names_only_the_message_is_assigned_by_what_the_door_knows():
    services = FakeServices({"m-1": "a-1"}, message_id="m-1")
    assert (file_report(services, b"").account_id, services.assigned) == ("a-1", [("/v1/complaints/c-1:assign", "a-1")])


def test_without_a_match_accounts_of_the_same_domain_are_named():
    accounts = [
        {"id": "a-1", "inboxes": ["hello@shop.example"]},
        {"id": "a-2", "inboxes": ["hello@notshop.example", "x@other.example"]},
    ]
    filed = file_report(FakeServices(accounts=accounts, sender_domain="shop.example"), b"")
    assert (filed.account_id, filed.candidates) == (None, ("a-1",))
    assert "assign c-1 --account a-1" in filed.text()


def test_without_any_hint_the_next_step_is_named():
    assert "keep the report" in file_report(FakeServices(), b"").text()


def test_other_errors_than_an_unknown_message_are_not_swallowed():
    class Down(FakeServices):
        def get(self, service, path, params=None):
            raise RefusedError(503, "away")

    with pytest.raises(RefusedError):
        file_report(Down(message_id="m-1"), b"")


def test_a_report_comes_from_a_file_or_from_standard_input(tmp_path):
    (tmp_path / "a.arf").write_bytes(b"mail")
    assert read_report(str(tmp_path / "a.arf"), io.BytesIO()) == b"mail"
    assert read_report("-", io.BytesIO(b"piped")) == b"piped"


def test_what_cannot_be_read_or_is_too_large_is_told(tmp_path):
    with pytest.raises(CommandError, match="cannot be read"):
        read_report(str(tmp_path / "none"), io.BytesIO())
    with pytest.raises(CommandError, match="larger than 1048576 bytes"):
        read_report("-", io.BytesIO(b"x" * (REPORT_BYTES_MAX + 1)))


def test_a_report_can_be_printed_as_json():
    assert FiledReport("c", None, None, None).candidates == ()
