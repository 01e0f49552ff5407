"""The OpenAPI document of each service, as the service itself prints it: the command imports none of them."""

from __future__ import annotations

import subprocess
import sys

from waystation.stack.layout import SERVICES


def openapi_documents() -> dict[str, str]:
    """Return the text of `contracts/openapi/<service>.json` by path.

    Raises:
        RuntimeError: a service cannot say what it offers; the text is its own.
    """
    asked = {
        service: subprocess.Popen(  # noqa: S603  our own modules
            [sys.executable, "-m", f"{service}.openapi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for service in SERVICES
    }
    return {f"contracts/openapi/{service}.json": _answer(service, process) for service, process in asked.items()}


def _answer(service: str, process: subprocess.Popen[str]) -> str:
    document, trouble = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"python -m {service}.openapi failed:\n{trouble}")
    return document
