from __future__ import annotations

from types import SimpleNamespace

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError

from common.events import MessageAdmitted
from common.http.health import consumer_check
from common.http.vault import VaultUnavailableError
from common.kafka.consumer import FETCH_WAIT_MS, RETRYABLE, Subscription
from common.kafka.publisher import PublishError


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError,
        TimeoutError,
        KafkaConnectionError,
        PublishError,
        VaultUnavailableError,
        asyncpg.AdminShutdownError,
        asyncpg.CannotConnectNowError,
        asyncpg.ConnectionDoesNotExistError,
        asyncpg.InternalClientError,
        asyncpg.DeadlockDetectedError,
        asyncpg.TooManyConnectionsError,
        asyncpg.ReadOnlySQLTransactionError,
        asyncpg.TargetServerAttributeNotMatched,
        asyncpg.IdleInTransactionSessionTimeoutError,
        asyncpg.LockNotAvailableError,
        asyncpg.InvalidCachedStatementError,
        asyncpg.InvalidPasswordError,
        asyncpg.InvalidCatalogNameError,
    ],
)
def test_what_a_lost_server_raises_is_an_outage_and_no_bug(error):
    assert issubclass(error, RETRYABLE)


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, AssertionError, asyncpg.UniqueViolationError, asyncpg.DataError]
)
def test_what_a_record_trips_is_a_bug_and_no_outage(error):
    assert not issubclass(error, RETRYABLE)


def adapted(consumer):
    """A subscription over a client that does what a test says."""
    subscription = Subscription(
        MessageAdmitted, "some.group", handler=None, publisher=None, instance="i", backoff_seconds_max=0.01
    )
    subscription._subscriber = SimpleNamespace(consumer=consumer)
    subscription._adapt()
    return subscription


async def test_a_record_the_client_cannot_decode_makes_its_group_not_ready_instead_of_hot():
    fetched = []

    class Consumer:
        async def getmany(self, *, timeout_ms):
            fetched.append(timeout_ms)
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

        async def stop(self):
            """Nothing to stop."""

    subscription = adapted(Consumer())
    subscription._adapt()
    with pytest.raises(UnicodeDecodeError):
        await subscription._subscriber.consumer.getmany(timeout_ms=10)
    assert fetched == [FETCH_WAIT_MS]
    assert "UnicodeDecodeError" in await consumer_check(subscription)()


async def test_what_kafka_refused_to_each_partition_is_passed_over_at_once_when_it_does_no_longer():
    refused = [TopicAuthorizationFailedError()] * 4

    class Consumer:
        def assignment(self):
            return {0, 1, 2, 3}

        async def getmany(self, *, timeout_ms):
            if refused:
                raise refused.pop()
            return {0: ["record"]}

        async def stop(self):
            """Nothing to stop."""

    subscription = adapted(Consumer())
    fetch = subscription._subscriber.consumer.getmany
    assert await fetch(timeout_ms=10) == {0: ["record"]}
    assert "waits: TopicAuthorizationFailedError" in await consumer_check(subscription)()
    assert await fetch(timeout_ms=10) == {0: ["record"]}
    assert "no assignment yet" in await consumer_check(subscription)()
