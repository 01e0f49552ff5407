from __future__ import annotations

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError
from httpx import ConnectError

from common.kafka.consumer import RETRYABLE
from common.kafka.publisher import PublishError


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError,
        TimeoutError,
        KafkaConnectionError,
        PublishError,
        ConnectError,
        asyncpg.AdminShutdownError,
        asyncpg.CannotConnectNowError,
        asyncpg.ConnectionDoesNotExistError,
        asyncpg.InternalClientError,
        asyncpg.DeadlockDetectedError,
        asyncpg.TooManyConnectionsError,
    ],
)
def test_what_a_lost_server_raises_is_an_outage_and_no_bug(error):
    assert issubclass(error, RETRYABLE)


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, AssertionError, asyncpg.UniqueViolationError, asyncpg.DataError]
)
def test_what_a_record_trips_is_a_bug_and_no_outage(error):
    assert not issubclass(error, RETRYABLE)
