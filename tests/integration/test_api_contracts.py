"""Every service answers as its OpenAPI document says, whatever it is asked, with credentials and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from common.security.tokens import TokenIssuer
from waystation.stack import SERVICES, checkout_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
PHASES = {"caller": "examples,coverage,fuzzing", "nobody": "examples,fuzzing"}
EXAMPLES_MAX = 6
SEED = 20261122
DUTIES = "data protection"
"""The vault's routes for the operator alone, asked as such in a run of their own; `test_rights` tries them as others."""
CALLERS = {"vault": ("ingestion", "routing", "operator", DUTIES), "ingestion": ("an account", "operator")}


def document_of(service):
    return json.loads((checkout_folder() / "contracts" / "openapi" / f"{service}.json").read_text("utf-8"))


def authorization(road, service, who):
    """The Authorization header of a caller: nobody, an account, or a principal with its token for the service."""
    if who == "nobody":
        return []
    if who == "an account":
        return ["--header", f"Authorization: Bearer {road.create_account('of the contract tests').api_key}"]
    who = "operator" if who == DUTIES else who
    issuer = TokenIssuer.from_file(who, road.stack.identity_key(who))
    return ["--header", f"Authorization: {issuer.headers(service)['authorization']}"]


def part_of(who):
    """The vault's routes that a caller is tried at."""
    return ("--include-tag" if who == DUTIES else "--exclude-tag", DUTIES)


def exercise(road, service, who, tmp_path):
    """Run schemathesis over every operation; return its status and what it printed."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run"),
        str(checkout_folder() / "contracts" / "openapi" / f"{service}.json"),
        *("--url", road.stack.url(service), *authorization(road, service, who)),
        *("--checks", ",".join(CHECKS), "--phases", PHASES["nobody" if who in ("nobody", DUTIES) else "caller"]),
        *("--mode", "all"),
        *(part_of(who) if service == "vault" else ()),
        *("--max-examples", str(EXAMPLES_MAX), "--seed", str(SEED), "--no-color", "--continue-on-failure"),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    environment = {**os.environ, **hooks, "CI": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path, env=environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("service", "who"),
    [(service, who) for service in SERVICES for who in ("nobody", *CALLERS.get(service, ("operator",)))],
)
def test_a_service_answers_as_its_document_says(road, service, who, tmp_path):
    status, printed = exercise(road, service, who, tmp_path)
    assert status == 0, printed[-20_000:]
    assert "passed" in printed


@pytest.mark.parametrize("service", SERVICES)
def test_the_document_that_a_running_service_gives_is_the_one_that_is_kept(road, service):
    answer = httpx.get(road.stack.url(service) + "/openapi.json", trust_env=False)
    assert answer.json() == document_of(service)
