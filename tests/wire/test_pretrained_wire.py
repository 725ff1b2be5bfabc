"""Pretrained models through real services: verified and charged, fine-tuned, refused by name, killed, and in files."""

import json
import os
import signal
import time

import httpx
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.client import Client, RequestError, Urls
from harness.cluster import Cluster
from tests.pretrained_models import TEXT, held, save_ids, save_tiny


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return save_tiny(root / "tiny"), save_ids(root / "lonely")


@pytest.fixture(scope="module")
def cluster(directories):
    tiny, lonely = map(str, directories)
    own = {"alice": {"CODELENGTH_PRETRAINED": f"{tiny}:{lonely}"}, "bob": {"CODELENGTH_PRETRAINED": tiny}}
    with Cluster(warm=[], own=own) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as client:
        yield client


def spec_of(client, name):
    return next(one["spec"] for one in client.codes() if one["name"] == name)


def test_it_is_transmitted_frozen_verified_and_charged(client, directories):
    result = client.transmit(client.post_octets(TEXT[:700], "x")["id"], "tiny", send_f=True)
    assert result["state"] == "verified", result["error"]
    assert result["regime"] == "frozen"
    assert result["steps"] == 0
    assert result["z_bits"] < 6 * 700
    assert result["notes"] == []
    listed = {one["name"]: one for one in client.codes()}["tiny"]
    assert listed["digest"] == result["code"]["digest"]
    assert listed["f_bits"] == result["f_bits"]
    weights = (directories[0] / "model.safetensors").stat().st_size
    assert 0.8 * 8 * weights < result["f_bits"]["assets"] < 8.1 * weights
    assert 0 < result["compression_rate"] < 0.05
    assert result["compression_rate_net_of_f"] > 0.5


def test_it_is_fine_tuned_by_both(client):
    dataset = client.post_octets(TEXT[:700], "x")["id"]
    fields = spec_of(client, "tiny") | {"segment_tokens": 8, "streams": 2, "training": {"optimizer": {"rate": 3000}}}
    result = client.transmit(dataset, fields)
    frozen = client.transmit(dataset, fields | {"training": {"kind": "frozen"}})
    assert result["state"] == "verified", result["error"]
    assert result["steps"] == 44  # 350 rows of 2 streams
    assert result["z_bits"] < 0.97 * frozen["z_bits"]


def test_a_bob_who_has_it_not_refuses_by_name(client):
    ids = client.post_tokens([5, 299, 7] * 50, 300, "ids")["id"]
    result = client.transmit(ids, "lonely")
    assert result["state"] == "failed"
    assert result["error"]["type"].endswith("pretrained-unavailable")
    files = spec_of(client, "lonely")["model"]["files"]
    assert f"the pretrained model lonely ({files[:16]}…): it is not held here" in result["error"]["detail"]
    assert client.record("alice", result["transmission"])["tokens_done"] == 0
    with pytest.raises(RequestError, match="the pretrained model tiny: its vocabulary has m = 256, the data m = 300"):
        client.transmit(ids, "tiny")


@pytest.mark.long
def test_killed_and_started_again_it_goes_on(client, cluster, tmp_path):
    """Both sides, workers too, in the middle: the state is the window's tokens, the weights where it learns."""
    dataset = client.post_octets(TEXT * 2, "x")["id"]
    for regime in ("frozen", "online"):
        fields = spec_of(client, "tiny") | {"block_tokens": 500, "training": {"kind": regime}}
        sent = httpx.post(f"{cluster.alice}/transmissions", json={"dataset": dataset, "code": fields}, trust_env=False).json()
        wait_for(cluster.bob, sent["id"], under_way=2000)
        for name in ("alice", "bob"):
            os.killpg(cluster.process(name).pid, signal.SIGKILL)
            cluster.start(name)
        record = wait_for(cluster.alice, sent["id"], under_way=None)
        assert record["state"] == "verified", record["error"]
        client.reconstruction(sent["id"], tmp_path / regime)
        assert (tmp_path / regime).read_bytes() == TEXT * 2


def wait_for(base, identifier, *, under_way):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            record = httpx.get(f"{base}/transmissions/{identifier}", trust_env=False, timeout=30).json()
        except httpx.HTTPError:
            record = {}
        ended = record.get("state") in ("failed", "verified", "cancelled") and record["wire"]["final"]
        if ended or (under_way is not None and record.get("tokens_done", 0) > under_way):
            return record
        time.sleep(0.02)
    raise AssertionError(record)


def test_files_need_the_model_at_both_ends(directories, tmp_path, monkeypatch):
    monkeypatch.setenv("CODELENGTH_PRETRAINED", "")
    run, option = CliRunner(), ["--pretrained", str(directories[0])]
    file, out = tmp_path / "f", tmp_path / "back"
    file.write_bytes(TEXT[:500])
    with held(directories[0]):
        done = run.invoke(app, ["compress", str(file), *option])
        assert done.exit_code == 0, done.output
    done = run.invoke(app, ["decompress", f"{file}.clz1", "-o", str(out), "--json"])
    assert done.exit_code == 2
    error = json.dumps(json.loads(done.stdout)["files"][0]["error"])
    assert "pretrained-unavailable" in error
    assert not out.exists()
    with held(directories[0]):
        assert run.invoke(app, ["decompress", f"{file}.clz1", "-o", str(out), *option]).exit_code == 0
    assert out.read_bytes() == TEXT[:500]
