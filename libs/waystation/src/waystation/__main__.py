"""The command's entry: everything where the stack is installed, `verify` alone where it is not."""

from __future__ import annotations

from importlib.util import find_spec

OF_THE_STACK = ("aiokafka", "asyncpg", "confluent_kafka", "httpx", "psutil", "yaml")


def main() -> None:
    """Run the command with what is installed."""
    try:
        _run()
    except KeyboardInterrupt:  # while modules are loaded
        raise SystemExit(130) from None


def _run() -> None:
    if any(find_spec(name) is None for name in OF_THE_STACK):
        from waystation.proof.auditor import app  # noqa: PLC0415
        from waystation.running import run  # noqa: PLC0415

        run(app)
    else:
        from waystation.cli import main as all_commands  # noqa: PLC0415  needs everything above

        all_commands()


if __name__ == "__main__":
    main()
