"""One transmission, followed at both services while somebody looks at it, and remembered for a while afterwards.

A `Watch` holds what is known now; `changed` wakes whoever shows it. Costs come from Bob in what is new only; past four million
tokens, by block. The more there is to ask for, the more seldom it is asked for.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

from harness.console.services import ServiceError, Services
from harness.figures.curve import Curve, Growing
from harness.figures.shown import FINAL_STATES, SHOWN_TOKENS, Name, Shown, ended

_MOST_SINGLE_COSTS: Final = 4_000_000
_RATE_SECONDS: Final = 1.5
_MOST_HEADS: Final = 2000
_MOST_REMEMBERED: Final = 64
_LINGER_SECONDS: Final = 20.0


class Watch(Shown):
    """A transmission that goes on. version: counts what has changed."""

    def __init__(self, services: Services, identifier: str) -> None:
        super().__init__(identifier)
        self.version = 0
        self._services = services
        self._changed = asyncio.Event()
        self._growing = Growing()
        self._heads: list[tuple[int, float]] = []
        self._carried: deque[tuple[float, int]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._loaded = False

    @property
    def idle(self) -> bool:
        """Whether nobody asks the services for it any more."""
        return all(task.done() for task in self._tasks)

    @property
    def curve(self) -> Curve:
        """Σ −log2 p against the position, up to Bob's last word."""
        known = self._curve or Curve(positions=self._growing.positions(), bits=self._growing.bits(), width=self.width)
        return known.extended(self._heads)

    @property
    def socket_bits_per_second(self) -> float | None:
        """Over the last second or so while it runs, over all of it once it has ended."""
        if self.record["state"] in FINAL_STATES:
            return super().socket_bits_per_second
        if len(self._carried) < 2 or self._carried[-1][0] == self._carried[0][0]:
            return None
        (begun, first), (now, last) = self._carried[0], self._carried[-1]
        return 8 * (last - first) / (now - begun)

    async def load(self) -> None:
        """Ask for all there is, once. Raises `ServiceError` where neither service knows the transmission."""
        if self._loaded:
            return
        errors: list[ServiceError] = []
        names: tuple[Name, ...] = ("alice", "bob")
        for service in names:
            try:
                self._take(service, await self._services.ask(service, f"/transmissions/{self.id}"))
            except ServiceError as error:
                errors.append(error)
                if error.status != 404:
                    self.problems[service] = str(error)
        if len(errors) == len(names):
            raise errors[0]
        if "bob" in self.records:
            await self._grow()
            await self._read()
        self._loaded = True

    async def wait(self, seen: int) -> int:
        """Wait until something is newer than version `seen`."""
        while self.version <= seen:
            await self._changed.wait()
        return self.version

    def start(self) -> None:
        """Follow it, until it is settled."""
        if not self._tasks and not self.settled:
            self._spawn(self._follow("alice"))
            self._spawn(self._follow("bob"))
            self._spawn(self._look())

    async def stop(self) -> None:
        """Follow it no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    def _tell(self) -> None:
        self.version += 1
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    def _take(self, service: Name, record: dict[str, Any]) -> None:
        self.records[service] = record
        self.problems.pop(service, None)
        if service == "bob" and (not self._heads or record["tokens_done"] > self._heads[-1][0]):
            self._heads.append((record["tokens_done"], record["nll_bits"]))
            if len(self._heads) > _MOST_HEADS:
                del self._heads[1::2]
        if service == "alice":
            now = time.monotonic()
            self._carried.append((now, self.socket_bytes))
            while len(self._carried) > 2 and now - self._carried[0][0] > _RATE_SECONDS:
                self._carried.popleft()
        self._tell()

    async def _follow(self, service: Name) -> None:
        """Bob hears of a transmission when it begins: until Alice's has ended, his ignorance is no error."""
        while True:
            try:
                async for record in self._services.events(service, self.id):
                    self._take(service, record)
            except ServiceError as error:
                if error.status == 404:
                    if self.settled or "alice" not in self.records:
                        return
                else:
                    self.problems[service] = str(error)
                    self._tell()
            found = self.records.get(service)
            done = found is not None and ended(found) and found["wire"]["final"]
            if done and ended(self.record):  # Bob's, too, goes on when Alice comes back
                return
            await asyncio.sleep(0.5)

    async def _look(self) -> None:
        """Costs and text, as they grow; once more when all has ended."""
        while True:
            last = self.settled
            begun = time.monotonic()
            if "bob" in self.records:
                with contextlib.suppress(ServiceError):
                    await self._grow()
                    await self._read()
                    self._tell()
            if last:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.2, 10 * (time.monotonic() - begun))):
                    await self._until_settled()

    async def _until_settled(self) -> None:
        seen = self.version
        while not self.settled:
            seen = await self.wait(seen)

    async def _grow(self) -> None:
        record = self.records["bob"]
        if (record["dataset"]["tokens"] or record["tokens_done"]) <= _MOST_SINGLE_COSTS:
            self._growing.add(await self._services.costs(self.id, self._growing.tokens))
        else:
            found = await self._services.ask("bob", f"/transmissions/{self.id}/bits", params={"per": "block"})
            self._curve = Curve.of_blocks(found["per_block"], self.width)

    async def _read(self) -> None:
        """The newest while it runs, the beginning once it has ended; of a network's streams each one's newest."""
        bob = self.records["bob"]
        if bob["state"] in FINAL_STATES:
            self.text = await self.part(0)
            return
        streams = int(bob["code"]["spec"].get("streams", 1))
        if streams == 1:
            self.text = await self.part(None)
            return
        first = max(0, int(self._growing.tokens) - SHOWN_TOKENS // 4)
        found = await self.part(first, count=1 << 16)
        room = max(4, SHOWN_TOKENS // streams)
        for piece in found["pieces"]:
            if piece["provisional"]:
                cut = max(0, len(piece["tokens"]) - room)
                piece.update(first=piece["first"] + cut, tokens=piece["tokens"][cut:], bits=piece["bits"][cut:])
        self.text = found

    async def part(self, first: int | None, count: int = SHOWN_TOKENS) -> dict[str, Any]:
        """A part of what Bob has decoded. Raises `ServiceError`."""
        query = {"count": count} if first is None else {"first": first, "count": count}
        return await self._services.ask("bob", f"/transmissions/{self.id}/decoded", params=query)


class Watches:
    """The transmissions looked at now or lately, by id."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._held: OrderedDict[str, Watch] = OrderedDict()
        self._lookers: dict[str, int] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def loaded(self, identifier: str) -> Watch:
        """A transmission, asked for if it is not remembered. Raises `ServiceError`."""
        watch = self._held.get(identifier)
        if watch is None:
            watch = Watch(self._services, identifier)
        elif not watch.settled and not self._lookers.get(identifier):
            await watch.stop()
            watch = Watch(self._services, identifier)
        await watch.load()
        self._held[identifier] = watch
        self._held.move_to_end(identifier)
        while len(self._held) > _MOST_REMEMBERED:
            oldest = next(iter(self._held))
            if self._lookers.get(oldest):
                break
            del self._held[oldest]
        return watch

    @contextlib.asynccontextmanager
    async def looking(self, identifier: str) -> AsyncIterator[Watch]:
        """Follow a transmission while inside. Raises `ServiceError`."""
        self._lookers[identifier] = self._lookers.get(identifier, 0) + 1
        try:
            watch = self._held.get(identifier) or await self.loaded(identifier)
            watch.start()
            yield watch
        finally:
            self._lookers[identifier] -= 1
            if not self._lookers[identifier]:
                del self._lookers[identifier]
                task = asyncio.get_running_loop().create_task(self._leave(identifier))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)

    async def _leave(self, identifier: str) -> None:
        """A reload must not begin again."""
        await asyncio.sleep(_LINGER_SECONDS)
        watch = self._held.get(identifier)
        if watch is not None and not self._lookers.get(identifier) and not watch.settled:
            await watch.stop()
            self._held.pop(identifier, None)

    def forget(self, identifier: str) -> None:
        """A transmission that was deleted."""
        self._held.pop(identifier, None)

    async def close(self) -> None:
        """Follow nothing any more."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*(watch.stop() for watch in self._held.values()), *self._leaving, return_exceptions=True)
