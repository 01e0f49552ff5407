"""docs/proof.md against docs/vectors, by a verifier that was written from that page and imports nothing of ours."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from waystation.proof import PublishedKeys, check, read_parts

DOCS = Path(__file__).parents[3] / "docs"
VECTORS = DOCS / "vectors"
TIMES = {"instruction": "admitted_at", "verdict": "screened_at", "receipt": "occurred_at"}


def vectors(name):
    return json.loads((VECTORS / name).read_text("utf-8"))


# The stranger's verifier


def canonical(statement):
    return json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def leaf_of(statement):
    return sha256(b"\x00" + canonical(statement)).digest()


def root_of(leaf, index, size, path):
    if not 0 <= index < size < 2**63 or len(path) % 32:
        raise ValueError
    siblings = [path[at : at + 32] for at in range(0, len(path), 32)]
    node, last = leaf, size - 1
    while last > 0:
        if index % 2:
            node = sha256(b"\x01" + siblings.pop(0) + node).digest()
        elif index < last:
            node = sha256(b"\x01" + node + siblings.pop(0)).digest()
        index, last = index // 2, last // 2
    if siblings:
        raise ValueError
    return node


def signed_bytes(purpose, size, root):
    return f"waystation/{purpose}/v1".encode() + b"\x00" + size.to_bytes(8, "big") + root


def published(purpose):
    keys = [load_pem_public_key(path.read_bytes()) for path in (VECTORS / "keys" / purpose).glob("*.pem")]
    return {sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]: key for key in keys}


def is_proved(part):
    purpose, proof = part["purpose"], part["proof"]
    try:
        leaf = leaf_of(part["statement"])
        path = base64.b64decode(proof["path"], altchars=b"-_", validate=True)
        root = root_of(leaf, proof["index"], proof["size"], path)
        signature = base64.b64decode(proof["signature"], altchars=b"-_", validate=True)
        published(purpose)[proof["key"]].verify(signature, signed_bytes(purpose, proof["size"], root))
    except (InvalidSignature, KeyError, IndexError, ValueError):
        return False
    retired_at = vectors(f"keys/{purpose}/keys.json").get(proof["key"], {}).get("retired_at")
    in_time = retired_at is None or part["statement"][TIMES[purpose]] <= retired_at
    return in_time and (part["leaf"], part["root"]) == (leaf.hex(), root.hex())


def is_linked(part, instruction):
    statement = part["statement"]
    same_content = (
        "revision" in statement or statement.get("content_digest") == instruction["statement"]["content_digest"]
    )
    about = statement.get("instruction_digest") == leaf_of(instruction["statement"]).hex()
    return part is instruction or (about and same_content)


# What it finds, and what our own finds

CASES = vectors("proofs.json")
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])


@every_case
def test_the_strangers_verifier_agrees_with_the_vectors(case):
    parts = case["document"]["parts"]
    found = [is_proved(part) and (not is_proved(parts[0]) or is_linked(part, parts[0])) for part in parts]
    assert found == [refused is None for refused in case["refused"]]


@every_case
def test_our_verifier_gives_each_refusal_its_own_reason(case):
    keys = PublishedKeys.from_folder(VECTORS / "keys")
    (message,) = check(read_parts(json.dumps(case["document"])), keys)
    assert [one.refused and str(one.refused.code) for one in message.checked] == case["refused"]
    assert message.proved == (not any(case["refused"]))


def test_canonical_forms_and_leaves():
    for vector in vectors("canonical.json"):
        assert canonical(vector["statement"]).hex() == vector["canonical_hex"]
        assert leaf_of(vector["statement"]).hex() == vector["leaf"]


def test_trees_of_one_to_eight_leaves():
    for vector in vectors("trees.json"):
        leaves = [sha256(b"\x00" + bytes.fromhex(data)).digest() for data in vector["data_hex"]]
        assert [leaf.hex() for leaf in leaves] == vector["leaves"]
        for index, (leaf, path) in enumerate(zip(leaves, vector["paths"], strict=True)):
            root = root_of(leaf, index, len(leaves), base64.urlsafe_b64decode(path))
            assert root.hex() == vector["root"]


def test_signatures_are_made_as_the_page_says():
    for vector in vectors("signatures.json"):
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["private_seed_hex"]))
        raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        assert raw.hex() == vector["public_hex"]
        assert sha256(raw).hexdigest()[:16] == vector["key"]
        content = signed_bytes(vector["purpose"], vector["size"], bytes.fromhex(vector["root"]))
        assert content.hex() == vector["signed_bytes_hex"]
        assert base64.urlsafe_b64encode(key.sign(content)).decode() == vector["signature"]


def test_the_page_names_every_code_and_every_code_has_a_vector():
    page = (DOCS / "proof.md").read_text("utf-8")
    told = {line.split("`")[1] for line in page.partition("## Refusals")[2].splitlines() if line.startswith("| `")}
    assert told == {code for case in CASES for code in case["refused"] if code}
