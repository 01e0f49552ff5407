"""What can be wrong with a policy; apart from the service's other errors, which need Kafka's library."""

from __future__ import annotations


class PolicyError(Exception):
    """A policy file cannot be used; the text names line, column and what to change."""


class TrialError(Exception):
    """A policy could not be tried, so that nothing is known of it: it is tried again."""
