"""Whether receipts are genuine: the signature of each, checked with nothing of Waystation but public keys.

    waystation keys export keys
    python verify_receipts.py client.conf keys/receipt

A statement is hashed in its canonical form (RFC 8785); the inclusion path leads from that leaf to the root of a Merkle
tree (RFC 6962); the root is signed with Ed25519 under the purpose, so that no signature serves for another one. Exit
status 1 when one receipt is not genuine. `waystation verify` does the same, and looks at the terms of retired keys too.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from records import read_whole

HASH_BYTES = 32


def published_keys(folder: str) -> dict:
    """Return public keys by their id, the first 16 hexadecimal digits of the raw key's SHA-256."""
    keys = {}
    for path in Path(folder).glob("*.pem"):
        key = load_pem_public_key(path.read_bytes())
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        keys[sha256(raw).hexdigest()[:16]] = key
    return keys


def root_of(statement: dict, proof: dict) -> bytes:
    """Return the root that the statement's inclusion path leads to (RFC 9162, 2.1.3.2)."""
    canonical = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    node, index, last = sha256(b"\x00" + canonical).digest(), proof["index"], proof["size"] - 1
    path = base64.urlsafe_b64decode(proof["path"])
    siblings = [path[at : at + HASH_BYTES] for at in range(0, len(path), HASH_BYTES)]
    while last > 0:
        if index % 2:
            node = sha256(b"\x01" + siblings.pop(0) + node).digest()
        elif index < last:
            node = sha256(b"\x01" + node + siblings.pop(0)).digest()
        index, last = index // 2, last // 2
    if siblings:
        raise ValueError("the path is too long")
    return node


def verify(signed: dict, purpose: str, keys: dict) -> None:
    """Check one signed statement; raise what says why it is not genuine."""
    proof = signed["proof"]
    if proof["key"] not in keys:
        raise KeyError(f"key {proof['key']} was never published")
    message = (
        f"waystation/{purpose}/v1\0".encode() + proof["size"].to_bytes(8, "big") + root_of(signed["statement"], proof)
    )
    keys[proof["key"]].verify(base64.urlsafe_b64decode(proof["signature"]), message)


async def main() -> int:
    """Check every receipt that stands in the topic; tell how many there are and which are not genuine."""
    keys, genuine, wrong = published_keys(sys.argv[2]), 0, 0
    async for record in read_whole(sys.argv[1], "routing.receipts"):
        try:
            verify(json.loads(record.value)["receipt"], "receipt", keys)
            genuine += 1
        except (InvalidSignature, LookupError, ValueError, TypeError) as error:
            wrong += 1
            print(f"partition {record.partition} offset {record.offset}: {type(error).__name__} {error}")
    print(f"{genuine} genuine, {wrong} not")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
