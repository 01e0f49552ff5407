"""Runs the service: `python -m moderation`."""

from __future__ import annotations

from common.config import read_settings
from common.http.server import serve
from moderation.app import SERVICE, create_app
from moderation.config import ModerationSettings


def main() -> None:
    """Read the environment and serve until SIGTERM."""
    settings = read_settings(SERVICE, ModerationSettings)
    serve(SERVICE, lambda: create_app(settings), settings.http_host, settings.http_port)


if __name__ == "__main__":
    main()
