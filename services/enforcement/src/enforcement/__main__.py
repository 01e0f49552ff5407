"""`python -m enforcement`."""

from __future__ import annotations

from common.config import read_settings
from common.http.server import serve
from enforcement.app import create_app
from enforcement.config import Settings


def main() -> None:
    """Run the service until it is told to stop."""
    settings = read_settings("enforcement", Settings)
    serve("enforcement", lambda: create_app(settings), settings.http_host, settings.http_port)


if __name__ == "__main__":
    main()
