"""A channel that is slow, uneven or broken: what the wire does to bytes besides counting them. The words are those of toxiproxy.

    bandwidth=9600bit/s,latency=80ms,jitter=20ms,slice=100B,cut=5kB,seed=1

`bandwidth` and `latency` (give or take `jitter`) hold in each direction; `slice` is the most that is passed on at a time. `cut`,
`reset` and `blackhole` act on a connection once it has carried so many bytes, both directions together: it ends in order, is
reset, or swallows all that follows and stays open. `flip` damages one bit in so many bytes, on average. `faults` is how many
connections suffer these four, the later ones do not; with `toward=bob` (or `alice`) only what flows there does, and is counted: a
half-open connection is `blackhole=5kB,toward=bob`. All chance comes from `seed`.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

_BYTES: Final[dict[str, float]] = {"B": 1, "kB": 1000, "MB": 1_000_000, "": 1}
_RATES: Final[dict[str, float]] = {"bit/s": 1, "kbit/s": 1000, "Mbit/s": 1_000_000, "B/s": 8, "kB/s": 8000, "MB/s": 8_000_000}
_TIMES: Final[dict[str, float]] = {"ms": 1e-3, "s": 1.0}
_NUMBER: Final[dict[str, float]] = {"": 1}
_UNITS: Final[dict[str, dict[str, float]]] = {
    "bandwidth": _RATES,
    "latency": _TIMES,
    "jitter": _TIMES,
    "slice": _BYTES,
    "cut": _BYTES,
    "reset": _BYTES,
    "blackhole": _BYTES,
    "flip": _BYTES,
    "faults": _NUMBER,
    "seed": _NUMBER,
}
_SIDES: Final = ("alice", "bob")
_VALUE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(\D*)")
T = TypeVar("T")
_WAITING_PARTS: Final = 256
_PART_BYTES: Final = 1 << 14


class ChannelError(ValueError):
    """A description of a channel that cannot be read; the text says why."""


class Broken(Exception):  # noqa: N818 - the simulated fault, no error of ours
    """The connection is to end now, by a reset or in order."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__(reset)
        self.reset = reset


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What the channel is like. Sizes in bytes, None: never."""

    bandwidth_bits_per_second: float | None = None
    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0
    slice_bytes: int | None = None
    cut_bytes: int | None = None
    reset_bytes: int | None = None
    blackhole_bytes: int | None = None
    flip_bytes: int | None = None
    faults: int | None = None
    toward: str | None = None
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> "Simulation":
        """Read `name=value,…`. Raises `ChannelError`."""
        found: dict[str, Any] = {}
        suffixes = {"bandwidth": "_bits_per_second", "latency": "_seconds", "jitter": "_seconds", "faults": "", "seed": ""}
        for part in filter(None, (one.strip() for one in text.split(","))):
            name, equals, value = part.partition("=")
            if name == "toward" and value in _SIDES:
                found[name] = value
                continue
            units = _UNITS.get(name, {})
            if not equals or not units:
                raise ChannelError(f"{part!r}: there are {', '.join(_UNITS)}, each with =, and toward=alice or bob")
            match = _VALUE.fullmatch(value)
            if match is None or match[2] not in units:
                known = " or ".join(unit for unit in units if unit) or "no unit"
                raise ChannelError(f"{part!r}: a number with {known}")
            number = float(match[1]) * units[match[2]]
            whole = name in ("slice", "cut", "reset", "blackhole", "flip", "faults", "seed")
            if whole and number != int(number):
                raise ChannelError(f"{part!r}: a whole number")
            if number == 0 and name in ("bandwidth", "slice", "flip"):
                raise ChannelError(f"{part!r}: more than 0")
            found[name + suffixes.get(name, "_bytes")] = int(number) if whole else number
        return cls(**found)

    def compare(self, result: dict[str, Any]) -> dict[str, float]:
        """How long a transmission took, and how long the line needs for n log2 m bits and the same bytes around them."""
        one = result["wire"]["alice_to_bob"]
        uniform_bits = result["s0_bits"] - result["f_bits"]["total"]
        around_bits = 8 * (one["socket_bytes"] - one["z_bytes"])
        line = (uniform_bits + around_bits) / self.bandwidth_bits_per_second if self.bandwidth_bits_per_second else 0.0
        return {"with_model": result["seconds"]["total"] or 0.0, "without_model": line + self.latency_seconds}


@dataclass(slots=True)
class _Fate:
    """What one connection has carried, both directions together, and the chance that it meets."""

    chance: random.Random
    faulty: bool
    carried: int = 0
    until_flip: float = field(default=float("inf"))


class SimulatedConnection:
    """One connection of a simulated channel; `carry` each direction of it."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self._simulation = simulation
        chance = random.Random(simulation.seed * 1_000_003 + number)  # noqa: S311 - to be repeated
        faulty = simulation.faults is None or number < simulation.faults
        self._fate = _Fate(chance=chance, faulty=faulty)
        self._next_flip()

    async def carry(
        self,
        read: Callable[[int], Coroutine[Any, Any, bytes]],
        write: Callable[[bytes], Awaitable[None]],
        ended: Callable[[], None],
        toward: str = "bob",
    ) -> None:
        """One direction, until `read` gives nothing. Raises `Broken` where the simulation says so."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING_PARTS)
        arriving = asyncio.ensure_future(self._arrive(waiting, write, toward))
        try:
            loop, one = asyncio.get_running_loop(), self._simulation
            free_at = arrives_at = loop.time()
            while data := await self._unless_broken(read(min(one.slice_bytes or _PART_BYTES, self._slice())), arriving):
                free_at = max(free_at, loop.time())
                if one.bandwidth_bits_per_second:
                    free_at += 8 * len(data) / one.bandwidth_bits_per_second
                    await asyncio.sleep(free_at - loop.time())
                delay = one.latency_seconds + self._fate.chance.uniform(-1, 1) * one.jitter_seconds
                arrives_at = max(arrives_at, free_at + max(0.0, delay))
                await self._unless_broken(waiting.put((arrives_at, data)), arriving)
            await self._unless_broken(waiting.put((arrives_at, b"")), arriving)
            await arriving
            ended()
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)

    def _slice(self) -> int:
        """With little bandwidth, parts of about a twentieth of a second."""
        rate = self._simulation.bandwidth_bits_per_second
        return _PART_BYTES if rate is None else max(1, min(_PART_BYTES, int(rate / 160)))

    async def _unless_broken(self, doing: Coroutine[Any, Any, T], arriving: "asyncio.Future[None]") -> T:
        """Its result; but the connection may end while it waits."""
        task = asyncio.ensure_future(doing)
        try:
            either: set[asyncio.Future[Any]] = {task, arriving}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                arriving.result()
            return await task
        finally:
            task.cancel()

    async def _arrive(
        self, waiting: asyncio.Queue[tuple[float, bytes]], write: Callable[[bytes], Awaitable[None]], toward: str
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            at, data = await waiting.get()
            if not data:
                return
            if at > loop.time():
                await asyncio.sleep(at - loop.time())
            data, broken = self._suffer(data, toward)
            if data:
                await write(data)
            if broken is not None:
                raise broken

    def _suffer(self, data: bytes, toward: str) -> tuple[bytes, Broken | None]:
        """What arrives of these bytes, and whether the connection ends then."""
        one, fate = self._simulation, self._fate
        if not fate.faulty or one.toward not in (None, toward):
            return data, None
        before, fate.carried = fate.carried, fate.carried + len(data)
        data = self._flip(data)
        for limit, broken in (
            (one.cut_bytes, Broken(reset=False)),
            (one.reset_bytes, Broken(reset=True)),
            (one.blackhole_bytes, None),
        ):
            if limit is not None and fate.carried >= limit:
                return data[: max(0, limit - before)], broken
        return data, None

    def _flip(self, data: bytes) -> bytes:
        fate, out = self._fate, bytearray(data)
        place = 0
        while fate.until_flip < len(out) - place:
            place += int(fate.until_flip)
            out[place] ^= 1 << fate.chance.randrange(8)
            place += 1
            self._next_flip()
        fate.until_flip -= len(out) - place
        return bytes(out)

    def _next_flip(self) -> None:
        mean = self._simulation.flip_bytes
        self._fate.until_flip = int(self._fate.chance.expovariate(1 / mean)) if mean else float("inf")
