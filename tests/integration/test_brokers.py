"""The road over three brokers, of which one is killed or leaves at a time: leaders and coordinators move under load."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from chaos_road import Road, teller

from waystation.rehearsal import Rehearsal
from waystation.stack import HOST, Stack, ports
from waystation.stack.processes import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.chaos,
    pytest.mark.timeout(420),
    pytest.mark.skipif(os.environ.get("WAYSTATION_STACK") == "docker", reason="starts brokers as the stack's own is"),
]
MESSAGES = 1200
BROKERS = (1, 2, 3)
PLACE = re.compile(r"Topic: (\S+)\s+Partition: (\d+)")
READY_SECONDS = 60.0
TOOL_SECONDS = 60.0


class Broker:
    """One more broker beside the stack's own, which stays the only controller."""

    def __init__(self, stack, number):
        first = stack.layout.kafka / "server.properties"
        self._folder = stack.layout.kafka / f"broker-{number}"
        self._folder.mkdir()
        chosen = ports.choose(["CLIENT", "INTERNAL"])
        listeners = ",".join(f"{name}://{HOST}:{port}" for name, port in chosen.items())
        own = {
            "process.roles": "broker",
            "node.id": str(number),
            "listeners": listeners,
            "advertised.listeners": listeners,
            "log.dirs": str(self._folder / "data"),
        }
        properties = dict(line.split("=", 1) for line in first.read_text().splitlines()) | own
        configuration = self._folder / "server.properties"
        configuration.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        running = psutil.Process(next(status.pid for status in stack.status() if status.name == "kafka"))
        self._environment = running.environ()
        self._command = [*running.cmdline()[:-1], str(configuration)]
        java = self._command[: self._command.index("kafka.Kafka")]
        cluster = re.search(r"cluster.id=(\S+)", (stack.layout.kafka / "data" / "meta.properties").read_text())[1]
        self._run([*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(configuration)])
        self._process = None

    def _run(self, command):
        subprocess.run(command, env=self._environment, capture_output=True, timeout=TOOL_SECONDS, check=True)

    def start(self):
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def end(self, number):
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


@pytest.fixture(scope="module")
def road(tmp_path_factory, request):
    """The road, with every partition on three brokers."""
    home = tmp_path_factory.mktemp("brokers")
    rehearsal = Rehearsal(Stack.open(home / "stack"), home / "laboratory", write_first=True)
    more = []
    try:
        rehearsal.stack.up()
        rehearsal.start_laboratory()
        more += [Broker(rehearsal.stack, number) for number in BROKERS[1:]]
        for broker in more:
            broker.start()
        spread_out(rehearsal.stack)
        yield Road(rehearsal.stack, rehearsal, teller(request.config)), more
    finally:
        for broker in more:
            broker.end(signal.SIGKILL)
        rehearsal.stop_laboratory()
        rehearsal.stack.down(wipe=True)


def test_brokers_that_die_or_leave_one_by_one_lose_nothing(road):
    road, brokers = road
    pids = road.pids()
    with road.under_way("brokers", MESSAGES, faults=5, burst=150) as (account, load):
        for broker, number in zip(brokers, (signal.SIGKILL, signal.SIGTERM), strict=True):
            load.burst(150, batch=25)
            since = time.monotonic()
            broker.end(number)
            road.recovery(f"a broker of three ended by {number.name}", since)
            broker.start()
            wait_until_whole(road.stack)
            lead_as_before(road.stack)
            road.recovery("it leads again", time.monotonic())
        _, reckoning = road.settle(account, load)
    assert road.pids() == pids, "a service ended with a broker"
    road.require_doubts(reckoning, kills_of_routing=0)


def spread_out(stack):
    """Give each partition a place on every broker, and another leader each."""
    places = PLACE.findall(tool(stack, "topics", "--describe"))
    chance = random.Random(1)
    wanted = [
        {"topic": topic, "partition": int(partition), "replicas": chance.sample(BROKERS, len(BROKERS))}
        for topic, partition in places
    ]
    plan = stack.layout.home / "three-brokers.json"
    plan.write_text(json.dumps({"version": 1, "partitions": wanted}))
    admin = stack.kafka_admin()
    assert wait_until(lambda: len(admin.list_topics(timeout=5).brokers) == len(BROKERS), READY_SECONDS)
    tool(stack, "reassign-partitions", "--reassignment-json-file", str(plan), "--execute")
    wait_until_whole(stack)
    lead_as_before(stack)
    leaders = re.findall(r"Leader: (\d)", tool(stack, "topics", "--describe"))
    assert {int(leader) for leader in leaders} == set(BROKERS)


def wait_until_whole(stack):
    """Wait until no partition misses a copy."""
    assert wait_until(
        lambda: not tool(stack, "topics", "--describe", "--under-replicated-partitions").strip(), READY_SECONDS, 0.5
    )


def lead_as_before(stack):
    tool(stack, "leader-election", "--election-type", "preferred", "--all-topic-partitions")


def tool(stack, *arguments):
    """A tool of Kafka's own, as an operator types it."""
    command = [sys.executable, "-m", "waystation", "kafka", "--as", "admin", *arguments]
    environment = {**os.environ, "WAYSTATION_HOME": str(stack.layout.home)}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout
