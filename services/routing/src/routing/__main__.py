"""`python -m routing`."""

from common.config import read_settings
from common.http.server import serve
from routing.app import create_app
from routing.config import RoutingSettings


def main() -> None:
    """Run routing with the settings of its environment."""
    settings = read_settings("routing", RoutingSettings)
    serve("routing", lambda: create_app(settings), settings.http_host, settings.http_port)


if __name__ == "__main__":
    main()
