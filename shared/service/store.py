"""What a service keeps: records in SQLite, contents in files named by their SHA-256. A file appears whole or not at all.

<state>/records.sqlite3        datasets, corpora, tokenizers and transmissions, as JSON
<state>/objects/<sha256>       canonical bytes of datasets, corpora and reconstructions; tokenizers' files
<state>/snapshots/             models after training on a corpus; a limit of their own holds for them
<state>/transmissions/<id>/    what Bob received and decodes; snapshots of either side's codec
<state>/incoming/              uploads under way, emptied at the start
"""

import contextlib
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from shared.service.errors import InterruptedTransmissionError, NotFoundError, problem_fields
from shared.service.records import Corpus, Dataset, Tokenizer, Transmission, now
from shared.service.snapshots import remove_snapshots

_SCHEMA = """
CREATE TABLE IF NOT EXISTS datasets (id TEXT PRIMARY KEY, created TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS corpora (id TEXT PRIMARY KEY, created TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tokenizers (id TEXT PRIMARY KEY, created TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS transmissions (id TEXT PRIMARY KEY, created TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS farewells (id TEXT PRIMARY KEY, reason TEXT NOT NULL, body TEXT NOT NULL);
"""
_ASSETS: Final[dict[type[Any], str]] = {Corpus: "corpora", Tokenizer: "tokenizers"}
A = TypeVar("A", Corpus, Tokenizer)


class Store:
    """The state directory of one service. Used from the event loop's thread only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._objects = directory / "objects"
        self._incoming = directory / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)
        for place in (self._objects, self._incoming, directory / "transmissions"):
            place.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(directory / "records.sqlite3", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.executescript(_SCHEMA)
        self._end_what_was_cut_off()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # datasets

    def put_dataset(self, dataset: Dataset) -> None:
        """Keep a record."""
        self._put("datasets", dataset.id, dataset)

    def dataset(self, identifier: str) -> Dataset:
        """Raises `NotFoundError`."""
        return Dataset.model_validate_json(self._get("datasets", identifier, "dataset"))

    def datasets(self) -> list[Dataset]:
        """All, oldest first."""
        return [Dataset.model_validate_json(body) for body in self._all("datasets")]

    def delete_dataset(self, identifier: str) -> None:
        """Forget record and contents. Raises `NotFoundError`."""
        self.dataset(identifier)
        self._database.execute("DELETE FROM datasets WHERE id = ?", (identifier,))
        self._drop_object(identifier)

    # corpora and tokenizers

    def put_asset(self, record: Corpus | Tokenizer) -> None:
        """Keep a record."""
        self._put(_ASSETS[type(record)], record.id, record)

    def asset(self, kind: type[A], identifier: str) -> A:
        """Raises `NotFoundError`."""
        return kind.model_validate_json(self._get(_ASSETS[kind], identifier, kind.__name__.lower()))

    def assets(self, kind: type[A]) -> list[A]:
        """All of a kind, oldest first."""
        return [kind.model_validate_json(body) for body in self._all(_ASSETS[kind])]

    def delete_asset(self, kind: type[A], identifier: str) -> None:
        """Forget record and contents. Raises `NotFoundError`."""
        self.asset(kind, identifier)
        self._database.execute(f"DELETE FROM {_ASSETS[kind]} WHERE id = ?", (identifier,))  # noqa: S608 - our names
        self._drop_object(identifier)

    # transmissions

    def put_transmission(self, transmission: Transmission) -> None:
        """Keep a record."""
        self._put("transmissions", transmission.id, transmission)

    def transmission(self, identifier: str) -> Transmission:
        """Raises `NotFoundError`."""
        return Transmission.model_validate_json(self._get("transmissions", identifier, "transmission"))

    def transmissions(self) -> list[Transmission]:
        """All, oldest first."""
        return [Transmission.model_validate_json(body) for body in self._all("transmissions")]

    def delete_transmission(self, identifier: str) -> None:
        """Forget record and files, and the reconstruction unless another record names it. Raises `NotFoundError`."""
        gone = self.transmission(identifier)
        self._database.execute("DELETE FROM transmissions WHERE id = ?", (identifier,))
        shutil.rmtree(self.transmission_directory(identifier), ignore_errors=True)
        if gone.reconstruction.sha256 is not None:
            self._drop_object(gone.reconstruction.sha256)

    def empty_transmission(self, identifier: str) -> None:
        """Delete the files of a transmission, and keep its record."""
        shutil.rmtree(self.transmission_directory(identifier), ignore_errors=True)

    def tidy_transmission(self, identifier: str) -> None:
        """Keep of the files of a transmission what tells of bits, and the decoded octets; the rest served to go on."""
        directory = self.transmission_directory(identifier)
        for path in (directory / "received", directory / "received.new", *directory.glob("*.partial")):
            path.unlink(missing_ok=True)
        remove_snapshots(directory)

    def put_farewell(self, transmission: Transmission, reason: str) -> None:
        """Remember that the peer must be told why this one was given up."""
        row = (transmission.id, reason, transmission.model_dump_json())
        self._database.execute("INSERT OR REPLACE INTO farewells VALUES (?, ?, ?)", row)

    def farewells(self) -> list[tuple[Transmission, str]]:
        """Those, with the reasons."""
        rows = self._database.execute("SELECT body, reason FROM farewells").fetchall()
        return [(Transmission.model_validate_json(body), reason) for body, reason in rows]

    def drop_farewell(self, identifier: str) -> None:
        """The peer knows."""
        self._database.execute("DELETE FROM farewells WHERE id = ?", (identifier,))

    def transmission_directory(self, identifier: str) -> Path:
        """Where Bob's files of a transmission lie."""
        return self.directory / "transmissions" / identifier

    # contents

    @property
    def snapshots(self) -> Path:
        """Where models are kept after training on a corpus."""
        return self.directory / "snapshots"

    def object(self, sha256: str) -> Path:
        """The path of the contents with this identity."""
        return self._objects / sha256

    @contextlib.contextmanager
    def incoming(self) -> Iterator[tuple[Path, IO[bytes]]]:
        """A file for an upload; it is deleted on the way out unless `adopt` took it."""
        path = self._incoming / uuid.uuid4().hex
        try:
            with path.open("w+b") as file:
                yield path, file
        finally:
            path.unlink(missing_ok=True)

    def adopt(self, path: Path, sha256: str) -> None:
        """Make a complete file the contents of this identity, durably."""
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(self.object(sha256))
        directory = os.open(self._objects, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def used_bytes(self) -> int:
        """Bytes of all files kept."""
        everything = (path for path in self.directory.rglob("*") if path.is_file() and path.parent != self.snapshots)
        return sum(path.stat().st_size for path in everything)

    def _drop_object(self, sha256: str) -> None:
        records = [*self.datasets(), *self.assets(Corpus)]
        held = sha256 in {one.id for one in records} | {one.id for one in self.assets(Tokenizer)}
        held = held or any(item.reconstruction.sha256 == sha256 for item in self.transmissions())
        if not held:
            self.object(sha256).unlink(missing_ok=True)

    def _end_what_was_cut_off(self) -> None:
        """A record that says it runs, when nothing runs yet, was cut off by the last stop. What is paused stays so.

        Of one that had ended the files that it no longer needs may still be there.
        """
        for item in self.transmissions():
            if item.state == "cancelled":
                self.empty_transmission(item.id)
            elif item.state in ("verified", "failed"):
                self.tidy_transmission(item.id)
            if not item.settled:
                if item.state in ("queued", "running", "interrupted"):
                    item.state, item.resuming = "interrupted", False
                    item.error = problem_fields(InterruptedTransmissionError("the service was stopped while it ran"))
                    item.finished_at = now()
                item.wire["final"] = True
                self.put_transmission(item)

    def _put(self, table: str, identifier: str, record: Dataset | Tokenizer | Transmission) -> None:
        self._database.execute(
            f"INSERT INTO {table} VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",  # noqa: S608 - our names
            (identifier, record.created_at.isoformat(), record.model_dump_json()),
        )

    def _get(self, table: str, identifier: str, kind: str) -> str:
        row = self._database.execute(f"SELECT body FROM {table} WHERE id = ?", (identifier,)).fetchone()  # noqa: S608
        if row is None:
            raise NotFoundError(kind, identifier)
        return str(row[0])

    def _all(self, table: str) -> list[str]:
        rows = self._database.execute(f"SELECT body FROM {table} ORDER BY created, id")  # noqa: S608
        return [str(row[0]) for row in rows]
