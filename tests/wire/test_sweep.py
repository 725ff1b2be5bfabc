"""`codelength sweep` over running services: a table of verified rows, resumed, retried, drawn."""

import hashlib
import json
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.sweep import pairs
from tests.support import byte_level_tokenizer

GRID = """
datasets = ["d.txt"]
sizes = [100, 400]
codes = ["frequency", "ngram"]
steps = ["online", 0, 2]
corpus = "c.txt"
"""
run = CliRunner()


@pytest.fixture
def grid(tmp_path, client, cluster, monkeypatch):
    """A grid, and pairs that are the services of all tests; `made` lists the trials that reached them."""

    class Shared:
        made: ClassVar[list[str]] = []

        def __init__(self, warm):
            runtimes = pairs.runtime_at(cluster.alice, "Alice"), pairs.runtime_at(cluster.bob, "Bob")
            self.where = pairs.Where(node_alice="here", node_bob="here", runtime_alice=runtimes[0], runtime_bob=runtimes[1])

        def run(self, trial, progress):
            self.made.append(trial.title)
            return pairs.perform(client, pairs.Order.of(trial), progress)

        def close(self):
            pass

    monkeypatch.setattr(pairs, "LocalPair", Shared)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.txt").write_bytes(b"It is a truth universally acknowledged " * 20)
    (tmp_path / "c.txt").write_bytes(b"However little known the feelings " * 300)
    (tmp_path / "grid.toml").write_text(GRID)
    return Shared


def test_sweep(grid, tmp_path):
    done = run.invoke(app, ["sweep", "grid.toml", "--local", "--json", "--plot", "k.png"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["trials"]) == len(grid.made) == 12
    for row in found["trials"]:
        assert row["state"] == "verified"
        assert row["dataset_sha256"] == row["reconstruction_sha256"]
        assert row["wire_bytes_alice_to_bob"] == row["witness_bytes_alice_to_bob"] > row["z_bytes"]
        assert row["sk_bits"] == row["f_bits"] + row["nll_bits"]
        assert row["runtimes_differ"] is None
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "grid.sweep" / "data").exists()

    lines = (tmp_path / "grid.sweep" / "trials.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "grid.sweep" / "trials.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:99])  # killed in the sixth
    grid.made.clear()
    again = run.invoke(app, ["sweep", "grid.toml", "--local", "--json", "--plot", "s.svg", "--against", "size"])
    assert len(grid.made) == 7
    assert "cut short" in again.stderr
    moving = {name for name in found["trials"][0] if name.startswith(("seconds", "peak", "started", "finished"))}
    plain = [
        [{k: v for k, v in row.items() if k not in moving} for row in one["trials"]] for one in (found, json.loads(again.stdout))
    ]
    assert plain[0] == plain[1]
    assert "12 of 12 trials" in again.stderr


def test_octets_by_a_tokenizer(grid, tmp_path):
    """`--tokenizer` is for all octets; tokens, a corpus among them, are sent by it and cost what it costs."""
    (tmp_path / "t.json").write_text(byte_level_tokenizer((tmp_path / "d.txt").read_text(), 270).to_str())
    (tmp_path / "grid.toml").write_text(GRID.replace("100, 400", "30").replace('"frequency", ', "").replace(", 0,", ","))
    done = run.invoke(app, ["sweep", "grid.toml", "--local", "--json", "--tokenizer", "t.json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["trials"]
    assert [(row["dataset"], row["tokens"], row["k"], row["state"]) for row in rows] == [
        ("d.txt@t.json", 30, k, "verified") for k in (None, 2)
    ]
    for row in rows:
        assert row["tokenizer"] == hashlib.sha256((tmp_path / "t.json").read_bytes()).hexdigest()
        assert row["dataset_sha256"] == row["reconstruction_sha256"]
        assert row["octets"] > row["tokens"]
        assert row["bits_per_byte"] == pytest.approx(row["nll_bits"] / row["octets"])
        assert row["f_assets_bits"] > 0
    assert rows[1]["f_assets_bits"] > rows[0]["f_assets_bits"]


def test_failures_are_kept_and_retried(grid, tmp_path, monkeypatch):
    run_one = grid.run
    monkeypatch.setattr(grid, "run", lambda *_: (_ for _ in ()).throw(pairs.TrialError("the cable is cut")))
    (tmp_path / "grid.toml").write_text('datasets = ["d.txt"]\ncodes = ["frequency"]')
    done = run.invoke(app, ["sweep", "grid.toml", "--local", "-o", "out"])
    assert done.exit_code == 1
    assert "failed: the cable is cut" in done.stdout
    monkeypatch.setattr(grid, "run", run_one)
    kept = run.invoke(app, ["sweep", "grid.toml", "--local", "-o", "out"])
    assert (kept.exit_code, grid.made) == (1, [])
    again = run.invoke(app, ["sweep", "grid.toml", "--local", "-o", "out", "--retry"])
    assert (again.exit_code, len(grid.made)) == (0, 1)
    assert len((tmp_path / "out" / "trials.jsonl").read_bytes().splitlines()) == 2


def test_what_alice_refuses_is_a_row(grid, tmp_path):
    (tmp_path / "grid.toml").write_text('datasets = ["d.txt"]\ncodes = ["s"]\n[specs.s.model]\nkind = "ngram"\n')
    (tmp_path / "d.txt").write_bytes(bytes(5 << 20))  # above the services' limit
    done = run.invoke(app, ["sweep", "grid.toml", "--local", "--json"])
    (row,) = json.loads(done.stdout)["trials"]
    assert (done.exit_code, row["state"]) == (1, "failed")
    assert "CODELENGTH_MAX_UPLOAD_BYTES" in row["error"]


def test_wrong_usage(grid, tmp_path, monkeypatch):
    (tmp_path / "bad.toml").write_text("datasets = 1")
    for bad in (["--local", "--address", "x"], ["--against", "colour"], ["--plot", "x.gif"]):
        assert run.invoke(app, ["sweep", "grid.toml", *bad]).exit_code == 2, bad
    done = run.invoke(app, ["sweep", "bad.toml", "--local"])
    assert done.exit_code == 2
    assert "datasets: Input should be a valid list" in done.output
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = run.invoke(app, ["sweep", "grid.toml", "--address", "10.0.0.1:6379"])
    assert missing.exit_code == 2
    assert "codelength[cluster]" in missing.output
