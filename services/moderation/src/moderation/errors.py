"""What can go wrong here, in three kinds.

RetryableError (common)
    └── ScreeningUnavailableError   a service that screening needs does not serve us now: the batch waits
RefusedRecordError                  one record is not what it claims to be: counted as unauthorised, never opened
PolicyError                         the policy file cannot be used: the service does not start
TrialError                          a policy could not be tried: what is in force stays, it is tried again
"""

from __future__ import annotations

from common.kafka.consumer import RetryableError
from moderation.policy.errors import PolicyError, TrialError

__all__ = ["PolicyError", "RefusedRecordError", "ScreeningUnavailableError", "TrialError"]


class ScreeningUnavailableError(RetryableError):
    """The vault does not serve this service now; the batch waits and is read again."""


class RefusedRecordError(Exception):
    """A record that no genuine instruction stands behind; the text is the reason that operators read."""
