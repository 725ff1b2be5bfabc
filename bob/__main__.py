"""`python -m bob`: serve Bob until stopped. Settings come from the environment (`shared.service.settings`)."""

from collections.abc import Callable

from starlette.types import ASGIApp

from shared.service.settings import Settings
from shared.service.starting import run


def _load() -> Callable[[Settings], ASGIApp]:
    from bob.app import create_app

    return create_app


def main() -> None:
    """Serve Bob."""
    run("Bob", _load, default_port=8002)


if __name__ == "__main__":
    main()
