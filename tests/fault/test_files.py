"""The command line's file channel, stopped half-way, raced, and at a terminal."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harness import files, filing
from harness.files import FileError, Manners, Source
from shared.code.models import preset
from shared.service import filing as channel

COMMAND = [sys.executable, "-m", "harness.cli"]
NOISE = np.random.default_rng(0).integers(0, 256, 12_000_000, dtype=np.uint8).tobytes()


@pytest.fixture
def big(tmp_path):
    (tmp_path / "big").write_bytes(NOISE)
    return tmp_path


def start(directory, *arguments, **options):
    """As a terminal would: what a shell runs in the background inherits an ignored SIGINT."""
    command = ["env", "--default-signal=INT", *COMMAND, *arguments]
    return subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, env=environment(), **options)


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def partial(directory):
    return [path for path in directory.iterdir() if path.name.endswith(".partial")]


def until_writing(process, directory):
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in partial(directory)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_leaves_nothing(big, number, status):
    process = start(big, "compress", "big")
    until_writing(process, big)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status
    assert b"Traceback" not in said
    assert [path.name for path in big.iterdir()] == ["big"]


def test_killed_leaves_no_output_under_its_name(big):
    process = start(big, "compress", "big", "--rm")
    until_writing(process, big)
    process.kill()
    process.wait()
    process.stderr.close()
    assert not (big / "big.clz1").exists()
    assert (big / "big").read_bytes() == NOISE


def test_interrupted_decompression_leaves_nothing(tmp_path):
    (tmp_path / "big").write_bytes(b"".join(b"%d " % i for i in range(400_000)))
    subprocess.run([*COMMAND, "compress", "--code", "ngram", "--rm", "-q", "big"], cwd=tmp_path, env=environment(), check=True)
    process = start(tmp_path, "decompress", "big.clz1")
    until_writing(process, tmp_path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["big.clz1"]


def test_a_file_that_comes_meanwhile_is_not_overwritten(tmp_path):
    (tmp_path / "in").write_bytes(b"in")
    with Source(str(tmp_path / "in")) as source:
        writing = files.writing(tmp_path / "out", source, Manners())
        writing.__enter__().write(b"ours")
        (tmp_path / "out").write_bytes(b"theirs")
        with pytest.raises(FileError, match="meanwhile"):
            writing.__exit__(None, None, None)
        assert (tmp_path / "out").read_bytes() == b"theirs"
        with files.writing(tmp_path / "out", source, Manners(force=True)) as file:
            file.write(b"ours")
    assert (tmp_path / "out").read_bytes() == b"ours"
    assert partial(tmp_path) == []


def test_a_file_system_without_links(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))
    (tmp_path / "in").write_bytes(b"in")
    with Source(str(tmp_path / "in")) as source, files.writing(tmp_path / "out", source, Manners()) as file:
        file.write(b"ours")
    assert (tmp_path / "out").read_bytes() == b"ours"


def compress(path, **manners):
    with Source(str(path)) as source:
        coding = filing.Coding(code="frequency", spec=preset("frequency"))
        return filing.compress(source, coding=coding, assets=channel.Assets(), manners=Manners(**manners), quiet=True)


def test_mode_and_times_are_kept(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b"in")
    path.chmod(0o640)
    os.utime(path, ns=(10**18, 10**18))
    compress(path)
    found = (tmp_path / "in.clz1").stat()
    assert (found.st_mode & 0o777, found.st_mtime_ns) == (0o640, 10**18)


def test_rm_keeps_an_input_that_does_not_verify(tmp_path, monkeypatch):
    path = tmp_path / "in"
    path.write_bytes(b"in")
    monkeypatch.setattr(channel, "decompress", lambda *_, **__: [])
    with pytest.raises(FileError, match="does not decode"):
        compress(path, remove=True)
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_rm_keeps_an_input_that_was_changed(tmp_path, monkeypatch):
    path = tmp_path / "in"
    path.write_bytes(b"in")
    real = channel.compress

    def touched(*arguments, **options):
        path.write_bytes(b"more")
        return real(*arguments, **options)

    monkeypatch.setattr(channel, "compress", touched)
    with pytest.raises(FileError, match="changed while it was read"):
        compress(path, remove=True)
    assert path.read_bytes() == b"more"


def at_terminal(arguments, *, stdin=False, stdout=False, directory):
    """Run with a terminal as standard error, and as others where asked; status, and what the terminal showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=directory,
        env={**environment(), "TERM": "xterm"},
        stdin=theirs if stdin else subprocess.DEVNULL,
        stdout=theirs if stdout else subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = io.BytesIO()
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:
            break
        if not data:
            break
        shown.write(data)
    os.close(ours)
    return process.wait(30), shown.getvalue().decode("utf-8", "replace")


def test_compressed_data_and_terminals(tmp_path):
    (tmp_path / "in").write_bytes(b"in")
    status, shown = at_terminal(["compress", "-c", "in"], stdout=True, directory=tmp_path)
    assert status == 2
    assert "not written to a terminal" in shown
    assert at_terminal(["compress", "-c", "-f", "in"], stdout=True, directory=tmp_path)[0] == 0
    status, shown = at_terminal(["decompress"], stdin=True, directory=tmp_path)
    assert status == 2
    assert "not read from a terminal" in shown


def test_progress_tells_rate_and_time_left(big):
    status, shown = at_terminal(["compress", "--code", "frequency", "big"], directory=big)
    assert status == 0
    assert "M/s" in shown
    assert "s left" in shown
    assert "\r\x1b[K" in shown
    status, shown = at_terminal(["decompress", "-q", "-f", "big.clz1"], directory=big)
    assert (status, shown) == (0, "")
