"""A pool of worker processes, as the event loop sees it: warmed at the start, one job each, replaced when lost."""

import asyncio
import logging
import os
import pickle
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from shared.service.errors import StorageFullError, WorkerLostError
from shared.service.kernels import prepare_kernel_cache
from shared.service.settings import Settings
from shared.service.worker import DecodeJob, EncodeJob, Input, Output, Ready, Task

logger = logging.getLogger("codelength.pool")

_LENGTH: Final = struct.Struct("<I")
_ABORT_SECONDS: Final = 10.0


class Worker:
    """One process. `run` starts a job, `tell` gives it inputs, `outputs` is what it says until it has finished."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._busy = False
        self._awaited_bytes: int | None = None  # of an answer whose length has been read: a wait for it may be cancelled
        self.sources: dict[str, tuple[bytes, int]] = {}

    @classmethod
    async def start(cls, environment: dict[str, str]) -> "Worker":
        """A process that is warm. Raises `WorkerLostError` if it does not come up."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",  # not -m: pickles must name the module, not __main__
            "from shared.service.worker import main; main()",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the service, which then stops its workers
        )
        worker = cls(process)
        ready = await worker._receive()
        if not isinstance(ready, Ready):
            raise WorkerLostError("a worker process did not start as it should")
        worker.sources = ready.sources
        return worker

    @property
    def alive(self) -> bool:
        """Whether the process runs and is between two jobs or in one."""
        return self._process.returncode is None

    @property
    def busy(self) -> bool:
        """Whether a job has been started and has not finished."""
        return self._busy

    async def ask(self, task: Task) -> Any:
        """Run a task to its end, and give its result. Raises its error, or `WorkerLostError`."""
        await self.run(task)
        result = None
        async for output in self.outputs():
            result = output.result
        return result

    async def run(self, job: EncodeJob | DecodeJob | Task) -> None:
        """Start a job."""
        self._busy = True
        await self._send(job)

    async def tell(
        self,
        *,
        received_bytes: int | None = None,
        durable_bytes: int | None = None,
        paused: bool | None = None,
        abort: bool = False,
    ) -> None:
        """Give the job an input; waits while the worker has more to do than it can take."""
        await self._send(Input(received_bytes=received_bytes, durable_bytes=durable_bytes, paused=paused, abort=abort))

    async def outputs(self) -> AsyncIterator[Output]:
        """What the job says. Raises its error, or `WorkerLostError`."""
        while True:
            output: Output = await self._receive()
            self._busy = self._busy and not output.finished
            if output.error is not None:
                raise output.error
            if output.failure is not None:
                raise StorageFullError(f"the worker could not write: {output.failure}")
            yield output
            if output.finished:
                return

    async def abort(self) -> None:
        """Stop the job; the process is killed if it does not obey."""
        if not self._busy:
            return
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                await self.tell(abort=True)
                while self._busy:
                    output = await self._receive()
                    self._busy = not output.finished
        except (TimeoutError, WorkerLostError):
            await self.kill()

    async def kill(self) -> None:
        """End the process at once."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Let the process end by itself, for a moment."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(2):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def _send(self, value: Any) -> None:
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(_LENGTH.pack(len(data)) + data)
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise WorkerLostError("the worker process is gone") from error

    async def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            if self._awaited_bytes is None:
                (self._awaited_bytes,) = _LENGTH.unpack(await self._process.stdout.readexactly(_LENGTH.size))
            data = await self._process.stdout.readexactly(self._awaited_bytes)
            self._awaited_bytes = None
            return pickle.loads(data)  # noqa: S301 - our own child
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise WorkerLostError("the worker process is gone") from error


class WorkerPool:
    """As many workers as transmissions may run at once."""

    def __init__(self, settings: Settings) -> None:
        self._size = settings.max_concurrent
        cache = prepare_kernel_cache(settings.cache_directory)
        self._environment = {
            **os.environ,
            "CODELENGTH_DEVICE": settings.device,
            "CODELENGTH_PRODUCTS": settings.products,
            "CODELENGTH_RANKS": str(settings.ranks),
            "CODELENGTH_WORKER_THREADS": str(settings.worker_threads),
            **({} if settings.warm is None else {"CODELENGTH_WARM": settings.warm}),
            **({} if settings.plugins is None else {"CODELENGTH_PLUGINS": settings.plugins}),
            **({} if settings.pretrained is None else {"CODELENGTH_PRETRAINED": settings.pretrained}),
            "NUMBA_CACHE_DIR": str(cache),
            "NUMBA_NUM_THREADS": "1",
            "OMP_NUM_THREADS": str(settings.worker_threads),
        }
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._turn = asyncio.Lock()  # who waits longest has it: a queue alone lets a newcomer in before the one it has woken
        self._all: set[Worker] = set()
        self._started = 0
        self.sources: dict[str, tuple[bytes, int]] = {}
        """Module of f to f's coded source archive and its length in bits; known once a worker is warm."""

    @property
    def warm(self) -> bool:
        """Whether every worker has come up."""
        return self._started >= self._size

    async def start(self) -> None:
        """Start all workers, the first alone so that it fills the kernel cache."""
        for _ in range(self._size):
            self._idle.put_nowait(await self._new())
            self._started += 1
            self.sources = next(iter(self._all)).sources

    async def stop(self) -> None:
        """End all workers."""
        await asyncio.gather(*(worker.stop() for worker in self._all))

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """An idle worker, waiting for one if need be, in the order of asking. Its job is aborted on the way out if it runs."""
        async with self._turn:
            worker = await self._idle.get()
        try:
            if not worker.alive:
                self._all.discard(worker)
                worker = await self._new()
            yield worker
        finally:
            # Shielded: a cancelled transmission must give its worker back.
            await asyncio.shield(self._give_back(worker))

    async def _give_back(self, worker: Worker) -> None:
        await worker.abort()
        self._idle.put_nowait(worker)

    async def _new(self) -> Worker:
        worker = await Worker.start(self._environment)
        self._all.add(worker)
        return worker
