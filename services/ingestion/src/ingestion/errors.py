"""What can go wrong at the door, beside the refusals that a caller gets as problem documents.

RetryableError (common)
    └── SealUnavailableError    the vault does not seal right now: 503, nothing was kept
RulesFileError                  the deployment is wrong: the process does not start
"""

from __future__ import annotations

from common.kafka.consumer import RetryableError


class SealUnavailableError(RetryableError):
    """The vault cannot seal now, or not for this door; nothing of the batch was kept."""


class RulesFileError(Exception):
    """The file of the rules in force cannot be read; the text names the file and what is wrong."""
