"""`python -m ingestion`: runs the door with settings from the environment."""

from __future__ import annotations

from common.config import read_settings
from common.http.server import serve
from ingestion.app import create_app
from ingestion.config import Settings


def main() -> None:
    """Run until a signal."""
    settings = read_settings("ingestion", Settings)
    serve("ingestion", lambda: create_app(settings), settings.http_host, settings.http_port)


if __name__ == "__main__":
    main()
