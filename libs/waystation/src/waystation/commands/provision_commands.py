"""`waystation provision secrets | kafka | databases`: the one-shot jobs of a stack in containers. All repeatable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka.admin import AdminClient

from waystation import topics
from waystation.commands.topics_commands import registry
from waystation.output import Output
from waystation.stack import Layout, credentials, kafka, postgres, shares
from waystation.stack.addresses import migrate_service, run
from waystation.stack.layout import SERVICES

READY_SECONDS = 60.0
PortOption = Annotated[
    int, typer.Option(help="Kafka's port on this machine's loopback.", envvar="WAYSTATION_PORT_KAFKA")
]
FolderOption = Annotated[Path, typer.Option("--secrets", help="The folder of all secrets.")]

app = typer.Typer(
    help="The jobs of a stack in containers: secrets; Kafka's users, topics and rights; databases and migrations.",
    no_args_is_help=True,
)


@app.command()
def secrets(
    folder: Annotated[Path, typer.Argument(help="Holds a folder for each container that is given some.")],
    kafka_port: PortOption,
    postgres_data: Annotated[
        Path | None, typer.Option(help="PostgreSQL's volume: another version's is refused.")
    ] = None,
) -> None:
    """Make keys and passwords that do not exist yet, and deal them out."""
    if postgres_data is not None:
        shares.require_own_postgres(postgres_data)
    fresh = shares.make_and_deal(folder, kafka_port)
    Output(as_json=False).say("keys and passwords made and dealt out" if fresh else "keys and passwords dealt out")


@app.command(name="kafka")
def provision_kafka(
    folder: FolderOption, internal: str = shares.KAFKA_INTERNAL, server: str = shares.KAFKA_SERVER
) -> None:
    """Give each principal its password, and bring topics and rights to what deploy/topics.yaml declares."""
    passwords = _passwords(folder).kafka
    kafka.ensure_users(internal, passwords, READY_SECONDS)
    admin = AdminClient(kafka.client_options(server, credentials.ADMIN, passwords[credentials.ADMIN]))
    changes = topics.apply(admin, registry())
    Output(as_json=False).say(
        f"{len(credentials.KAFKA_PRINCIPALS)} users; topics and rights: {len(changes)} changes made"
    )


@app.command()
def databases(folder: FolderOption, server: str = shares.POSTGRES_SERVER) -> None:
    """Make databases and roles that do not exist yet, and apply new migrations."""
    passwords = _passwords(folder).postgres
    run(postgres.provision(server, passwords))
    output = Output(as_json=False)
    for service in SERVICES:
        owner = f"{service}_owner"
        applied = migrate_service(service, postgres.dsn(server, service, owner, passwords[owner]))
        output.say(f"{service}: {', '.join(applied) or 'nothing to apply'}")


def _passwords(folder: Path) -> credentials.Passwords:
    layout = Layout(folder)
    shares.require_known_format(layout)
    return credentials.ensure_passwords(layout)
