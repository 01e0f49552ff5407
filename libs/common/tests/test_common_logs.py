from __future__ import annotations

import logging

from common.telemetry.logs import OncePerOutage


def record(name, message):
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, (), None)


def test_a_client_that_cannot_connect_says_so_once():
    once = OncePerOutage()
    lost = [once.filter(record("aiokafka.consumer.fetcher", "no connection")) for _ in range(5)]
    assert lost == [True, False, False, False, False]
    assert once.filter(record("aiokafka.consumer.fetcher", "another trouble"))


def test_what_our_own_code_says_is_never_left_out():
    once = OncePerOutage()
    assert all(once.filter(record("common.kafka.consumer", "group a dead-lettered 1 records")) for _ in range(3))
