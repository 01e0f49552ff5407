"""One Kafka node (KRaft, broker and controller in one process) with SCRAM users and ACLs from its first start.

Enabled mechanisms are set per listener: a global `sasl.enabled.mechanisms` would make the controller listener look for
a JAAS file that does not exist, and the broker would not start.

The operator alone may also log in by PLAIN: librdkafka before 2.6.1, which distributions still ship with kcat, sends a
wrong SCRAM nonce (confluentinc/librdkafka#4895) that Kafka refuses since CVE-2024-56128. The listener is on loopback.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs forget to export some
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from waystation.errors import CommandError
from waystation.stack import credentials
from waystation.stack.layout import HOST, Layout, StackState, checkout_folder, write_atomically
from waystation.stack.processes import Command, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SCRAM = "SCRAM-SHA-256"
SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required"
PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
HEAP_OPTIONS = ("-Xms128m", "-Xmx384m")
SHORT_LIVED = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Serial collector and the first compiler only: a short-lived broker costs half the CPU this way. Kafka's own variable
KAFKA_JVM_PERFORMANCE_OPTS takes its place."""
TOOL_OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
FORMAT_TIMEOUT_SECONDS = 120
FORMATTED = "formatted"
INTERNAL = "INTERNAL"
CONTROLLER = "CONTROLLER"
SCRAM_ITERATIONS = 8192
USERS_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Java:
    """A Java program and the class path of Kafka's jars."""

    program: Path
    jars: Sequence[Path]

    def environment(self) -> dict[str, str]:
        """What a Kafka process is given; the class path goes here to keep `ps` readable."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "TMPDIR") if name in os.environ}
        return {**kept, "CLASSPATH": os.pathsep.join(str(jar) for jar in self.jars)}


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the broker listens (`host:port`, no host means everywhere) and what it tells clients to connect to."""

    name: str
    bind: str
    advertised: str
    for_operators: bool = False
    """Bound to, or published on, loopback alone: the operator may log in by PLAIN there."""


@dataclass(frozen=True, slots=True)
class Node:
    """What differs between one broker and another."""

    listeners: Sequence[Listener]
    """For clients, except that `INTERNAL` is the broker's own and `CONTROLLER` the quorum's."""
    data: str


def local_listeners(ports: Mapping[str, int], bind_host: str) -> list[Listener]:
    """Those of a broker that is reached on loopback only."""

    def listener(name: str, port: str, *, for_operators: bool = False) -> Listener:
        return Listener(name, f"{bind_host}:{ports[port]}", f"{HOST}:{ports[port]}", for_operators)

    return [
        listener("CLIENT", "kafka", for_operators=True),
        listener(INTERNAL, "kafka-internal"),
        listener(CONTROLLER, "kafka-controller"),
    ]


def write_configuration(path: Path, node: Node, passwords: Mapping[str, str], mode: int = credentials.PRIVATE) -> Path:
    """Write `server.properties` (it holds passwords: by default only its owner reads it); returns its path."""
    properties = {**_listeners(node), **_security(node, passwords), "log.dirs": node.data, **BEHAVIOUR}
    write_atomically(path, "".join(f"{name}={value}\n" for name, value in properties.items()), mode)
    return path


def _listeners(node: Node) -> dict[str, str]:
    controller = next(one for one in node.listeners if one.name == CONTROLLER)
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller.advertised}",
        "listeners": ",".join(f"{one.name}://{one.bind}" for one in node.listeners),
        "advertised.listeners": ",".join(
            f"{one.name}://{one.advertised}" for one in node.listeners if one.name != CONTROLLER
        ),
        "controller.listener.names": CONTROLLER,
        "inter.broker.listener.name": INTERNAL,
        "listener.security.protocol.map": ",".join(f"{one.name}:SASL_PLAINTEXT" for one in node.listeners),
    }


def _security(node: Node, passwords: Mapping[str, str]) -> dict[str, str]:
    broker = passwords[credentials.BROKER]
    plain = f'{PLAIN_LOGIN} username="{credentials.BROKER}" password="{broker}" user_{credentials.BROKER}="{broker}";'
    return {
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.internal.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.internal.plain.sasl.jaas.config": plain,
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": plain,
        **{
            name: value
            for one in node.listeners
            if one.name not in {INTERNAL, CONTROLLER}
            for name, value in _logins(one, passwords[credentials.OPERATOR]).items()
        },
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{credentials.BROKER};User:{credentials.ADMIN}",
        "allow.everyone.if.no.acl.found": "false",
    }


def _logins(listener: Listener, operator_password: str) -> dict[str, str]:
    prefix = f"listener.name.{listener.name.lower()}"
    scram = {
        f"{prefix}.sasl.enabled.mechanisms": SCRAM,
        f"{prefix}.scram-sha-256.sasl.jaas.config": f"{SCRAM_LOGIN};",
    }
    if not listener.for_operators:
        return scram
    return {
        **scram,
        f"{prefix}.sasl.enabled.mechanisms": f"{SCRAM},PLAIN",
        f"{prefix}.plain.sasl.jaas.config": f'{PLAIN_LOGIN} user_{credentials.OPERATOR}="{operator_password}";',
    }


BEHAVIOUR = {
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A killed broker may register again when its old session has ended: 4 s instead of 9 s.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    "socket.request.max.bytes": str(16 << 20),
    "replica.fetch.max.bytes": str(4 << 20),
}


def format_storage(
    layout: Layout, state: StackState, passwords: Mapping[str, str], java: Java, properties: Path
) -> None:
    """Format the data folder with the first users, once; what an interrupted format left is made anew."""
    done = layout.kafka / FORMATTED
    if done.exists():
        return
    shutil.rmtree(layout.kafka / "data", ignore_errors=True)
    users = [
        argument
        for name in credentials.KAFKA_PRINCIPALS
        for argument in ("--add-scram", f"{SCRAM}=[name={name},password={passwords[name]}]")
    ]
    command = [*_java(java, layout, "log4j2-tools.xml", TOOL_OPTIONS), "kafka.tools.StorageTool", "format"]
    with layout.log("kafka").open("ab") as log:
        result = subprocess.run(  # noqa: S603
            [*command, "-t", state.cluster_id, "-c", str(properties), *users],
            env=java.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=FORMAT_TIMEOUT_SECONDS,
            check=False,
        )
    if result.returncode != 0:
        raise CommandError("Kafka's storage could not be formatted", f"look into {layout.log('kafka')}")
    done.touch()


def start_command(layout: Layout, java: Java, properties: Path) -> Command:
    """How to start the broker."""
    return Command(
        arguments=[
            *_java(java, layout, "log4j2.xml", (*HEAP_OPTIONS, *_performance_options())),
            "kafka.Kafka",
            str(properties),
        ],
        marker=marker(layout),
        environment=java.environment(),
        folder=layout.kafka,
    )


def _performance_options() -> tuple[str, ...]:
    given = os.environ.get("KAFKA_JVM_PERFORMANCE_OPTS")
    return SHORT_LIVED if given is None else tuple(shlex.split(given))


def tool_command(layout: Layout, java: Java, tool_class: str, arguments: Sequence[str]) -> list[str]:
    """How to run one of Kafka's own tools."""
    return [*_java(java, layout, "log4j2-tools.xml", TOOL_OPTIONS, mark=False), tool_class, *arguments]


def marker(layout: Layout) -> str:
    """The argument by which this stack's broker is known."""
    return f"-Dwaystation.kafka={layout.home}"


def _java(java: Java, layout: Layout, log4j: str, options: Sequence[str], *, mark: bool = True) -> list[str]:
    configuration = checkout_folder() / "deploy" / "local" / log4j
    marks = [marker(layout)] if mark and log4j == "log4j2.xml" else []
    return [
        str(java.program),
        *options,
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={configuration}",
        f"-Dwaystation.logs={layout.logs}",
        *marks,
    ]


def client_options(bootstrap: str, principal: str, password: str) -> dict[str, Any]:
    """Options of librdkafka for one principal; its own chatter is off, errors come as exceptions."""
    return {
        "bootstrap.servers": bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": SCRAM,
        "sasl.username": principal,
        "sasl.password": password,
        "log_level": 0,
    }


def ensure_users(internal_bootstrap: str, passwords: Mapping[str, str], timeout_seconds: float) -> None:
    """Give every principal its SCRAM password, as the broker itself, once the broker answers.

    For a Kafka whose storage somebody else formats. Repeatable; sessions that are open stay open.

    Raises:
        CommandError: Kafka does not answer in time, or refuses.
    """
    options = client_options(internal_bootstrap, credentials.BROKER, passwords[credentials.BROKER])
    admin = AdminClient({**options, "sasl.mechanism": "PLAIN", "reconnect.backoff.max.ms": 250})

    def answers() -> bool:
        with contextlib.suppress(KafkaException):
            return bool(admin.list_topics(timeout=1.0).brokers)
        return False

    if not wait_until(answers, timeout_seconds, 0.1):
        raise CommandError(
            f"Kafka at {internal_bootstrap} does not answer to this stack's broker password",
            "look at its log; does it belong to other secrets?",
        )
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, SCRAM_ITERATIONS)
    wanted: list[Any] = [
        UserScramCredentialUpsertion(name, how, passwords[name].encode()) for name in credentials.KAFKA_PRINCIPALS
    ]
    for name, made in admin.alter_user_scram_credentials(wanted, request_timeout=USERS_TIMEOUT_SECONDS).items():
        try:
            made.result()
        except KafkaException as error:
            raise CommandError(f"Kafka refused the password of {name}: {error.args[0].str()}") from error


def kcat_options(bootstrap: str, principal: str, password: str) -> dict[str, str]:
    """A configuration file's content for kcat; for the operator one that old versions understand too."""
    return {
        "bootstrap.servers": bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN" if principal == credentials.OPERATOR else SCRAM,
        "sasl.username": principal,
        "sasl.password": password,
    }


def wait_until_ready(bootstrap: str, password: str, timeout_seconds: float, is_running: Callable[[], object]) -> bool:
    """Whether the broker answers the administrator in time; gives up at once when its process ends."""
    client = AdminClient({**client_options(bootstrap, credentials.ADMIN, password), "reconnect.backoff.max.ms": 250})

    def answers() -> bool:
        if not is_running():
            return True
        with contextlib.suppress(KafkaException):
            return bool(client.list_topics(timeout=1.0).brokers)
        return False

    return wait_until(answers, timeout_seconds, 0.1) and bool(is_running())


def java_client_properties(principal: str, password: str) -> str:
    """The client file that Kafka's own tools take as --command-config."""
    login = f'{SCRAM_LOGIN} username="{principal}" password="{password}";'
    return f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism={SCRAM}\nsasl.jaas.config={login}\n"
