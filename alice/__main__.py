"""`python -m alice`: serve Alice until stopped. Settings come from the environment (`shared.service.settings`)."""

import asyncio

from shared.service.kernels import prepare_kernel_cache
from shared.service.settings import Settings


def main() -> None:
    """Serve Alice."""
    settings = Settings()
    prepare_kernel_cache(settings.cache_directory)  # before numba is imported
    from alice.app import create_app
    from shared.service.server import serve

    asyncio.run(serve("Alice", create_app(settings), settings, default_port=8001))


if __name__ == "__main__":
    main()
