"""gzip -9 and xz -9e over the same data, for a line to compare with. Measured once for a dataset, in a thread."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import IO, Final

from harness.comparison import others
from harness.console.services import ServiceError, Services

MOST_BYTES: Final = 64 << 20
_PATIENCE_SECONDS: Final = 0.4


class Yardsticks:
    """Sizes by a dataset's SHA-256; empty while they are unknown, or where the dataset is too large to measure in passing."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sizes: dict[str, dict[str, int]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Semaphore(1)

    def of(self, sha256: str) -> dict[str, int]:
        """What is known."""
        return self._sizes.get(sha256, {})

    async def soon(self, sha256: str) -> None:
        """Wait a moment for a measurement under way."""
        task = self._tasks.get(sha256)
        if task is not None:
            await asyncio.wait({task}, timeout=_PATIENCE_SECONDS)

    async def passing(self, content: AsyncIterable[bytes], copy: IO[bytes]) -> AsyncIterator[bytes]:
        """The content as it passes, copied as long as it is not too large."""
        async for part in content:
            if copy.tell() <= MOST_BYTES:
                copy.write(part)
            yield part

    def measure_copy(self, sha256: str, copy: Path) -> None:
        """Measure a copy, and delete it."""
        size = copy.stat().st_size
        if sha256 in self._tasks or sha256 in self._sizes or not 0 < size <= MOST_BYTES:
            copy.unlink()
        else:
            self._start(sha256, copy)

    def measure_reconstruction(self, sha256: str, identifier: str, size: int) -> None:
        """Measure what Bob has verified of a transmission, if the dataset is not known yet."""
        if sha256 not in self._sizes and sha256 not in self._tasks and 0 < size <= MOST_BYTES:
            self._start(sha256, None, identifier)

    def _start(self, sha256: str, copy: Path | None, identifier: str = "") -> None:
        task = asyncio.get_running_loop().create_task(self._measure(sha256, copy, identifier))
        self._tasks[sha256] = task
        task.add_done_callback(lambda _: self._tasks.pop(sha256, None))

    async def _measure(self, sha256: str, copy: Path | None, identifier: str) -> None:
        async with self._one_at_a_time:
            try:
                if copy is None:
                    copy = temporary()
                    with copy.open("wb") as file:
                        async for part in self._services.content(identifier):
                            file.write(part)
                found = await asyncio.to_thread(others, copy)
                self._sizes[sha256] = {one["name"]: one["bytes"] for one in found}
            except (OSError, ServiceError):
                pass  # a line is missing in a picture, and is tried again with the next page
            finally:
                if copy is not None:
                    with contextlib.suppress(OSError):
                        copy.unlink(missing_ok=True)

    async def close(self) -> None:
        """Stop measuring."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def temporary() -> Path:
    """A new empty file in the temporary directory."""
    with tempfile.NamedTemporaryFile(prefix="codelength-console-", delete=False) as file:
        return Path(file.name)
