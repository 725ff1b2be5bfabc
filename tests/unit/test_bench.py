"""The benchmark: peers are decoded and compared, results are kept and not measured twice, tables hold what was measured."""

import json

import pytest
from typer.testing import CliRunner

from harness import pareto, peers
from harness.bench import Bench, BenchError, files
from harness.cli import app
from harness.peers import Peer, PeerError

COPY = Peer(name="copy", compress="cat {input}", decompress="cp {packed} {output}")


@pytest.fixture
def data(tmp_path):
    place = tmp_path / "data" / "below"
    place.mkdir(parents=True)
    (place / "text").write_bytes(b"abc" * 1000)
    (place.parent / "other").write_bytes(b"x")
    (place.parent / "empty").touch()
    return place.parent


def test_a_peer_is_decoded_and_compared(data, tmp_path):
    found = peers.measure(COPY, data / "below" / "text", tmp_path)
    assert found["size_bytes"] == 3000
    assert 0 < found["compress"]["peak_memory_bytes"] < 64 << 20  # its own, not this process's
    loses = Peer(name="loses", compress="cat {input}", decompress="head -c 2999 {packed}")
    with pytest.raises(PeerError, match="gave back another file than text"):
        peers.measure(loses, data / "below" / "text", tmp_path)
    fails = Peer(name="fails", compress="ls nothing-here", decompress="cat {packed}")
    with pytest.raises(PeerError, match=r"exit status [12]: .*nothing-here"):
        peers.measure(fails, data / "below" / "text", tmp_path)


def test_what_is_measured_is_kept_and_not_measured_again(data, tmp_path):
    place, told = tmp_path / "out" / "r.json", []
    names = [path.name for path in files(data, None)]
    assert names == ["text", "other"]
    for rounds, again in ((2, False), (1, False), (1, True)):
        with Bench(place, told.append) as bench:
            bench.run(files(data, None), [], [COPY], rounds, again=again)
    assert len(told) == 2 * 2 + 0 + 2
    results = json.loads(place.read_text())["results"]
    assert [(one["file"], one["size_bytes"]) for one in results] == [("other", 1), ("text", 3000)]
    with pytest.raises(BenchError, match="no file nothing"):
        files(data, ["nothing"])


def entry(name, file, size, seconds, kind="code"):
    side = {"seconds": seconds, "peak_memory_bytes": 10**7}
    host = {"processor": "P", "cores": 2, "python": "3", "commit": "c", "date": "2026-01-01"}
    more = {"f_bytes": 500} if kind == "code" else {}
    about = {"file": file, "bytes": 1000, "name": name, "kind": kind, "size_bytes": size, "machine": host}
    return about | {"compress": side, "decompress": side} | more


def test_tables_and_picture(tmp_path):
    results = [entry("a", "f", 300, 1), entry("b", "f", 200, 2, "peer"), entry("a", "g", 100, 1)]
    text = pareto.document(results, "p.svg")
    assert "| `a` | 300 | 2.400 | 800 | 1 | 1 | 10 |" in text
    assert "| b | 200 | 1.600 | not charged | 0 | 0 | 10 |" in text
    assert "| b | **200** | – |" in text
    assert pareto.frontier([(1, 5), (2, 4), (2, 6), (3, 9), (1, 9)]) == [(2, 4), (3, 9)]
    pareto.draw(results, "f", tmp_path / "p.svg")
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_the_command(data, tmp_path, monkeypatch):
    config = tmp_path / "peers.toml"
    config.write_text('[[peer]]\nname = "copy"\ncompress = "cat {input}"\ndecompress = "cat {packed}"\n')
    out = tmp_path / "out"
    rest = ["--data", str(data), "--codes", "-", "--config", str(config), "--out", str(out)]
    done = CliRunner().invoke(app, ["bench", *rest, "--peers", "copy", "--files", "text"])
    assert done.exit_code == 0, done.output
    assert "| copy | 3,000 | 8.000 | not charged |" in done.output
    assert {path.name for path in out.iterdir()} == {"data.json", "data.md", "data.svg"}
    assert "no peer is called nobody" in CliRunner().invoke(app, ["bench", *rest, "--peers", "nobody"]).output
    bad = CliRunner().invoke(app, ["bench", "--data", str(data), "--codes", "mixing:int8"])
    assert (bad.exit_code, "only networks have variants" in bad.output) == (2, True)
