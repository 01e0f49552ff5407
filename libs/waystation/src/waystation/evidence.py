"""The signed statements of one message, fetched from a running stack, for `trace --proof` and `verify MESSAGE_ID`."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from common.events.routing import ReceiptIssued
from common.events.screening import VerdictRevised
from common.kafka.publisher import partition_of
from common.security.signing import SignatureError, Signed, TrustedKeys
from waystation.errors import CommandError
from waystation.operator import OPERATOR, RefusedError, ServiceClient
from waystation.proof.documents import document
from waystation.stack.kafka import client_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.security.signing import Purpose
    from waystation.stack import Stack

TIMEOUT_SECONDS = 15.0
CLOCKS_APART = timedelta(minutes=5)


def collect(stack: Stack, message_id: str) -> dict[str, Any]:
    """Return the proof document of a message: instruction from the door, verdict from moderation, the rest from Kafka.

    Raises:
        CommandError: the door does not know the message, or something does not answer.
    """
    path = quote(message_id, safe="")
    with ServiceClient(stack) as services:
        admission = services.get("ingestion", f"/v1/messages/{path}")
        verdict = _verdict(services, path)
    signed: list[tuple[Purpose, Any]] = [("instruction", admission["acceptance"])]
    if verdict is not None:
        signed.append(("verdict", verdict))
    since = datetime.fromisoformat(admission["admitted_at"]) - CLOCKS_APART
    about = (admission["recipient_token"], admission["id"], since)
    signed += [("verdict", one) for one in _numbered(stack, VerdictRevised.TOPIC, "verdict", "revision", about)]
    signed += [("receipt", one) for one in _numbered(stack, ReceiptIssued.TOPIC, "receipt", "sequence", about)]
    return document(admission["id"], signed)


def _verdict(services: ServiceClient, path: str) -> Any | None:
    try:
        return services.get("moderation", f"/v1/verdicts/{path}")["verdict"]
    except RefusedError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def _numbered(stack: Stack, topic: str, purpose: Purpose, number: str, about: tuple[str, str, datetime]) -> list[Any]:
    """Return what was said of a message in a topic, and really signed: each number once, in order."""
    token, message_id, since = about
    keys = TrustedKeys.from_folder(purpose, stack.trusted_keys)
    found: dict[int, Any] = {}
    for body in _records(stack, topic, token.encode(), since):
        signed = body.get("receipt") or body.get("revision") or {}
        statement = signed.get("statement") or {}
        if statement.get("message_id") == message_id and number in statement and _is_genuine(signed, keys):
            found.setdefault(int(statement[number]), signed)
    return [found[one] for one in sorted(found)]


def _is_genuine(signed: Any, keys: TrustedKeys) -> bool:
    """Whoever may write to Kafka can write anything; what no service signed is no evidence."""
    try:
        keys.verify(Signed.model_validate(signed))
    except (SignatureError, ValueError):
        return False
    return True


def _records(stack: Stack, topic: str, key: bytes, since: datetime) -> Iterator[dict[str, Any]]:
    """Read the bodies under one key, from a time to the present end of its partition."""
    access = stack.kafka_credentials(OPERATOR)
    options = {
        **client_options(access.bootstrap, access.username, access.password),
        "group.id": "waystation.evidence",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 20,
    }
    with closing(Consumer(options)) as consumer:
        try:
            partitions = len(consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic].partitions)
            place = TopicPartition(topic, partition_of(key, partitions), int(since.timestamp() * 1000))
            consumer.assign(consumer.offsets_for_times([place], timeout=TIMEOUT_SECONDS))
            yield from _to_the_end(consumer, key)
        except KafkaException as error:
            raise CommandError(
                f"Kafka did not give the statements: {error.args[0].str()}", "see whether it runs: waystation status"
            ) from error


def _to_the_end(consumer: Consumer, key: bytes) -> Iterator[dict[str, Any]]:
    while True:
        message: Any = consumer.poll(TIMEOUT_SECONDS)
        if message is None:
            raise CommandError("Kafka did not give the statements in time", "try again")
        if message.error() is not None:
            if message.error().code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  its public name
                return
            raise KafkaException(message.error())
        if message.key() == key:
            try:
                body = json.loads(message.value() or b"null")
            except ValueError:
                continue
            if isinstance(body, dict):
                yield body
