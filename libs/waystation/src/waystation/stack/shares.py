"""Secrets of a stack in containers: made once, then dealt out, a folder for each container that holds some.

all/         the whole, laid out as every stack's folder: for the jobs only
<service>/   <SERVICE>_KAFKA_PASSWORD, <SERVICE>_POSTGRES_DSN, identity.pem, signing.pem, root.key, trusted/
kafka/       server.properties
postgres/    superuser
operator/    what the `waystation` command needs outside: passwords.json, trusted/,
             identity/operator.pem, signing/policy.pem
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from waystation.errors import CommandError
from waystation.stack import credentials, kafka, postgres
from waystation.stack.containers import POSTGRES_IMAGE
from waystation.stack.layout import HOST, SERVICES, Layout, StackState, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

POSTGRES_MAJOR = POSTGRES_IMAGE.partition(":")[2]
KAFKA_SERVER = "kafka:9092"
KAFKA_INTERNAL = "kafka:19092"
POSTGRES_SERVER = "postgres:5432"
KAFKA_DATA = "/var/lib/kafka/data"
KAFKA_OPERATORS_PORT = 29092
"""Published on this machine's loopback; the others stay inside."""
READABLE = 0o644
"""For images that run as an account of their own: each alone has its folder mounted. Kafka's copies its file with the
same mode, and then appends to the copy."""
OWN = 0o400


def make_and_deal(folder: Path, kafka_port: int) -> bool:
    """Make what does not exist yet, and write each holder's share anew; true when anything was made.

    Args:
        folder: holds a folder for each holder.
        kafka_port: where this machine's loopback reaches Kafka.
    """
    layout = Layout(folder / "all")
    fresh = not layout.state.exists()
    layout.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    layout.trusted.mkdir(exist_ok=True)
    if fresh:
        StackState.new("compose").save(layout.state)
    require_known_format(layout)
    passwords = credentials.ensure_passwords(layout)
    credentials.ensure_keys(layout)
    for service in SERVICES:
        _deal_to_service(layout, folder / service, service, passwords)
    _deal_to_operator(layout, folder / "operator")
    _write(folder / "postgres" / "superuser", passwords.postgres[credentials.SUPERUSER], READABLE)
    (folder / "kafka").mkdir(exist_ok=True)
    kafka.write_configuration(folder / "kafka" / "server.properties", node(kafka_port), passwords.kafka, READABLE)
    return fresh


def require_known_format(layout: Layout) -> StackState:
    """The state of the secrets' folder.

    Raises:
        CommandError: another version of Waystation made it, or nobody did.
    """
    try:
        state = StackState.load(layout.state)
    except CommandError as error:
        raise CommandError(
            f"the volume of secrets was made by another version: {error.message}",
            "run that version, or remove the stack with all its data: docker compose down --volumes",
        ) from error
    if state is None:
        raise CommandError(f"there are no secrets in {layout.home}", "run the job that makes them: secrets")
    return state


def require_own_postgres(data: Path) -> None:
    """Refuse a volume that another major version of PostgreSQL wrote: the image would begin a new cluster beside it.

    Raises:
        CommandError: it holds another version's data, or data laid out as before version 18.
    """
    try:
        found = {path.name for path in data.iterdir()}
    except PermissionError:
        found = {"PG_VERSION"}
    others = sorted(name for name in found if name.isdecimal() and name != POSTGRES_MAJOR)
    if not others and not found & {"PG_VERSION", "data"}:
        return
    version = f"PostgreSQL {others[0]}" if others else "a PostgreSQL before 18"
    raise CommandError(
        f"the volume `postgres` was written by {version}; this is {POSTGRES_MAJOR}",
        "dump it with that version's image and restore into a new volume, or remove all: docker compose down --volumes",
    )


def node(kafka_port: int) -> kafka.Node:
    """The one broker: services come by its name, operators by loopback."""
    listeners = [
        kafka.Listener("CLIENT", ":9092", KAFKA_SERVER),
        kafka.Listener("OPERATORS", f":{KAFKA_OPERATORS_PORT}", f"{HOST}:{kafka_port}", for_operators=True),
        kafka.Listener(kafka.INTERNAL, ":19092", KAFKA_INTERNAL),
        kafka.Listener(kafka.CONTROLLER, ":9093", "localhost:9093"),
    ]
    return kafka.Node(listeners, KAFKA_DATA)


def _deal_to_service(layout: Layout, share: Path, service: str, passwords: credentials.Passwords) -> None:
    prefix = service.upper()
    address = postgres.dsn(POSTGRES_SERVER, service, service, passwords.postgres[service])
    _write(share / f"{prefix}_KAFKA_PASSWORD", passwords.kafka[service], OWN)
    _write(share / f"{prefix}_POSTGRES_DSN", address, OWN)
    _copy(credentials.identity_key(layout, service), share / "identity.pem")
    if service in credentials.SIGNING_PURPOSES:
        _copy(credentials.signing_key(layout, service), share / "signing.pem")
    if service == "vault":
        _copy(credentials.root_key(layout), share / "root.key")
    _copy_folder(layout.trusted, share / "trusted")


def _deal_to_operator(layout: Layout, share: Path) -> None:
    own = Layout(share)
    _copy(layout.secrets / "passwords.json", own.secrets / "passwords.json")
    _copy(credentials.identity_key(layout, credentials.OPERATOR), credentials.identity_key(own, credentials.OPERATOR))
    signing = credentials.signing_key
    _copy(signing(layout, credentials.OPERATOR), signing(own, credentials.OPERATOR))
    _copy_folder(layout.trusted, own.trusted)


def _copy(source: Path, target: Path) -> None:
    _write(target, source.read_text(encoding="utf-8"), OWN)


def _copy_folder(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text, mode)
