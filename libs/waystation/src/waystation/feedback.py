"""`waystation complaints file --arf FILE`: a feedback report goes to enforcement, and is matched where that could not.

Enforcement finds the account by what stands in the mail complained about. When only our message id stands there, the
door knows whose message it is; when neither does, accounts that send from the same domain are named to the person.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import quote

from waystation.errors import CommandError
from waystation.operator import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

REPORT_BYTES_MAX = 1024 * 1024
NOT_FOUND = 404


class Services(Protocol):
    """What is needed of the services; `waystation.operator.ServiceClient` has it."""

    def get(self, service: str, path: str, params: Mapping[str, str | int | None] | None = None) -> Any:
        """Return the JSON answer of a GET."""

    def post(self, service: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON answer of a POST."""

    def post_mail(self, service: str, path: str, mail: bytes) -> Any:
        """Return the JSON answer of a POST of a mail as it is."""


@dataclass(frozen=True, slots=True)
class FiledReport:
    """A report as it was filed: the account if one was found and how, else the accounts that could be meant."""

    id: str
    account_id: str | None
    message_id: str | None
    found_by: str | None
    candidates: tuple[str, ...] = ()
    warning: str | None = None

    def text(self) -> str:
        """What a person needs to know of it."""
        if self.account_id is None:
            return "\n".join([f"{self.id} received; nobody knows yet whose message it is about", *self._next_steps()])
        lines = [f"{self.id} received about account {self.account_id} ({self.found_by})"]
        lines += [f"warning: {self.warning}"] if self.warning else []
        return "\n".join([*lines, f"decide on it: waystation complaints confirm {self.id} ..."])

    def _next_steps(self) -> list[str]:
        if not self.candidates:
            return [f"say it: waystation complaints assign {self.id} --account ACCOUNT; keep the report until then"]
        return [f"perhaps: waystation complaints assign {self.id} --account {each}" for each in self.candidates]


def read_report(name: str, standard_input: BinaryIO) -> bytes:
    """Return the bytes of a report's file, or of standard input for `-`.

    Raises:
        CommandError: it cannot be read or is larger than 1 MiB.
    """
    try:
        if name == "-":
            raw = standard_input.read(REPORT_BYTES_MAX + 1)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(REPORT_BYTES_MAX + 1)
    except OSError as error:
        raise CommandError(f"{name}: cannot be read ({error.strerror})", "check the name and its permissions") from None
    if len(raw) > REPORT_BYTES_MAX:
        advice = "of the mail complained about its header is enough (text/rfc822-headers)"
        raise CommandError(f"{name}: is larger than {REPORT_BYTES_MAX} bytes", advice)
    return raw


def file_report(services: Services, raw: bytes) -> FiledReport:
    """File a report and say which account it is about, as far as that can be found out.

    Raises:
        CommandError: it is no feedback report (the text names the field and the clause), or a service is away.
    """
    receipt = services.post_mail("enforcement", "/v1/complaints:report", raw)
    complaint_id, account_id, message_id = receipt["id"], receipt["account_id"], receipt["message_id"]
    owner = None if message_id is None else _owner(services, message_id)
    if account_id is not None:
        return FiledReport(
            complaint_id, account_id, message_id, "Feedback-ID", warning=_doubt(account_id, owner, message_id)
        )
    if owner is not None:
        services.post("enforcement", f"/v1/complaints/{quote(complaint_id, safe='')}:assign", {"account_id": owner})
        return FiledReport(complaint_id, owner, message_id, "Message-ID")
    return FiledReport(complaint_id, None, message_id, None, _candidates(services, receipt["sender_domain"]))


def _owner(services: Services, message_id: str) -> str | None:
    """Return whose message it is by the door's own rows, None when the door has none of that id."""
    try:
        return str(services.get("ingestion", f"/v1/messages/{quote(message_id, safe='')}")["account_id"])
    except RefusedError as refused:
        if refused.status == NOT_FOUND:
            return None
        raise


def _doubt(account_id: str, owner: str | None, message_id: str | None) -> str | None:
    """Return what does not fit: Feedback-ID and Message-ID stand in a mail that anybody may have written."""
    if message_id is None or owner == account_id:
        return None
    if owner is None:
        return f"the door has no message {message_id}; the mail may be forged"
    return f"the door says that message {message_id} is of account {owner}; the mail may be forged"


def _candidates(services: Services, domain: str | None) -> tuple[str, ...]:
    if domain is None:
        return ()
    accounts = services.get("ingestion", "/v1/accounts")["items"]
    sending = [each["id"] for each in accounts if any(inbox.endswith(f"@{domain}") for inbox in each["inboxes"])]
    return tuple(sending)
