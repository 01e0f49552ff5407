"""`python -m vault`."""

from __future__ import annotations

import logging

from common.config import EXIT_MISCONFIGURED, read_settings
from common.http.server import serve
from vault.app import create_app
from vault.config import VaultSettings
from vault.errors import KeyFileError, ProcessorsFileError
from vault.hygiene import forbid_dumps


def main() -> None:
    """Run the vault until SIGTERM."""
    forbid_dumps()
    settings = read_settings("vault", VaultSettings)
    try:
        serve("vault", lambda: create_app(settings), settings.http_host, settings.http_port)
    except (KeyFileError, ProcessorsFileError) as error:
        logging.getLogger(__name__).critical("the vault does not start: %s", error)
        raise SystemExit(EXIT_MISCONFIGURED) from None


if __name__ == "__main__":
    main()
