"""The transmissions of one service while it runs: live records, who waits for their changes, and the tasks that move them."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from shared.service.errors import ConflictError
from shared.service.records import Transmission
from shared.service.store import Store

logger = logging.getLogger("codelength.registry")

_SAVE_SECONDS: Final = 1.0
_SAVE_AGAIN_SECONDS: Final = 1.0


class Registry:
    """Live records, by id. What is settled lives in the store alone."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._live: dict[str, Transmission] = {}
        self._unsaved: dict[str, Transmission] = {}  # newer than in the store
        self._trying: asyncio.TimerHandle | None = None
        self.unchecked: dict[str, tuple[Any, ...]] = {}
        """By id, what has been decoded of a transmission's open block; see `worker.Progress`."""
        self._changed: dict[str, asyncio.Event] = {}
        self._saved_at: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.deleted: Callable[[Transmission], None] = lambda _: None
        """Called with every record that is forgotten."""

    def add(self, transmission: Transmission) -> None:
        """Begin to follow a transmission, a new one or one that is taken up again."""
        self.store.put_transmission(transmission)  # first: what cannot be kept is not followed
        self._live[transmission.id] = transmission
        self._changed[transmission.id] = asyncio.Event()

    def get(self, identifier: str) -> Transmission:
        """The record as it is now. Raises `NotFoundError`."""
        live = self._live.get(identifier)
        if live is not None:
            return self._placed(live)
        return self._unsaved.get(identifier) or self.store.transmission(identifier)

    def all(self) -> list[Transmission]:
        """Every record, oldest first."""
        newer = {**self._unsaved, **{one.id: self._placed(one) for one in self._live.values()}}
        return [newer.get(item.id, item) for item in self.store.transmissions()]

    def last_in_line(self, identifier: str) -> None:
        """It asks for a worker now: whoever asked before comes before it."""
        self._live[identifier] = self._live.pop(identifier)

    def _placed(self, record: Transmission) -> Transmission:
        """The record, with its place among those that wait: workers are given out in the order of asking."""
        record.queue_position = None
        if record.state == "queued":
            waiting = [one.id for one in self._live.values() if one.state == "queued"]
            record.queue_position = 1 + waiting.index(record.id)
        return record

    @property
    def unfinished(self) -> int:
        """Transmissions that are not settled."""
        return len(self._live)

    def changed(self, transmission: Transmission, *, save: bool = False) -> None:
        """Tell everybody who waits; progress is saved once a second, what `save` says at once."""
        now = asyncio.get_running_loop().time()
        if save or transmission.settled or now - self._saved_at.get(transmission.id, 0) >= _SAVE_SECONDS:
            self._saved_at[transmission.id] = now
            self._save(transmission)
        event = self._changed.get(transmission.id)
        if event is not None:
            self._changed[transmission.id] = asyncio.Event()
            event.set()
        if transmission.settled:
            for known in (self._live, self._changed, self._saved_at, self.unchecked):
                known.pop(transmission.id, None)

    def _save(self, transmission: Transmission) -> None:
        """A full disk must not stop a transmission's end from being told: what cannot be saved is kept here, and tried again."""
        self._unsaved.pop(transmission.id, None)
        try:
            self.store.put_transmission(transmission)
        except sqlite3.OperationalError as error:
            logger.error("the record of transmission %s cannot be saved: %s", transmission.id, error)  # noqa: TRY400 - one line
            self._unsaved[transmission.id] = transmission
            if self._trying is None:
                self._trying = asyncio.get_running_loop().call_later(_SAVE_AGAIN_SECONDS, self._save_again)

    def _save_again(self) -> None:
        self._trying = None
        for record in list(self._unsaved.values()):
            self._save(record)

    async def follow(self, identifier: str) -> AsyncIterator[Transmission]:
        """The record now and after every change, until it is settled. Raises `NotFoundError`."""
        record = self.get(identifier)
        while True:
            event = self._changed.get(identifier)
            yield self._placed(record) if identifier in self._live else record
            if event is None or record.settled:
                return
            await event.wait()

    def delete(self, identifier: str) -> None:
        """Forget a transmission. Raises `NotFoundError`, or `ConflictError` while it is under way."""
        if identifier in self._live:
            raise ConflictError(f"transmission {identifier} is {self._live[identifier].state}; cancel it first")
        record = self.get(identifier)
        self.store.delete_transmission(identifier)
        self.deleted(record)
        self._unsaved.pop(identifier, None)

    def start(self, identifier: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a transmission's work as a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[identifier] = task
        task.add_done_callback(lambda _: self._tasks.pop(identifier, None))

    def cancel_task(self, identifier: str) -> None:
        """Stop a transmission's work; the work says what becomes of the record."""
        if identifier in self._tasks:
            self._tasks[identifier].cancel()

    async def stop(self) -> None:
        """Stop all work and wait until it has ended."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
