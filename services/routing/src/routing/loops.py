"""How routing's loops go on after an outage: soon, as messages wait."""

from __future__ import annotations

from common.http.vault import VaultRefusedError
from common.kafka.consumer import RETRYABLE
from common.loops import Loops

RETRY_SECONDS_MAX = 2.0


def new_loops() -> Loops:
    """Return loops that try again within two seconds; a vault that refuses this service is an outage, too."""
    return Loops(retry_seconds_max=RETRY_SECONDS_MAX, outages=(*RETRYABLE, VaultRefusedError))
