"""The command line, in this process where it can be."""

import hashlib
import json
import signal
import subprocess
import sys
import time

import httpx
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.terminal import has_desktop
from shared.service import choosing

run = CliRunner()


@pytest.fixture
def urls(cluster):
    return ["--alice", cluster.alice, "--bob", cluster.bob, "--wire", cluster.wire]


def test_transmit_json(urls, tmp_path):
    (tmp_path / "f").write_bytes(b"hello hello hello")
    done = run.invoke(app, ["transmit", str(tmp_path / "f"), "--json", "--save", str(tmp_path / "back"), *urls])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["state"] == "verified"
    assert {"dataset", "code", "f_bits", "nll_bits", "z_bits", "wire", "seconds", "peak_memory_bytes"} <= set(result)
    assert (tmp_path / "back").read_bytes() == b"hello hello hello"


def test_demo(urls):
    done = run.invoke(app, ["demo", "--codes", "uniform,ngram, uniform", *urls])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith("verified")] == ["uniform", "ngram"]
    assert run.invoke(app, ["demo", "--codes", "zip", *urls]).exit_code == 2


@pytest.mark.parametrize(
    ("environment", "terminal", "found"),
    [
        ({"DISPLAY": ":0"}, True, True),
        ({"WAYLAND_DISPLAY": "wayland-0", "CI": "0"}, True, True),
        ({"DISPLAY": ":0", "CI": "1"}, True, False),
        ({"DISPLAY": ":0"}, False, False),
        ({}, True, False),
    ],
)
def test_a_desktop_is_a_display_at_a_terminal(monkeypatch, environment, terminal, found):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert has_desktop() is found


@pytest.mark.long
def test_the_demo_stays_until_it_is_interrupted():
    """Started as at a terminal: what a shell runs in the background inherits an ignored SIGINT."""
    command = ["env", "--default-signal=INT", sys.executable, "-m", "harness.cli", "demo", "--stay", "--codes", "uniform"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            while "stay up" not in (lines or [""])[-1]:
                line = process.stderr.readline()
                assert line, lines
                lines.append(line)
            page = next(line for line in lines if "Watch it at" in line).split()[-1]
            answer = httpx.get(page, trust_env=False)
            assert answer.status_code == 200
            assert "verified" in answer.text
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()  # of no use but to a failed test; the services end with it
    assert process.returncode == 0
    assert "verified" in out
    with pytest.raises(httpx.ConnectError):
        httpx.get(page, trust_env=False)


@pytest.mark.long
def test_the_whole_demo(urls):
    started = time.monotonic()
    done = run.invoke(app, ["demo", *urls])
    assert done.exit_code == 0, done.output
    names = [line.split()[0] for line in done.stdout.splitlines() if line.endswith("verified")]
    assert {"uniform", "recurrent"} <= set(names)
    assert "transformer" not in names
    assert time.monotonic() - started < 180


def test_codes(urls):
    done = run.invoke(app, ["codes", "--json"])
    here = json.loads(done.stdout)["codes"]
    there = json.loads(run.invoke(app, ["codes", "--json", "--alice", urls[1]]).stdout)["codes"]
    assert here == there
    assert "ngram" in run.invoke(app, ["codes"]).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["transmit", "/nothing"], "no such file"),
        (["transmit", "/"], "not a regular file"),
        (["transmit", "README.md", "--alice", "http://x"], "come together"),
        (["transmit", "README.md", "--ranks", "0"], "from 1 to 64"),
        (["transmit", "README.md", "--ranks", "1,2,3"], "from 1 to 64"),
        (["transmit", "README.md", "--ranks", "2", "--alice", "http://x", "--bob", "http://x"], "CODELENGTH_RANKS"),
        (
            ["transmit", "README.md", "--ranks", "1,3", "--code", "recurrent"],
            "cannot share 16 streams evenly; 1, 2, 4, 8 or 16 can",
        ),
        (["transmit", "README.md", "--ranks", "2"], "2 ranks have nothing to share"),
        (
            ["transmit", "README.md", "--ranks", "2", "--code", "recurrent", "--set", "numerics=native"],
            "only networks with exact numerics",
        ),
        (["transmit", "README.md", "--code", "auto", "--set", "training.replay.passes=1"], "yet to choose"),
        (["transmit", "README.md", "--plugin", "README.md"], "line "),
        (["serve", "eve"], "eve"),
    ],
)
def test_wrong_usage(arguments, said):
    done = run.invoke(app, arguments)
    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_unknown_preset(urls):
    done = run.invoke(app, ["transmit", "pyproject.toml", "--code", "zip", *urls])
    assert done.exit_code == 2
    assert "zip" in done.output


def test_compress_takes_what_does_best_on_the_beginning(tmp_path, monkeypatch):
    """By z alone, since |f| is no part of a file; all of the data follows, beyond the beginning as well."""
    monkeypatch.setattr(choosing, "candidates", lambda *_: ["uniform", "frequency", "ngram"])
    text, noise = tmp_path / "text", b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(50))
    for data, best in ((b"to be or not to be, " * 6000, "ngram"), (noise, "uniform")):
        text.write_bytes(data)
        out = tmp_path / f"{best}.clz1"
        done = run.invoke(app, ["compress", str(text), "--code", "auto", "-o", str(out), "--rm"])
        assert done.exit_code == 0, done.output
        assert f", auto: {best} of 3, " in done.output
        listed = json.loads(run.invoke(app, ["list", "--json", str(out)]).stdout)["files"][0]["transmissions"][0]
        assert (listed["code"], listed["bytes"]) == (f"auto: {best} of 3", len(data))
        assert run.invoke(app, ["decompress", str(out), "-o", str(text), "-q"]).exit_code == 0
        assert text.read_bytes() == data


def test_a_field_is_set_and_the_code_says_so(urls, tmp_path):
    """Replay over the services, with a corpus that both train on first, frozen and online."""
    text, corpus = tmp_path / "text", tmp_path / "corpus"
    text.write_bytes(b"to be or not to be, " * 100)
    corpus.write_bytes(b"that is the question, " * 100)
    fields = ["--code", "transformer", "--set", "training.replay.passes=2", "--set", "segment_tokens=8"]
    for regime in ("online", "frozen"):
        start = ["--corpus", str(corpus), "--steps", "9", "--regime", regime]
        done = run.invoke(app, ["transmit", str(text), "--json", *fields, *start, *urls])
        assert done.exit_code == 0, done.output
        result = json.loads(done.stdout)
        assert (result["state"], result["code"]["name"]) == ("verified", "custom")
        assert result["steps"] == (9 if regime == "frozen" else 9 + 16)
    spec = httpx.get(f"{urls[1]}/transmissions/{result['transmission']}", trust_env=False).json()["code"]["spec"]
    assert spec["training"]["replay"] == {"passes": 2, "history_bits": 20}
