"""A state directory on a small file system: full under SQLite and all else, and read-only. Needs root to mount one."""

import contextlib
import os
import sqlite3
import subprocess

import pytest

from shared.service.errors import is_full
from shared.service.records import Dataset
from shared.service.store import Store

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
