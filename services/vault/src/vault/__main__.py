"""`python -m vault`."""

from __future__ import annotations

from common.config import read_settings
from common.http.server import serve
from vault.app import create_app
from vault.config import VaultSettings
from vault.hygiene import forbid_dumps


def main() -> None:
    """Run the vault until SIGTERM."""
    forbid_dumps()
    settings = read_settings("vault", VaultSettings)
    serve("vault", lambda: create_app(settings), settings.http_host, settings.http_port)


if __name__ == "__main__":
    main()
