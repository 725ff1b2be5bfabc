"""The command line, in this process where it can be."""

import json
import time

import pytest
from typer.testing import CliRunner

from harness.cli import app

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
    ("arguments", "status"),
    [
        (["transmit", "/nothing"], 2),
        (["transmit", "/"], 2),
        (["transmit", "README.md", "--alice", "http://x"], 2),
        (["serve", "eve"], 2),
    ],
)
def test_wrong_usage(arguments, status):
    assert run.invoke(app, arguments).exit_code == status


def test_unknown_preset(urls):
    done = run.invoke(app, ["transmit", "pyproject.toml", "--code", "zip", *urls])
    assert done.exit_code == 2
    assert "zip" in done.output
