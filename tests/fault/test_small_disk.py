"""A state directory on a small file system: full under SQLite and all else, and read-only. Needs root to mount one."""

import contextlib
import json
import os
import sqlite3
import subprocess
import time

import httpx
import pytest

from benchmarks.faults import end
from harness.cluster import Cluster, StartError
from shared.service.errors import is_full
from shared.service.records import Dataset
from shared.service.store import Store
from tests.faulty import NOISE, at, begin, in_state, settled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")


@pytest.fixture
def mounted(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this root may not mount: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def dataset(number) -> Dataset:
    fields = {"vocabulary": "bytes", "vocabulary_size": 256, "tokens": 1, "bytes": 1, "media_type": "", "name": "x" * 4000}
    return Dataset(id=f"{number:064x}", sha256=f"{number:064x}", **fields)


def test_full_under_sqlite_and_there_is_room_again(mounted):
    store = Store(mounted)
    store.put_dataset(dataset(0))
    kept = 1
    filler = mounted / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    told = None
    while told is None and kept < 1000:
        try:
            store.put_dataset(dataset(kept))
            kept += 1
        except sqlite3.OperationalError as error:
            told = error
    assert told is not None
    assert is_full(told), told
    assert len(store.datasets()) == kept
    filler.unlink()
    store.put_dataset(dataset(5000))
    store.close()
    again = Store(mounted)
    assert len(again.datasets()) == kept + 1
    again.close()


def resize(place, size):
    subprocess.run(["mount", "-o", f"remount,{size}", str(place)], check=True)


def on(place, side):
    """Services of which one has its state there."""
    own = {side: {"CODELENGTH_STATE_DIRECTORY": str(place)}}
    return Cluster(warm=["ngram"], environment={"CODELENGTH_RETRY_SECONDS": "300"}, own=own)


def until_kept(database, identifier, state):
    """Wait until the record on the disk says so."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as one:
            (body,) = one.execute("SELECT body FROM transmissions WHERE id = ?", (identifier,)).fetchone()
        if json.loads(body)["state"] == state:
            return
        time.sleep(0.1)
    raise AssertionError(body)


@pytest.mark.long
@pytest.mark.parametrize("room", [200, 900, 2000, 5000, 9000])
def test_bobs_disk_is_full_until_there_is_room(mounted, room):
    """Wherever it happens: Alice says why she waits and goes on by herself; so she does where Bob is started again in between."""
    resize(mounted, "size=100m")
    with on(mounted, "bob") as cluster, httpx.Client(base_url=cluster.alice, trust_env=False, timeout=30) as alice:
        used = sum(path.stat().st_size for path in mounted.rglob("*") if path.is_file())
        resize(mounted, f"size={used // 1024 + room}k")
        identifier = begin(alice, NOISE * 3, "ngram")
        record = in_state(cluster.alice, identifier, "interrupted")
        assert record["resuming"]
        assert record["error"]["type"].endswith("storage-full"), record["error"]
        if room == 2000:
            end(cluster, "bob")
        resize(mounted, "size=100m")
        if room == 2000:
            cluster.start("bob")
        assert settled(cluster.alice, identifier)["state"] == "verified"
        back = httpx.get(f"{cluster.bob}/transmissions/{identifier}/reconstruction", trust_env=False).content
        assert back == NOISE * 3


@pytest.mark.long
def test_alices_disk_is_full_until_there_is_room(mounted):
    """Requests say so and change nothing; what is under way goes on, and its record is kept once there is room."""
    resize(mounted, "size=100m")
    with on(mounted, "alice") as cluster, httpx.Client(base_url=cluster.alice, trust_env=False, timeout=30) as alice:
        identifier = begin(alice, NOISE * 10, "ngram")
        at(cluster.bob, identifier, 100_000)
        alice.post(f"/transmissions/{identifier}/pause")
        filler = mounted / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        answer = alice.post("/datasets", content=NOISE, headers={"Content-Type": "application/octet-stream"})
        assert answer.status_code == 507, answer.text
        assert answer.json()["type"].endswith("storage-full")
        assert alice.post(f"/transmissions/{identifier}/resume").status_code == 200
        assert in_state(cluster.bob, identifier, "verified")
        assert in_state(cluster.alice, identifier, "verified")
        filler.unlink()
        until_kept(next(mounted.rglob("records.sqlite3")), identifier, "verified")
        end(cluster, "alice")
        cluster.start("alice")
        assert in_state(cluster.alice, identifier, "verified")


@pytest.mark.long
@pytest.mark.parametrize("side", ["alice", "bob"])
def test_no_start_on_a_disk_that_is_full_or_may_not_be_written(mounted, side):
    """A sentence and exit status 3; nothing that was there is touched."""
    store = Store(mounted / side)
    store.put_dataset(dataset(0))
    store.close()
    before = {path: path.read_bytes() for path in mounted.rglob("*") if path.is_file()}
    for option, said in (
        ("ro", "read-only file system"),
        (f"rw,size={60 + sum(map(len, before.values())) // 1024}k", "no space left"),
    ):
        resize(mounted, option)
        with pytest.raises(StartError, match=f"cannot write to .*: {said}"), on(mounted, side):
            pass
        assert {path: path.read_bytes() for path in mounted.rglob("*") if path.is_file()} == before
