"""Curves by real transmissions: falling, from S_0 on, interrupted and continued; and samples of what was learned."""

import json
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.curve import Curve, CurveError, parse_steps, summary

TEXT = (
    b"It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife. " * 80
)[:8000]
CORPUS = b"However little known the feelings or views of such a man may be, this truth is so well fixed. " * 100
run = CliRunner()


@pytest.fixture
def files(tmp_path):
    (tmp_path / "data").write_bytes(TEXT)
    (tmp_path / "corpus").write_bytes(CORPUS)
    return tmp_path


def curve(cluster, files, *more, steps="3,0,1"):
    where = ["--alice", cluster.alice, "--bob", cluster.bob, "--wire", cluster.wire, "--corpus", str(files / "corpus")]
    return run.invoke(app, ["curve", str(files / "data"), "--steps", steps, *where, *more])


def test_curve(cluster, files):
    kept, png = files / "kept.json", files / "curve.png"
    done = curve(cluster, files, "--code", "frequency,ngram", "--json", "--online", "--png", str(png), "--continue", str(kept))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads(kept.read_text())
    for name in ("frequency", "ngram"):
        points = [one for one in found["points"] if one["label"] == name]
        assert [one["k"] for one in points] == [one["steps"] for one in points] == [0, 1, 3]
        assert all(one["state"] == "verified" for one in points)
        assert abs(points[0]["sk_bits"] - points[0]["s0_bits"]) < 1
        assert points[1]["sk_bits"] < points[0]["sk_bits"]
    assert png.read_bytes().startswith(b"\x89PNG")
    for one in found["online"]:
        assert one["tokens_seen"][-1] == len(TEXT)
        assert abs(one["bits"][-1] - one["nll_bits"]) < 1e-3
        assert one["regret_bits"] == one["nll_bits"] - one["final_model_bits"]
    again = curve(cluster, files, "--code", "ngram", "--continue", str(kept), steps="0,2,3")
    assert again.stderr.count(" at k = ") == 1
    assert "ngram at k = 2" in again.stderr
    assert "beyond, it is taken from its beginning again" not in again.stderr
    assert len(json.loads(kept.read_text())["points"]) == 7  # those of the other code stay


def test_interrupted_and_continued(client, files, monkeypatch):
    """What was made before the interruption is not made again, and the file is whole at any moment."""
    dataset, corpus = client.post_file(files / "data"), client.post_corpus(files / "corpus")
    transmit, made = client.transmit, []

    def counted(*arguments, **options):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(options["training"]["steps"])
        return transmit(*arguments, **options)

    monkeypatch.setattr(client, "transmit", counted)
    with pytest.raises(KeyboardInterrupt):
        Curve(client, dataset, files / "kept").frozen(["ngram"], [0, 1, 2, 3], corpus, str)
    made.clear()
    whole = Curve(client, dataset, files / "kept")
    whole.frozen(["ngram"], [0, 1, 2, 3], corpus, str)
    assert made == [2, 3]
    assert [one["k"] for one in whole.points] == [0, 1, 2, 3]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_stopped_in_the_middle_and_continued(cluster, files, number, status):
    """As a process, by Ctrl-C and by force: the file is whole, and only what it lacks is made."""
    kept = files / "kept.json"
    where = ["--alice", cluster.alice, "--bob", cluster.bob, "--corpus", str(files / "corpus"), "--continue", str(kept)]
    command = [sys.executable, "-m", "harness.cli", "curve", str(files / "data"), "--code", "frequency", *where]
    steps = ",".join(map(str, range(100)))
    process = subprocess.Popen(["env", "--default-signal=INT", *command, "--steps", steps], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not kept.exists() or len(json.loads(kept.read_text())["points"]) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status, said
    assert "Traceback" not in said
    made = json.loads(kept.read_text())["points"]
    assert 2 <= len(made) < 100
    again = curve(
        cluster, files, "--code", "frequency", "--continue", str(kept), "--json", steps=",".join(map(str, range(len(made) + 1)))
    )
    assert again.exit_code == 0, again.output
    points = json.loads(again.stdout)["points"]
    assert points[:-1] == made
    assert [(one["k"], one["state"]) for one in points] == [(k, "verified") for k in range(len(made) + 1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "holds no points"),
        ('{"format": 2}', "format 2 is not 1"),
        ('{"format": 1, "dataset": {"sha256": "0"}, "points": [], "online": []}', "of another dataset, 0"),
        ('{"format": 1, "points": []}', "holds no points"),
    ],
)
def test_files_that_cannot_be_continued(cluster, files, text, said):
    (files / "kept").write_text(text)
    done = curve(cluster, files, "--continue", str(files / "kept"))
    assert done.exit_code == 2
    assert said in done.output
    assert (files / "kept").read_text() == text


@pytest.mark.parametrize("steps", ["", "x", "1,-2", "1.5", "1,,x", "9" * 20])
def test_no_steps(steps):
    with pytest.raises(CurveError, match="no list of steps"):
        parse_steps(steps)


def test_wrong_usage(files):
    for bad in (["--steps", "5"], ["--code", "zip"], ["--png", "/nowhere/x.png"], ["--corpus", "/nowhere"], ["--steps", "a"]):
        assert run.invoke(app, ["curve", str(files / "data"), *bad]).exit_code == 2, bad


def test_past_the_corpus_is_told(cluster, files):
    done = curve(cluster, files, "--code", "frequency", steps="9")
    assert "has 3 steps; beyond, it is taken from its beginning again" in done.stderr


def test_summary_of_nothing_and_of_one():
    assert summary(np.zeros(0))["final_loss"] is None
    one = summary(np.array([3.0]))
    assert (one["final_loss"], one["bits"], one["excess_description_length_bits"]) == (3.0, [3.0], 0.0)
    falling = summary(np.repeat([8.0, 2.0], [90, 10]))
    assert (falling["final_loss"], falling["excess_description_length_bits"]) == (2.0, 540.0)


@pytest.mark.parametrize("code", ["ngram", "recurrent"])
def test_samples(cluster, client, code):
    """The seed decides; costs are close to the flips; and the sample is of the model, whose text it continues."""
    result = client.transmit(client.post_octets(TEXT, "x")["id"], code)
    first, again, other = (client.sample(result["transmission"], 100, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["tokens"] != other["tokens"]
    assert len(first["tokens"]) == 100
    assert 0 <= first["flips"] - first["nll_bits"] <= 72
    assert first["nll_bits"] < 8 * 100
    assert first["steps"] == result["steps"]
    assert first["position"] <= len(TEXT)
    assert len(client.sample(result["transmission"], 5, None)["tokens"]) == 5
    where = ["--alice", cluster.alice, "--bob", cluster.bob, "--transmission", result["transmission"]]
    done = run.invoke(app, ["sample", *where, "--seed", "1", "-n", "100", "--json"])
    assert json.loads(done.stdout) == first


def test_samples_at_the_ends(cluster, client):
    assert httpx.post(f"{cluster.bob}/transmissions/{'0' * 32}/sample", json={}, trust_env=False).status_code == 404
    uniform = client.transmit(client.post_octets(b"abc", "x")["id"], "ngram", training={"regime": "frozen"})
    assert client.sample(uniform["transmission"], 3, 1)["nll_bits"] == 24
    empty = client.transmit(client.post_octets(b"", "x")["id"], "recurrent")
    assert len(client.sample(empty["transmission"], 3, 1)["tokens"]) == 3
    for bad in ({"tokens": 0}, {"seed": -1}, {"tokens": 1 << 20}):
        url = f"{cluster.bob}/transmissions/{empty['transmission']}/sample"
        assert httpx.post(url, json=bad, trust_env=False).status_code == 422
