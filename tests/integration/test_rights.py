"""Each service's PostgreSQL role, Kafka principal and token opens what is its own, and nothing else.

What may be done is derived from `deploy/topics.yaml`, so a new topic is tried here by itself.
"""

from __future__ import annotations

import time

import asyncpg
import httpx
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from on_the_road import GROUPS, KAFKA_SECONDS, REGISTRY

from common.ids import new_id
from common.kafka.records import Record
from common.security.tokens import TokenIssuer
from waystation.rehearsal import items
from waystation.stack import HOST, SERVICES
from waystation.stack.credentials import OPERATOR, SUPERUSER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PRINCIPALS = (*SERVICES, OPERATOR)
TOPICS = tuple(topic.name for topic in REGISTRY.all_topics)
DAY_MS = 86_400_000


# PostgreSQL


def roles():
    return [role for service in SERVICES for role in (service, f"{service}_owner")]


async def connected(stack, database, role, password=None):
    address = stack.dsn(database, role)
    if password is not None:
        address = address.replace(stack.passwords().postgres[role], password)
    return await asyncpg.connect(address, timeout=10)


@pytest.mark.parametrize("role", roles())
async def test_a_role_connects_to_its_own_database_only(stack, role):
    own = role.removesuffix("_owner")
    for database in (*SERVICES, "postgres", "template1"):
        if database == own:
            await (await connected(stack, database, role)).close()
            continue
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connected(stack, database, role)


@pytest.mark.parametrize("role", roles())
async def test_a_wrong_password_is_refused(stack, role):
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connected(stack, role.removesuffix("_owner"), role, password="not-the-password")


@pytest.mark.parametrize("service", SERVICES)
async def test_a_runtime_role_reads_and_writes_its_rows_and_changes_nothing_else(stack, service):
    connection = await connected(stack, service, service)
    try:
        tables = [
            row["tablename"]
            for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
        data = [table for table in tables if await may(connection, table, "SELECT")]
        assert data
        for table in data:
            await connection.fetch(f"SELECT * FROM {table} LIMIT 1")
        assert set(tables) - set(data) <= {"schema_migrations"}
        some = data[0]
        for statement in (
            "CREATE TABLE public.mine (id integer)",
            "CREATE TEMPORARY TABLE mine (id integer)",
            "CREATE SCHEMA mine",
            "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
            "CREATE EXTENSION dblink",
            "CREATE ROLE mine",
            f"ALTER TABLE {some} ADD COLUMN mine integer",
            f"DROP TABLE {some}",
            f"TRUNCATE {some}",
            f"CREATE INDEX ON {some} ((1))",
            f"SET ROLE {service}_owner",
            f"SET ROLE {SUPERUSER}",
            f"SET SESSION AUTHORIZATION {SUPERUSER}",
            "SELECT rolpassword FROM pg_authid",
            "SELECT pg_read_file('postgresql.conf')",
            "SELECT pg_ls_dir('.')",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            f"COPY {some} TO '/tmp/mine'",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
        ):
            await refused(connection, statement)
        for outside_transactions in ("CREATE DATABASE mine", "ALTER SYSTEM SET fsync = off"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(outside_transactions)
    finally:
        await connection.close()


async def may(connection, table, right):
    return await connection.fetchval("SELECT has_table_privilege($1, $2)", f"public.{table}", right)


async def refused(connection, statement):
    """Every refusal is one of rights; a statement that would do something is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
        pytest.fail(f"was allowed: {statement}")
    except asyncpg.InsufficientPrivilegeError:
        pass
    finally:
        await transaction.rollback()


async def test_the_vault_cannot_change_its_ledger_and_its_access_log(stack):
    connection = await connected(stack, "vault", "vault")
    try:
        for table, column in (("disclosures", "token"), ("access_log", "caller")):
            for statement in (f"UPDATE {table} SET {column} = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table}"):
                await refused(connection, statement)
    finally:
        await connection.close()


# Kafka


def has(principal, kind, name, operation):
    return any(
        acl.principal == principal and acl.resource == kind and acl.name in (name, "*") and acl.operation == operation
        for acl in REGISTRY.acls()
    )


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_a_principal_writes_to_the_topics_of_the_registry_only(road, bus, principal):
    """Kafka looks at rights before it looks at a record: one of tomorrow shows the right and is stored nowhere."""
    tomorrow = int(time.time() * 1000) + DAY_MS
    records = [Record(topic, b"k", b"v", ()) for topic in TOPICS]
    errors = bus.write(principal, records, timestamp_ms=tomorrow)
    expected = {
        topic: "INVALID_TIMESTAMP" if has(principal, "TOPIC", topic, "WRITE") else "TOPIC_AUTHORIZATION_FAILED"
        for topic in TOPICS
    }
    assert {topic: error.name() for topic, error in zip(TOPICS, errors, strict=True)} == expected


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_a_principal_reads_the_topics_of_the_registry_only(road, bus, principal):
    options = {"group.id": "tests.rights", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({**bus.options(principal), **options, "fetch.wait.max.ms": 20})
    try:
        answers = {topic: hidden for topic in TOPICS if (hidden := metadata_error(consumer, topic)) is not None}
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in TOPICS if topic not in answers])
        while len(answers) < len(TOPICS):
            message = consumer.poll(KAFKA_SECONDS)
            assert message is not None, f"no answer about {set(TOPICS) - set(answers)}"
            if message.topic() is None:
                continue  # that there is no right to the consumer's group
            code = message.error().code() if message.error() else KafkaError._PARTITION_EOF
            answers.setdefault(message.topic(), code)
    finally:
        consumer.close()
    expected = {
        topic: KafkaError._PARTITION_EOF
        if has(principal, "TOPIC", topic, "READ")
        else KafkaError.TOPIC_AUTHORIZATION_FAILED
        for topic in TOPICS
    }
    assert answers == expected


def metadata_error(consumer, topic):
    """Who may read a topic may also see that it exists."""
    error = consumer.list_topics(topic, timeout=KAFKA_SECONDS).topics[topic].error
    return None if error is None else error.code()


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_a_principal_takes_part_in_its_own_groups_only(road, bus, principal):
    """A commit from outside is refused for rights, or because the group has members: nothing moves."""
    admin = AdminClient(bus.options(principal))
    answers = {}
    for group in (*GROUPS, f"{principal}.another", "tests.another"):
        topic = GROUPS.get(group) or "intake.messages"
        wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 0)])
        if group not in GROUPS and has(principal, "GROUP", group, "READ"):
            continue  # an operator may make groups; it would stay behind
        (future,) = admin.alter_consumer_group_offsets([wanted]).values()
        answers[group] = outcome(future)
    expected = {
        group: "UNKNOWN_MEMBER_ID" if has(principal, "GROUP", group, "READ") else "GROUP_AUTHORIZATION_FAILED"
        for group in answers
    }
    assert answers == expected


def outcome(future):
    """The name of the error, of the whole call or of its first part."""
    try:
        result = future.result(KAFKA_SECONDS)
    except KafkaException as error:
        return error.args[0].name()
    errors = [part.error for part in getattr(result, "topic_partitions", ()) if part.error]
    return errors[0].name() if errors else "done"


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_a_principal_manages_neither_topics_nor_rights(road, bus, principal):
    admin = AdminClient(bus.options(principal))
    everyone = AclBinding(
        ResourceType.TOPIC,
        "intake.messages",
        ResourcePatternType.LITERAL,
        f"User:{principal}",
        "*",
        AclOperation.ALL,
        AclPermissionType.ALLOW,
    )
    any_right = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    retention = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, "intake.messages", incremental_configs=[retention])
    answers = {
        "create a topic": next(iter(admin.create_topics([NewTopic("tests.rights", 1, 1)]).values())),
        "delete a topic": next(iter(admin.delete_topics(["intake.messages"]).values())),
        "change a topic": next(iter(admin.incremental_alter_configs([resource]).values())),
        "delete records": next(iter(admin.delete_records([TopicPartition("intake.messages", 0, 0)]).values())),
        "give rights": next(iter(admin.create_acls([everyone]).values())),
        "take rights": next(iter(admin.delete_acls([any_right]).values())),
    }
    told = {what: outcome(future) for what, future in answers.items()}
    if told["delete records"] == "_NOENT":  # the client looks for a topic that is hidden from the principal
        told["delete records"] = "TOPIC_AUTHORIZATION_FAILED"
    assert {what: name.removesuffix("_AUTHORIZATION_FAILED") for what, name in told.items()} == {
        "create a topic": "TOPIC",
        "delete a topic": "TOPIC",
        "change a topic": "TOPIC",
        "delete records": "TOPIC",
        "give rights": "CLUSTER",
        "take rights": "CLUSTER",
    }


async def reach(stack, port="kafka", **options):
    client = AIOKafkaClient(bootstrap_servers=f"{HOST}:{stack.port(port)}", request_timeout_ms=3000, **options)
    try:
        await client.bootstrap()
    finally:
        await client.close()


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_kafka_refuses_a_wrong_password(road, principal, caplog):
    right = road.stack.kafka_credentials(principal).client_options()
    del right["bootstrap_servers"]
    await reach(road.stack, **right)
    other = next(one for one in SERVICES if one != principal)
    for number, wrong in enumerate(({"sasl_plain_password": "wrong"}, {"sasl_plain_username": other}), start=1):
        with pytest.raises(KafkaConnectionError):
            await reach(road.stack, **{**right, **wrong})
        assert caplog.text.count("SaslAuthenticationFailed: Authentication failed") == number


@pytest.mark.parametrize("port", ["kafka", "kafka-internal", "kafka-controller"])
async def test_kafka_refuses_whoever_does_not_say_who_it_is(road, port):
    with pytest.raises(KafkaConnectionError):
        await reach(road.stack, port)


@pytest.mark.parametrize("port", ["kafka", "kafka-internal", "kafka-controller"])
@pytest.mark.parametrize("principal", SERVICES)
async def test_a_service_proves_itself_by_scram_at_the_door_for_clients_only(road, principal, port):
    options = road.stack.kafka_credentials(principal).client_options()
    options |= {"sasl_mechanism": "PLAIN"}
    del options["bootstrap_servers"]
    with pytest.raises(KafkaConnectionError):
        await reach(road.stack, port, **options)


# HTTP

PUBLIC = {
    ("ingestion", "post", "/v1/messages"),
    ("ingestion", "post", "/v1/messages:batch"),
    ("ingestion", "get", "/v1/messages/{message_id}"),
    ("ingestion", "get", "/v1/rules"),
    ("enforcement", "post", "/v1/complaints"),
    ("enforcement", "post", "/v1/complaints:report"),
    *((service, "get", path) for service in SERVICES for path in ("/livez", "/readyz", "/metrics")),
}
"""What is open to all, or to who has an account's key; everything else needs a token."""


async def routes(road, service):
    async with httpx.AsyncClient(base_url=road.stack.url(service), trust_env=False) as http:
        document = (await http.get("/openapi.json")).json()
    every = [(method, path) for path, methods in document["paths"].items() for method in methods]
    return [(method, path) for method, path in every if (service, method, path) not in PUBLIC]


def issuer(road, principal):
    return TokenIssuer.from_file(principal, road.stack.identity_key(principal))


async def statuses(road, service, wanted, headers):
    """The status of each route, asked with a body that it would refuse."""
    async with httpx.AsyncClient(base_url=road.stack.url(service), trust_env=False, timeout=20) as http:
        answers = {}
        for method, path in wanted:
            for name in ("message_id", "account_id", "complaint_id"):
                path = path.replace("{" + name + "}", new_id())  # noqa: PLW2901
            asked = {"message_id": new_id(), "since": "2026-01-31T09:30:00Z"}
            body = {"json": {}} if method == "post" else {"params": asked}
            answer = await http.request(method, path, headers=headers, **body)
            answers[method, path] = (answer.status_code, answer.headers["content-type"])
    return answers


@pytest.mark.parametrize("service", SERVICES)
async def test_an_operators_route_refuses_who_is_not_the_operator(road, service):
    wanted = await routes(road, service)
    assert wanted
    elsewhere = next(one for one in SERVICES if one != service)
    impostor = TokenIssuer("operator", issuer(road, elsewhere)._key)
    unknown = TokenIssuer("nobody", issuer(road, "operator")._key)
    unproved = {
        "no token": {},
        "no bearer": {"authorization": "Basic b3BlcmF0b3I6"},
        "garbage": {"authorization": "Bearer e30.e30.e30"},
        "the token of another audience": issuer(road, "operator").headers(elsewhere),
        "the operator's name under a service's key": impostor.headers(service),
        "a principal that nobody knows": unknown.headers(service),
    }
    for what, headers in unproved.items():
        answers = await statuses(road, service, wanted, headers)
        assert set(answers.values()) == {(401, "application/problem+json")}, what
    for principal in SERVICES:
        if service == "vault":
            break  # its caller table is below
        answers = await statuses(road, service, wanted, issuer(road, principal).headers(service))
        assert set(answers.values()) == {(403, "application/problem+json")}, principal


@pytest.mark.parametrize("principal", SERVICES)
async def test_the_vaults_routes_for_the_operator_refuse_every_service(road, principal):
    """Routes that the document opens for the operator's token and no other."""
    async with httpx.AsyncClient(base_url=road.stack.url("vault"), trust_env=False) as http:
        document = (await http.get("/openapi.json")).json()
    theirs = [
        (method, path)
        for path, methods in document["paths"].items()
        for method, said in methods.items()
        if said["security"] == [{"operatorToken": []}] and said["tags"] != ["operator"]
    ]
    assert len(theirs) > 15
    answers = await statuses(road, "vault", theirs, issuer(road, principal).headers("vault"))
    assert set(answers.values()) == {(403, "application/problem+json")}


async def test_an_account_sees_no_trace_without_its_key_and_not_that_of_others(road):
    mine, other = (road.create_account(f"{name} {time.time()}") for name in ("Mine", "Other"))
    (sent,) = await road.send(mine, items(["trace@kunden.example"]))
    async with httpx.AsyncClient(base_url=road.stack.url("ingestion"), trust_env=False) as http:
        path = f"/v1/messages/{sent.message_id}"
        keys = {None: 401, mine.api_key: 200, other.api_key: 404, "wk_" + "x" * 43: 401, "wk_short": 401}
        for key, status in keys.items():
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            assert (await http.get(path, headers=headers)).status_code == status
        for service in SERVICES:
            token = issuer(road, service).headers("ingestion")
            assert (await http.get(path, headers=token)).status_code == 401
        assert (await http.get(path, headers=issuer(road, "operator").headers("ingestion"))).status_code == 200


VAULT_TABLE = {
    ("ingestion", "seal", "intake"),
    ("ingestion", "open", "inbox"),
    ("moderation", "open", "screening"),
    ("moderation", "open", "review"),
    ("routing", "disclose", "delivery"),
    ("enforcement", "open", "case"),
    ("operator", "disclosures", None),
    ("operator", "unauthorised", None),
}
"""The caller table of the design."""


def vault_calls():
    """A call for each operation and purpose, about a recipient that does not exist."""
    key, capsule = "A" * 43 + "=", "AAAA"
    account = {"account_id": "tests", "message_id": new_id()}
    sealed = {**account, "address": "nobody", "message_key": key}
    opened = {**account, "token": "rt_nobody", "capsule": capsule}
    disclosed = {
        **account,
        "token": "rt_nobody",
        "capsule": capsule,
        "instruction_digest": "d",
        "legal_basis": "contract",
        "epoch": 1,
        "attempt": 1,
    }
    yield "seal", "intake", {"items": [sealed]}
    for purpose in ("screening", "review", "inbox", "case"):
        yield "open", purpose, {"items": [opened], "case_id": "tests-case", "user_id": "tests-user"}
    yield "disclose", "delivery", {"provider": "smtp.default", "fields": ["address"], "items": [disclosed]}


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_the_vault_answers_by_its_caller_table_and_logs_whom_it_turned_away(road, principal):
    headers = issuer(road, principal).headers("vault")
    refused_before, allowed, turned_away = await refusals(road, principal), set(), 0
    async with httpx.AsyncClient(base_url=road.stack.url("vault"), trust_env=False, headers=headers) as http:
        asked = [(operation, purpose, {"purpose": purpose, **body}) for operation, purpose, body in vault_calls()]
        answers = [(o, p, await http.post(f"/v1/{o}:batch", json=body)) for o, p, body in asked]
        answers.append(("disclosures", None, await http.get("/v1/disclosures", params={"message_id": new_id()})))
        answers.append(("unauthorised", None, await http.get("/v1/unauthorised")))
    for operation, purpose, answer in answers:
        if answer.status_code == 403:
            turned_away += 1
            assert answer.json()["type"] == "urn:waystation:problem:not-allowed", answer.text
            continue
        assert answer.status_code == 200, (operation, purpose, answer.text)
        allowed.add((principal, operation, purpose))
        parts = answer.json().get("items", ())
        assert operation in {"seal", "unauthorised"} or all("problem" in part for part in parts), (
            "nobody is known by that token"
        )
    assert allowed == {row for row in VAULT_TABLE if row[0] == principal}
    assert await refusals(road, principal) == refused_before + turned_away


async def refusals(road, caller):
    connection = await asyncpg.connect(road.stack.dsn("vault", SUPERUSER))
    try:
        query = "SELECT count(*) FROM access_log WHERE caller = $1 AND outcome = 'refused'"
        return await connection.fetchval(query, caller)
    finally:
        await connection.close()
