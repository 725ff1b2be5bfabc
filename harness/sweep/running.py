"""A sweep under way: pairs in threads take trials from one queue; a row is kept as each trial ends.

A pair that is lost is replaced, and its trial tried once more; a trial that fails is kept as a row with its error. The thread
that calls `sweep` is the only one that writes, and whatever ends it closes every pair.
"""

import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from harness import terminal
from harness.cluster import StartError
from harness.sweep.grid import Trial
from harness.sweep.pairs import Pair, PairLostError, TrialError, Where
from harness.sweep.table import Row, Table
from shared.service.kernels import package_version, sources_digest

_LOOK_SECONDS: Final = 0.2
_TRIES: Final = 2

OpenPair = Callable[[], Pair]


def sweep(trials: list[Trial], open_pair: OpenPair, pairs: int, table: Table, said: int = 0) -> None:
    """Make the trials, on so many pairs at once, and keep their rows. said: trials that were made before, for what is told.

    Raises `StartError` where no pair can be opened, `TableError` where a row cannot be kept.
    """
    work = _Work(trials, open_pair)
    threads = [threading.Thread(target=work.run, daemon=True) for _ in range(min(pairs, len(trials)))]
    total, tokens = len(trials), sum(trial.dataset.tokens for trial in trials)
    finished = finished_tokens = 0
    try:
        for thread in threads:
            thread.start()
        with terminal.Progress("sweep", "tokens") as progress:
            while finished < total:
                progress.update(finished_tokens + work.tokens_done, tokens, f"{said + finished:,} of {said + total:,} trials")
                try:
                    found = work.results.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(found, BaseException):
                    raise found
                trial, row = found
                table.add(row)
                finished += 1
                finished_tokens += trial.dataset.tokens
                progress.note(f"{said + finished:>{len(str(said + total))},} of {said + total:,}  {told(trial, row)}")
    finally:
        work.stop()
        for thread in threads:
            if thread.is_alive():
                thread.join(30)


def told(trial: Trial, row: Row) -> str:
    """A trial that has ended, in one line."""
    if row["state"] != "verified":
        return f"{trial.title}: {row['state']}: {row['error']}"
    rate = "–" if row["compression_rate"] is None else f"{100 * row['compression_rate']:.2f} %"
    return f"{trial.title}: r_k {rate}, z {row['z_bytes']:,} bytes, {row['seconds_total']:.1f} s"


class _Work:
    """What the threads share."""

    def __init__(self, trials: list[Trial], open_pair: OpenPair) -> None:
        self._todo: queue.SimpleQueue[tuple[Trial, int]] = queue.SimpleQueue()
        for trial in trials:
            self._todo.put((trial, 1))
        self._open_pair = open_pair
        self._stopped = threading.Event()
        self._pairs: list[Pair] = []
        self._lock = threading.Lock()
        self._done: dict[int, int] = {}
        self.results: queue.SimpleQueue[tuple[Trial, Row] | BaseException] = queue.SimpleQueue()
        """Rows as trials end, or what ends the sweep."""

    @property
    def tokens_done(self) -> int:
        """Of the trials that run."""
        return sum(list(self._done.values()))

    def stop(self) -> None:
        """Close every pair; threads end when they notice."""
        self._stopped.set()
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.close()

    def run(self) -> None:
        """Take trials until none is left."""
        pair: Pair | None = None
        try:
            while not self._stopped.is_set():
                try:
                    trial, tries = self._todo.get_nowait()
                except queue.Empty:
                    break
                pair = pair or self._opened()
                pair = self._one(pair, trial, tries)
        except BaseException as error:  # noqa: BLE001 - told to the thread that called
            if not self._stopped.is_set():
                self.results.put(error)
        finally:
            self._close(pair)

    def _opened(self) -> Pair:
        pair = self._open_pair()
        with self._lock:
            if not self._stopped.is_set():
                self._pairs.append(pair)
                return pair
        pair.close()
        raise StartError("the sweep was stopped")

    def _close(self, pair: Pair | None) -> None:
        if pair is None:
            return
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.remove(pair)
        pair.close()

    def _one(self, pair: Pair, trial: Trial, tries: int) -> Pair | None:
        """One try at a trial; the pair, unless it was lost."""
        started, thread = datetime.now(UTC), threading.get_ident()
        clock = time.monotonic()

        def progress(tokens: int) -> None:
            self._done[thread] = tokens

        result: dict[str, Any] = {}
        error = None
        kept: Pair | None = pair
        try:
            result = pair.run(trial, progress)
        except TrialError as failure:
            error = str(failure)
        except PairLostError as failure:
            self._close(pair)
            kept = None
            if tries < _TRIES or self._stopped.is_set():
                self._todo.put((trial, tries + 1))
                return kept
            error = f"the services were lost {_TRIES} times: {failure}"
        finally:
            self._done.pop(thread, None)
        row = row_of(trial, pair.where, result, error)
        row["started_at"], row["finished_at"] = started.isoformat(), datetime.now(UTC).isoformat()
        if row["seconds_total"] is None:
            row["seconds_total"] = time.monotonic() - clock
        self.results.put((trial, row))
        return kept


def row_of(trial: Trial, where: Where, result: dict[str, Any], error: str | None) -> Row:
    """A row of the table. result: what `transmit --json` prints; empty where it came to none, for the reason in `error`."""
    f_bits, seconds = result.get("f_bits", {}), result.get("seconds", {})
    wire, memory = result.get("wire", {}), result.get("peak_memory_bytes", {})
    problem = result.get("error") or {}
    figures = ("steps", "nll_bits", "z_bits", "s0_bits", "sk_bits", "compression_rate", "compression_rate_net_of_f")
    z_bits = result.get("z_bits")
    return {
        "trial": trial.key,
        "dataset": trial.dataset.name,
        "dataset_sha256": trial.dataset.sha256,
        "size": trial.dataset.size or None,
        "tokens": trial.dataset.tokens,
        "bytes": result.get("dataset", {}).get("bytes"),
        "octets": result.get("dataset", {}).get("octets"),
        "vocabulary_size": trial.dataset.vocabulary.size,
        "tokenizer": trial.spec.tokenizer,
        "code": trial.code,
        "spec": trial.spec.canonical_bytes().decode("ascii"),
        "spec_digest": trial.spec.digest(),
        "f": sources_digest(),
        "seed": trial.seed,
        "regime": trial.spec.training.kind,
        "k": trial.k,
        "corpus": None if trial.corpus is None else trial.corpus.name,
        "corpus_sha256": None if trial.corpus is None else trial.corpus.sha256,
        "state": result.get("state", "failed"),
        "error": error or problem.get("detail"),
        **{name: result.get(name) for name in (*figures, "bits_per_token", "bits_per_byte")},
        "z_bytes": None if z_bits is None else -(-z_bits // 8),
        "f_bits": f_bits.get("total"),
        **{f"f_{name}_bits": f_bits.get(name) for name in ("spec", "source", "assets")},
        **{f"wire_bytes_{name}": wire.get(name, {}).get("socket_bytes") for name in ("alice_to_bob", "bob_to_alice")},
        "witness_bytes_alice_to_bob": wire.get("alice_to_bob", {}).get("witness_bytes"),
        "connections": wire.get("connections"),
        "reconstruction_sha256": result.get("reconstruction", {}).get("sha256"),
        **{f"seconds_{name}": seconds.get(name) for name in ("prepare", "encode", "decode", "total")},
        **{f"peak_memory_bytes_{side}": memory.get(side) for side in ("alice", "bob")},
        "node_alice": where.node_alice,
        "node_bob": where.node_bob,
        "runtime_alice": where.runtime_alice,
        "runtime_bob": where.runtime_bob,
        "runtimes_differ": "; ".join(where.differences) or None,
        "notes": "; ".join(result.get("notes", ())) or None,
        "version": package_version(),
    }
