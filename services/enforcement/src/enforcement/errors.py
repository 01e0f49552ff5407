"""What can go wrong here, in the three kinds that every service has.

Retryable: PostgreSQL or Kafka is away (`common.kafka.consumer.RETRYABLE`); the relay waits, a caller gets 503.
Rejected: a `Problem` (RFC 9457), made by the functions below.
Bug: anything else, among it RevisionError.
"""

from __future__ import annotations

from common.http.openapi import Refusal
from common.http.problems import Problem
from enforcement.arf import ArfError, NotAComplaintError

ACCOUNT_COMPLAINTS_MAX = 1_000
UNMATCHED_COMPLAINTS_MAX = 10_000
ALL_COMPLAINTS_MAX = 100_000
_RETRY_SECONDS = 3600
_RECONCILED_SECONDS = 2

BODY_TOO_LARGE = Refusal(413, "body-too-large", "the body is larger than `limit` bytes")
TOO_MANY_COMPLAINTS = Refusal(
    429, "too-many-complaints", "`limit` complaints wait for a decision already, about this account or in all"
)
KEY_REUSED = Refusal(422, "idempotency-key-reused", "the Idempotency-Key was used for another complaint")
MALFORMED_REPORT = Refusal(422, "malformed-report", "the mail is no feedback report; `field` and `clause` say where")
NOT_A_COMPLAINT = Refusal(422, "not-a-complaint", "it reports something else (not-spam, auth-failure)")
NOT_A_MAIL = Refusal(415, "unsupported-media-type", "the body is not sent as message/rfc822")
INVALID_COMPLAINANT = Refusal(
    422, "invalid-complainant", "the vault does not take `field` as an address, a name or a language"
)
ACCOUNT_UNKNOWN = Refusal(409, "account-unknown", "nobody has said yet which account the complaint is about")
ACCOUNT_KNOWN = Refusal(409, "account-known", "the complaint is about another account already, or was decided")
UNKNOWN_COMPLAINT = Refusal(404, "unknown-complaint", "there is no complaint with this id")
COMPLAINT_DECIDED = Refusal(
    409, "complaint-decided", "the complaint was decided the other way before; `state` says how"
)


class RevisionError(RuntimeError):
    """A standing moved although its row was locked: a bug."""


def account_is_full() -> Problem:
    """Too many complaints about one account wait for a decision."""
    return Problem(
        TOO_MANY_COMPLAINTS.status,
        TOO_MANY_COMPLAINTS.kind,
        f"{ACCOUNT_COMPLAINTS_MAX} complaints about this account wait for a decision already; they are being looked at,"
        " try again later",
        field="account_id",
        limit=ACCOUNT_COMPLAINTS_MAX,
        retry_after_seconds=_RETRY_SECONDS,
    )


def all_is_full() -> Problem:
    """Too many complaints wait for a decision, whoever they are about."""
    return Problem(
        TOO_MANY_COMPLAINTS.status,
        TOO_MANY_COMPLAINTS.kind,
        f"{ALL_COMPLAINTS_MAX} complaints wait for a decision; none is taken before some are decided, try again later",
        limit=ALL_COMPLAINTS_MAX,
        retry_after_seconds=_RETRY_SECONDS,
    )


def unmatched_are_full() -> Problem:
    """Too many complaints wait for somebody to find out whom they are about."""
    return Problem(
        TOO_MANY_COMPLAINTS.status,
        TOO_MANY_COMPLAINTS.kind,
        f"{UNMATCHED_COMPLAINTS_MAX} reports wait already for a person to find out which account they are about",
        limit=UNMATCHED_COMPLAINTS_MAX,
        retry_after_seconds=_RETRY_SECONDS,
    )


def account_unknown() -> Problem:
    """A complaint cannot be confirmed against nobody."""
    detail = "nobody has said yet which account this complaint is about: assign it first, or dismiss it"
    return Problem(ACCOUNT_UNKNOWN.status, ACCOUNT_UNKNOWN.kind, detail)


def account_known() -> Problem:
    """A complaint is assigned once."""
    detail = "this complaint is about another account already, or was decided: file a new one if it is wrong"
    return Problem(ACCOUNT_KNOWN.status, ACCOUNT_KNOWN.kind, detail)


def not_a_mail() -> Problem:
    """A feedback report is sent as what it is."""
    detail = "send the report as it is, with Content-Type: message/rfc822"
    return Problem(NOT_A_MAIL.status, NOT_A_MAIL.kind, detail, field="Content-Type")


def malformed_report(error: ArfError) -> Problem:
    """A mail that is no feedback report, or one that complains about nothing."""
    refusal = NOT_A_COMPLAINT if isinstance(error, NotAComplaintError) else MALFORMED_REPORT
    return Problem(refusal.status, refusal.kind, str(error), field=error.field, clause=error.clause)


def key_reused() -> Problem:
    """An idempotency key came back with another complaint."""
    return Problem(
        KEY_REUSED.status,
        KEY_REUSED.kind,
        "Idempotency-Key was used for another complaint; send a new key with each new complaint",
        field="Idempotency-Key",
    )


def invalid_complainant(field: object) -> Problem:
    """The vault does not take what is said about the person who complains."""
    known = field in ("address", "name", "language")
    where = f"complainant.{field}" if known else "complainant"
    detail = f"{where}: the vault does not take it; correct it, or complain without saying who you are"
    return Problem(INVALID_COMPLAINANT.status, INVALID_COMPLAINANT.kind, detail, field=where)


def not_kept() -> Problem:
    """The vault has no place for complainants: their account ended there, or its row was changed."""
    detail = "the vault cannot keep who complains: tell the operator, or complain without saying who you are"
    return Problem(503, "unavailable", detail, field="complainant", retry_after_seconds=_RETRY_SECONDS)


def unknown_complaint() -> Problem:
    """There is no such complaint."""
    detail = "there is no complaint with this id; GET /v1/complaints lists them"
    return Problem(UNKNOWN_COMPLAINT.status, UNKNOWN_COMPLAINT.kind, detail)


def decided_otherwise(state: str) -> Problem:
    """A complaint that was confirmed cannot be dismissed, nor the other way round."""
    return Problem(
        COMPLAINT_DECIDED.status,
        COMPLAINT_DECIDED.kind,
        f"this complaint was {state} before and stays so; to change what follows from it, set the account's standing",
        state=state,
    )


def not_reconciled() -> Problem:
    """The revisions on Kafka are not known yet, so the next number is not either."""
    detail = "the standings on Kafka have not been read since this service started; is Kafka reachable? try again"
    return Problem(503, "unavailable", detail, retry_after_seconds=_RECONCILED_SECONDS)
