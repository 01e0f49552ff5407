"""Boards and alerts over a real Prometheus (Debian: apt install prometheus) that reads this road's services."""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest
import yaml
from on_the_road import wait_for, wait_until_settled

from waystation.rehearsal import items
from waystation.stack import SERVICES, checkout_folder

PROMETHEUS = shutil.which("prometheus")
OBSERVABILITY = checkout_folder() / "deploy" / "observability"
SCRAPES_MIN = 3

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus: apt-get install prometheus"),
]


class Eyes:
    """A Prometheus that runs."""

    def __init__(self, port):
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=10)

    def close(self):
        self._http.close()

    def get(self, path, **parameters):
        return self._http.get(path, params=parameters).raise_for_status().json()["data"]

    def sees(self):
        """Return the services that were read, or nothing while Prometheus starts."""
        try:
            return {labels["service"] for labels, value in self.query("up") if value}
        except httpx.HTTPError:
            return set()

    def query(self, expression):
        """Return labels and value of each series."""
        return [(one["metric"], float(one["value"][1])) for one in self.get("/query", query=expression)["result"]]

    def alerts(self):
        """Return the state of each rule by its name."""
        rules = [rule for group in self.get("/rules")["groups"] for rule in group["rules"]]
        return {rule["name"]: rule["state"] for rule in rules}


@contextmanager
def prometheus(folder, targets):
    """Run the project's configuration with fixed targets in place of names in a network of containers."""
    configuration = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text("utf-8"))
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(OBSERVABILITY / name) for name in configuration["rule_files"]]
    (job,) = configuration["scrape_configs"]
    del job["dns_sd_configs"], job["relabel_configs"]
    job["static_configs"] = [
        {"targets": [target], "labels": {"service": service}} for service, target in targets.items()
    ]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stderr=log,
        )
    eyes = Eyes(port)
    try:
        wait_for(lambda: eyes.sees() == set(SERVICES), f"every service is read: {folder / 'prometheus.log'}", 30)
        yield eyes
    finally:
        eyes.close()
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def eyes(road, tmp_path_factory):
    """Prometheus after it saw messages go down the whole road."""
    targets = {service: road.stack.url(service).removeprefix("http://") for service in SERVICES}
    with prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running:
        account = road.create_account(f"Watched {time.time_ns()}")
        for _ in range(SCRAPES_MIN):
            recipients = [f"watched{number}@kunden.example" for number in range(5)]
            answer = httpx.post(
                f"{road.stack.url('ingestion')}/v1/messages:batch",
                json={"items": items(recipients, tag=secrets.token_hex(4))},
                headers={"authorization": f"Bearer {account.api_key}"},
                timeout=30,
                trust_env=False,
            )
            wait_until_settled(
                road.stack, [item["message"]["id"] for item in answer.raise_for_status().json()["items"]]
            )
            time.sleep(1)
        yield running


def panels():
    for path in sorted((OBSERVABILITY / "boards").glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for number, target in enumerate(panel["targets"]):
                yield pytest.param(target["expr"], id=f"{path.stem}: {panel['title']} {number}")


def advised():
    """The expressions of the table of alerts in docs/telemetry.md."""
    text = (checkout_folder() / "docs" / "telemetry.md").read_text("utf-8")
    rows = text.split("| alert | expression | then |")[1].split("\n\n")[0].splitlines()[2:]
    return [re.search("`([^`]+)`", re.split(r"(?<!\\)\|", row)[2])[1].replace("\\|", "|") for row in rows]


@pytest.mark.parametrize("expression", advised())
def test_prometheus_understands_the_alerts_that_the_documentation_advises(eyes, expression):
    eyes.query(expression)
    grouped = {label for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(", ")} - {"le"}
    metric = max(re.findall(r"[a-z_]+", expression), key=len)
    for label in grouped:
        series = eyes.query(f"count by ({label}) ({metric})")
        assert all(labels.get(label) for labels, _ in series), f"{metric} has no label {label}"


@pytest.mark.parametrize("expression", list(panels()))
def test_every_panel_shows_something_after_messages_went_down_the_road(eyes, expression):
    if "[45].." in expression:  # nothing need have been refused
        expression = expression.replace("[45]", "[2345]")
    wait_for(lambda: any(math.isfinite(value) for _, value in eyes.query(expression)), f"{expression} has a series", 15)


def test_no_alert_pages_while_all_is_well(eyes):
    states = eyes.alerts()
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text("utf-8"))["groups"]
    assert set(states) == {rule["alert"] for group in rules for rule in group["rules"]}
    # Other files of tests on this road leave dead letters, messages in doubt and records without authority behind.
    assert states["ServiceAway"] == states["StageFallsBehind"] == "inactive"


def test_a_service_that_dies_is_noticed(eyes, road):
    road.stack.kill_service("enforcement")
    try:
        wait_for(lambda: eyes.alerts()["ServiceAway"] in {"pending", "firing"}, "the alert notices", 20)
    finally:
        road.stack.start_service("enforcement")
    wait_for(lambda: eyes.alerts()["ServiceAway"] == "inactive", "the alert goes away", 20)
