"""The results of a sweep as one table: JSON lines, on disk before a trial counts as finished, and from them CSV and Parquet.

A line that a kill cut short is dropped when the file is opened again. Where a trial was made twice, the later row counts.
"""

import csv
import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

Row = dict[str, Any]

COLUMNS: Final[dict[str, type]] = {
    # what was measured, and what determines it
    "trial": str,
    "dataset": str,
    "dataset_sha256": str,
    "size": int,
    "tokens": int,
    "bytes": int,
    "octets": int,
    "vocabulary_size": int,
    "tokenizer": str,
    "code": str,
    "spec": str,
    "spec_digest": str,
    "f": str,
    "seed": int,
    "regime": str,
    "k": int,
    "corpus": str,
    "corpus_sha256": str,
    # what came of it
    "state": str,
    "error": str,
    "steps": int,
    "f_bits": int,
    "f_spec_bits": int,
    "f_source_bits": int,
    "f_assets_bits": int,
    "nll_bits": float,
    "z_bits": int,
    "z_bytes": int,
    "s0_bits": float,
    "sk_bits": float,
    "compression_rate": float,
    "compression_rate_net_of_f": float,
    "bits_per_token": float,
    "bits_per_byte": float,
    "wire_bytes_alice_to_bob": int,
    "wire_bytes_bob_to_alice": int,
    "witness_bytes_alice_to_bob": int,
    "connections": int,
    "reconstruction_sha256": str,
    # what it took, and where
    "seconds_prepare": float,
    "seconds_encode": float,
    "seconds_decode": float,
    "seconds_total": float,
    "peak_memory_bytes_alice": int,
    "peak_memory_bytes_bob": int,
    "node_alice": str,
    "node_bob": str,
    "runtime_alice": str,
    "runtime_bob": str,
    "runtimes_differ": str,
    "notes": str,
    "version": str,
    "started_at": str,
    "finished_at": str,
}
"""Every column and its type; any may be null. Bits and bytes are exact; `spec` and runtimes are JSON."""

NAME: Final = "trials"


class TableError(Exception):
    """The table cannot be used, or written."""


class Table:
    """The table in a directory, which it is the only one to write to while open."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{NAME}.jsonl"
        self._file: IO[bytes] | None = None
        self._rows: dict[str, Row] = {}
        self.dropped = False
        """Whether the file ended in a line cut short."""

    def __enter__(self) -> Self:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.__exit__(None, None, None)
            raise TableError(f"{self._path}: another sweep is writing to it") from None
        except OSError as error:
            raise TableError(f"{error.filename}: {(error.strerror or str(error)).lower()}") from None
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            self.dropped = True
            self._file.truncate(whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            self._take(line, number)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def _take(self, line: bytes, number: int) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not (isinstance(row, dict) and row.keys() <= COLUMNS.keys() and isinstance(row.get("trial"), str)):
            self.__exit__(None, None, None)
            raise TableError(f"{self._path}: line {number} is no row of a sweep's table")
        self._rows[row["trial"]] = row

    def add(self, row: Row) -> None:
        """Keep a row; it is on disk once this returns. Raises `TableError`."""
        assert self._file is not None
        row = {name: row.get(name) for name in COLUMNS}
        try:
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TableError(f"{self._path}: cannot be written: {(error.strerror or str(error)).lower()}") from None
        self._rows[str(row["trial"])] = row

    def get(self, key: str) -> Row | None:
        """The row of a trial, if it was made."""
        return self._rows.get(key)

    def rows(self) -> list[Row]:
        """One row for each trial ever made here, in an order that does not depend on when: datasets, codes, seeds, k."""
        return sorted(self._rows.values(), key=_order)

    def write(self) -> list[Path]:
        """Write the table as CSV, and as Parquet where pyarrow is installed; whole or not at all. Raises `TableError`."""
        from importlib.util import find_spec

        writers = {".csv": _write_csv} | ({".parquet": _write_parquet} if find_spec("pyarrow") else {})
        out = []
        for suffix, write in writers.items():
            path = self._directory / f"{NAME}{suffix}"
            partial = path.with_name(f".{path.name}.partial")
            try:
                write(self.rows(), partial)
                partial.replace(path)
            except OSError as error:
                raise TableError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from None
            finally:
                partial.unlink(missing_ok=True)
            out.append(path)
        return [self._path, *out]


def _order(row: Row) -> tuple[Any, ...]:
    names = ("dataset", "tokens", "code", "seed", "k")
    return (*((row.get(name) is not None, row.get(name)) for name in names), row["trial"])


def _write_csv(rows: list[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: list[Row], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
