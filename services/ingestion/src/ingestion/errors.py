"""What can go wrong at the door, beside the refusals that a caller gets as problem documents.

RetryableError (common)
    └── SealUnavailableError    the vault does not seal right now: 503, nothing was kept
RulesFileError                  the deployment is wrong: the process does not start
"""

from __future__ import annotations

from common.http.openapi import Refusal
from common.kafka.consumer import RetryableError

NO_KEY = Refusal(401, "no-key", "there is no API key in the Authorization header")
UNKNOWN_KEY = Refusal(401, "unknown-key", "the API key is not known here")
EXPIRED_KEY = Refusal(401, "expired-key", "the API key has expired")
INVALID_UTF_8 = Refusal(400, "invalid-utf-8", "the body is not UTF-8")
NO_GRANT = Refusal(403, "no-grant", "the user of the key has no live grant for the tool (clause R4.1)")
RULES_NOT_ACCEPTED = Refusal(403, "rules-not-accepted", "the account has not accepted the rules in force (clause R0)")
ACCOUNT_BLOCKED = Refusal(403, "account-blocked", "the account is blocked (clause R7)")
UNKNOWN_MESSAGE = Refusal(404, "unknown-message", "the account has no message with this id")
UNKNOWN_ACCOUNT = Refusal(404, "unknown-account", "there is no account with this id")
ACCOUNT_EXISTS = Refusal(409, "account-exists", "there is an account of this name")
KEY_IN_USE = Refusal(
    409, "idempotency-key-in-use", "an item of the same moment used the idempotency key and was refused; send it again"
)
BODY_TOO_LARGE = Refusal(413, "body-too-large", "the body is larger than 37,748,736 bytes (36 MiB)")
CONTENT_TOO_LARGE = Refusal(413, "content-too-large", "the final mail is larger than `limit` bytes")
BATCH_TOO_LARGE = Refusal(422, "batch-too-large", "there are more than 500 items")
UNKNOWN_TOOL = Refusal(422, "unknown-tool", "the door does not carry messages by this tool")
UNKNOWN_INBOX = Refusal(422, "unknown-inbox", "the account has no such inbox for this tool")
NOT_THE_INBOX = Refusal(422, "sender-is-not-the-inbox", "From of the own mail is not the address of the inbox")
INVALID_ADDRESS = Refusal(422, "invalid-address", "`field` is no address that mail can go to or come from")
INVALID_CONTENT = Refusal(422, "invalid-content", "`field` of the content cannot be carried as it is")
INVALID_WINDOW = Refusal(422, "invalid-window", "the validity window is empty, over, or ends later than in 30 days")
NO_LEGAL_BASIS = Refusal(422, "no-legal-basis", "nobody vouches for a legal basis (clause R4.3)")
KEY_REUSED = Refusal(422, "idempotency-key-reused", "other content was admitted under this idempotency key")
VERSION_NOT_IN_FORCE = Refusal(422, "rules-version-not-in-force", "another version of the rules is in force")
ACCOUNT_ENDED = Refusal(410, "account-ended", "the account has ended: the vault keeps nothing for it any more")
INTEGRITY_FAILED = Refusal(500, "integrity-failed", "stored data of this recipient do not open; tell an operator")
RATE_EXCEEDED = Refusal(429, "rate-exceeded", "the account sends faster than 10,000 messages a second")
ROAD_CONGESTED = Refusal(503, "road-congested", "the road is behind; batches are refused before single messages")
DOOR_BUSY = Refusal(503, "door-busy", "too much waits at the door, or too many large bodies arrive at once")


class SealUnavailableError(RetryableError):
    """The vault cannot seal now, or not for this door; nothing of the batch was kept."""


class RulesFileError(Exception):
    """The file of the rules in force cannot be read; the text names the file and what is wrong."""
