"""What a service does with its state directory when it starts."""

import pytest

from shared.service.examples import TRANSMISSION
from shared.service.records import Transmission
from shared.service.store import Store

KEPT = {"blocks.jsonl", "costs", "reconstruction.octets"}
WORKING = {"received", "received.new", "reconstruction.partial", "reconstruction.octets.partial", "snapshot.1", "snapshot.new"}


@pytest.mark.parametrize(
    ("state", "left"),
    [
        ("verified", KEPT),
        ("failed", KEPT),
        ("cancelled", set()),
        ("interrupted", KEPT | WORKING),
        ("paused", KEPT | WORKING),
    ],
)
def test_files_that_a_kill_left_behind_are_gone_after_the_next_start(tmp_path, state, left):
    """Killed after the record said how it ended, and before the files that served to go on were deleted."""
    record = Transmission.model_validate({**TRANSMISSION, "state": state})
    store = Store(tmp_path)
    store.put_transmission(record)
    directory = store.transmission_directory(record.id)
    directory.mkdir()
    for name in KEPT | WORKING:
        (directory / name).write_bytes(b"x")
    store.close()
    Store(tmp_path).close()
    assert {path.name for path in directory.glob("*")} == left
