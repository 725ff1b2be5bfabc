"""When to try again: which errors a later try may cure, how long to wait, and when to give up."""

import asyncio
import random
from typing import Final

from shared.channel.errors import RefusedError
from shared.service.errors import slug_of

_CURABLE: Final = frozenset({"peer-lost", "interrupted", "busy", "storage-full", "worker-lost", "damaged-link"})
_NONSENSE: Final = frozenset(
    {"bad-frame", "unknown-message", "unexpected-message", "limit-exceeded", "protocol-error", "version-mismatch"}
)
"""What a damaged connection looks like before the SEAL that would tell, and a wrong peer too."""
_UNSEALED_REFUSALS: Final = frozenset({"unauthorized", "version-mismatch"})
"""Answers to the handshake: Bob's to what came, which may be another than was sent."""
_FIRST_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 30.0
_DOUBTFUL_TRIES: Final = 6


def may_be_cured(error: BaseException) -> bool:
    """Whether the transmission can go on later, from where it was."""
    return slug_of(error) in _CURABLE


def is_doubtful(error: BaseException) -> bool:
    """Whether what one side could not make sense of may have been damaged on its way: no side's last word on the transmission."""
    return slug_of(error) in (_UNSEALED_REFUSALS if isinstance(error, RefusedError) else _NONSENSE)


class Retrying:
    """The tries of one transmission. give_up_seconds: how long to go on without getting anywhere."""

    def __init__(self, give_up_seconds: float) -> None:
        self._give_up_seconds = give_up_seconds
        self._tries = self._doubts = 0
        self._since = asyncio.get_running_loop().time()
        self._wake = asyncio.Event()

    def progress(self) -> None:
        """Something was achieved: the next wait is short again."""
        self._tries = self._doubts = 0
        self._since = asyncio.get_running_loop().time()

    def may_go_on(self, error: BaseException) -> bool:
        """Whether to try again after this error: what may be damage is believed only where it comes again and again."""
        self._doubts = self._doubts + 1 if is_doubtful(error) else 0
        if not may_be_cured(error) and not 0 < self._doubts <= _DOUBTFUL_TRIES:
            return False
        return asyncio.get_running_loop().time() - self._since < self._give_up_seconds

    async def wait(self) -> None:
        """Wait, twice as long at every try without progress, up to half a minute; `hurry` ends it."""
        longest = min(_FIRST_SECONDS * 2**self._tries, _LONGEST_SECONDS)
        self._tries = min(self._tries + 1, 16)
        self._wake.clear()
        try:
            async with asyncio.timeout(random.uniform(longest / 2, longest)):  # noqa: S311 - so that many do not come at once
                await self._wake.wait()
        except TimeoutError:
            pass

    def hurry(self) -> None:
        """End a wait now."""
        self._wake.set()
