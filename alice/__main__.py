"""`python -m alice`: serve Alice until stopped. Settings come from the environment (`shared.service.settings`)."""

from collections.abc import Callable

from starlette.types import ASGIApp

from shared.service.settings import Settings
from shared.service.starting import run


def _load() -> Callable[[Settings], ASGIApp]:
    from alice.app import create_app

    return create_app


def main() -> None:
    """Serve Alice."""
    run("Alice", _load, default_port=8001)


if __name__ == "__main__":
    main()
