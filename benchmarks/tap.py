"""A wire in this process, which can be told between two connections what the channel is like, and cut what there is."""

import asyncio
import socket
import threading

import uvicorn

from harness.simulation import Simulation
from harness.wire import Passage, Relay, create_app


class Tap(Relay):
    """Listens at `port` on 127.0.0.1, and serves its counts at `counts`, a URL. It runs in a thread until `close`.

    carried: the bytes that Alice sent, by connection, those that were swallowed included.
    """

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 9)
        self.carried: list[bytearray] = []
        self._flip: tuple[str, int] | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, counts = (one.getsockname()[1] for one in sockets)
        self.counts = f"http://127.0.0.1:{counts}"
        config = uvicorn.Config(create_app(self, sockets[0]), log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([sockets[1]],), daemon=True)
        self._thread.start()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection, and keep what comes from Alice."""
        carried, read = bytearray(), reader.read
        self.carried.append(carried)

        async def noted(size: int = -1) -> bytes:
            data = await read(size)
            carried.extend(data)
            return data

        reader.read = noted  # type: ignore[method-assign]
        task = asyncio.current_task()
        assert task is not None
        self._loop = task.get_loop()
        self._open.add(task)
        try:
            await super().handle(reader, writer)
        except asyncio.CancelledError:
            if self._server.should_exit:
                raise
        finally:
            self._open.discard(task)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, passage: Passage, counter: str) -> None:
        toward = "bob" if counter.startswith("client") else "alice"
        if self._flip is not None and self._flip[0] == toward:
            (_, bit), self._flip = self._flip, None
            read, come = source.read, 0

            async def damaged(size: int = -1) -> bytes:
                nonlocal come
                data = bytearray(await read(size))
                place, come = bit // 8 - come, come + len(data)
                if 0 <= place < len(data):
                    data[place] ^= 1 << bit % 8
                return bytes(data)

            source.read = damaged  # type: ignore[method-assign]
        await super()._carry(source, target, passage, counter)

    def channel(self, text: str = "") -> None:
        """What later connections suffer; they are counted from here."""
        self._connections, self._flip = 0, None
        self.carried.clear()
        self.simulation = Simulation.parse(text) if text else None

    def flip(self, toward: str, bit: int) -> None:
        """The channel is good but for that bit of what flows toward `alice` or `bob` on the next connection."""
        self.channel()
        self._flip = toward, bit

    def cut(self) -> None:
        """End the connections that there are."""
        if self._loop is not None:
            for task in list(self._open):
                self._loop.call_soon_threadsafe(task.cancel)

    def toward(self, url: str) -> None:
        """Where Bob is."""
        self._upstream = "127.0.0.1", int(url.rpartition(":")[2])

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join()
