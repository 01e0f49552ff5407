"""`waystation kafka TOOL ...`: Kafka's own tools, from the same jars, with address and credentials filled in."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from waystation.output import HomeOption, JsonFlag, Output
from waystation.stack import Stack
from waystation.stack.credentials import OPERATOR, PRIVATE
from waystation.stack.kafka import java_client_properties, kcat_options, tool_command
from waystation.stack.layout import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

TOOLS = {
    "acls": "org.apache.kafka.tools.AclCommand",
    "broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "cluster": "org.apache.kafka.tools.ClusterTool",
    "configs": "kafka.admin.ConfigCommand",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "dump-log": "org.apache.kafka.tools.DumpLogSegments",
    "features": "org.apache.kafka.tools.FeatureCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "groups": "org.apache.kafka.tools.GroupsCommand",
    "leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "topics": "org.apache.kafka.tools.TopicCommand",
    "transactions": "org.apache.kafka.tools.TransactionsCommand",
}
WITHOUT_BROKER = {"dump-log"}
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    help="Kafka's own tools with address and credentials filled in, e.g. `waystation kafka consumer-groups --list`.",
    no_args_is_help=True,
)


@app.callback()
def options(
    context: typer.Context,
    principal: Annotated[str, typer.Option("--as", help="The principal: operator, admin or a service.")] = OPERATOR,
    home: HomeOption = None,
) -> None:
    """Take the options that stand before the tool's name."""
    context.obj = (principal, home)


@app.command()
def config(
    principal: Annotated[str, typer.Argument(help="operator, admin or a service.")] = OPERATOR,
    write: Annotated[Path | None, typer.Option("--write", "-w", help="Write it to this file instead.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Print a client configuration for kcat: `kcat -F FILE -t screening.verdicts`."""
    access = Stack.open(home).kafka_credentials(principal)
    settings = kcat_options(access.bootstrap, access.username, access.password)
    text = "".join(f"{name}={value}\n" for name, value in settings.items())
    output = Output(as_json)
    if write is None:
        output.show(settings, lambda: text.rstrip("\n"))
        return
    write.unlink(missing_ok=True)
    write_atomically(write, text, PRIVATE)
    output.show({"written": write}, lambda: f"{write} written; use it: kcat -F {write} -L")


def run_tool(stack: Stack, tool: str, arguments: list[str], principal: str = OPERATOR) -> int:
    """Run one of Kafka's tools on this terminal; returns its exit status."""
    access = stack.kafka_credentials(principal)
    client = stack.layout.secrets / f"kafka-tools-{principal}.properties"
    write_atomically(client, java_client_properties(access.username, access.password), PRIVATE)
    reach = ["--bootstrap-server", access.bootstrap, "--command-config", str(client)]
    java = stack.kafka_java()
    command = tool_command(
        stack.layout, java, TOOLS[tool], arguments if tool in WITHOUT_BROKER else [*reach, *arguments]
    )
    return subprocess.run(command, env={**os.environ, **java.environment()}, check=False).returncode  # noqa: S603


def _tool_command(tool: str) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        principal, home = context.obj
        raise typer.Exit(run_tool(Stack.open(home), tool, context.args, principal))

    run.__doc__ = f"Kafka's {TOOLS[tool].rpartition('.')[2]}; its own options follow."
    return run


for _tool in TOOLS:
    app.command(_tool, context_settings=PASS_ON)(_tool_command(_tool))
