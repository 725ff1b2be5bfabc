"""Real processes on free ports: Alice, the wire, Bob."""

import asyncio
import json
import time

import httpx
import numpy as np
import pytest
import websockets

from harness.client import RequestError
from shared.channel.messages import CHANNEL_PATH, SUBPROTOCOL, Accept, Code, Error, Hello, Parser, Refuse
from shared.channel.protocol import Channel
from shared.channel.states import Role, State
from shared.code.models import preset
from shared.code.spec import CodeSpec
from tests.support import NETWORK_PRESETS, small

TEXT = (b"It was the best of times, it was the worst of times, " * 4000)[:150_000]


@pytest.mark.parametrize("code", ["uniform", "frequency", "ngram", "mixing"])
@pytest.mark.parametrize("data", [b"", b"a", TEXT], ids=["empty", "one", "text"])
def test_verified_and_counted(client, data, code, tmp_path):
    result = client.transmit(client.post_octets(data, "x")["id"], code, send_f=code == "ngram")
    assert result["state"] == "verified"
    assert result["reconstruction"]["verified"]
    one = result["wire"]["alice_to_bob"]
    assert one["witness_bytes"] == one["socket_bytes"]
    assert result["wire"]["final"]
    assert one["z_bytes"] == -(-result["z_bits"] // 8)
    for url in (client._urls.alice, client._urls.bob):  # so that their counts had to be equal
        record = client._json("GET", f"{url}/transmissions/{result['transmission']}")
        assert [end["broken"] for end in record["wire"]["connections"]] == [False]
    client.reconstruction(result["transmission"], tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


@pytest.mark.parametrize("m", [1, 300, 1 << 20])
def test_token_ids(cluster, client, m):
    tokens = np.minimum(np.random.default_rng(m).geometric(0.01, 5000), m - 1).tolist()
    dataset = httpx.post(f"{cluster.alice}/datasets", json={"vocabulary_size": m, "tokens": tokens}, trust_env=False).json()
    result = client.transmit(dataset["id"], "ngram")
    assert result["state"] == "verified"
    assert (result["s0_bits"] == result["f_bits"]["total"]) == (m == 1)
    back = httpx.get(f"{cluster.bob}/transmissions/{result['transmission']}/reconstruction", trust_env=False).json()
    assert back == {"vocabulary_size": m, "tokens": tokens}


def test_bits_and_events(cluster, client):
    result = client.transmit(client.post_octets(TEXT, "x")["id"], "frequency")
    url = f"{cluster.bob}/transmissions/{result['transmission']}"
    with httpx.Client(trust_env=False) as http:
        per_block = http.get(f"{url}/bits", params={"per": "block"}).json()["per_block"]
        per_token = http.get(f"{url}/bits", params={"per": "token"}).json()["per_token"]
        raw = http.get(f"{url}/bits", params={"per": "token"}, headers={"Accept": "application/octet-stream"}).content
        events = http.get(f"{url}/events").text
        listed = http.get(f"{cluster.bob}/transmissions").json()["transmissions"]
    assert len(per_token) == len(raw) // 4 == len(TEXT)
    assert abs(sum(per_token) - result["nll_bits"]) < 0.01
    assert len(per_block) == 3
    assert '"verified"' in events
    assert result["transmission"] in {one["id"] for one in listed}


def test_where_the_bits_went(cluster, client):
    data = b"abc ABC 123\n" * 200 + b"\xff!" + b"abc ABC 123\n" * 50
    result = client.transmit(client.post_octets(data, "x")["id"], "ngram")
    url = f"{cluster.bob}/transmissions/{result['transmission']}/bits"
    found = httpx.get(url, params={"per": "class"}, trust_env=False).json()["per_class"]
    by_class = {one["name"]: one for one in found["by_class"]}
    expected = {"lower case": 750, "upper case": 750, "digit": 750, "space": 500, "line end": 250, "punctuation": 1, "control": 0}
    assert {name: one["tokens"] for name, one in by_class.items()} == {**expected, "octet above 127": 1}
    for part in ("by_class", "by_novelty"):
        assert sum(one["tokens"] for one in found[part]) == len(data)
        assert abs(sum(one["nll_bits"] for one in found[part]) - result["nll_bits"]) < 0.01
    assert found["by_novelty"][0]["tokens"] == len(set(data))
    dearest = found["dearest"]
    assert [one["nll_bits"] for one in dearest] == sorted((one["nll_bits"] for one in dearest), reverse=True)
    assert dearest[0]["position"] in (2400, 2401)
    assert "3\n" in dearest[0]["text_before"]
    assert all(data[one["position"]] == one["token"] for one in dearest)
    assert all(data[one["position"] - len(one["before"]) : one["position"]] == bytes(one["before"]) for one in dearest)
    ids = httpx.post(
        f"{cluster.alice}/datasets", json={"vocabulary_size": 9, "tokens": [1] * 120 + [2, 3, 3]}, trust_env=False
    ).json()
    result = client.transmit(ids["id"], "frequency")
    url = f"{cluster.bob}/transmissions/{result['transmission']}/bits"
    found = httpx.get(url, params={"per": "class"}, trust_env=False).json()["per_class"]
    assert [one["tokens"] for one in found["by_class"]] == [1, 2, 0, 120]


def test_custom_spec(client):
    spec = {"model": {"kind": "ngram", "order": 2, "table_bits": 12}, "block_tokens": 1000}
    assert client.transmit(client.post_octets(TEXT, "x")["id"], spec)["state"] == "verified"


@pytest.mark.parametrize("code", NETWORK_PRESETS)
@pytest.mark.parametrize("data", [b"", b"a", b"shorter than one segment of all streams"], ids=["empty", "one", "short"])
def test_little_data_with_networks(client, code, data):
    result = client.transmit(client.post_octets(data, "x")["id"], code, send_f=code == "recurrent")
    assert result["state"] == "verified"
    assert result["notes"] == []
    assert result["steps"] == -(-len(data) // 1000)


def test_a_network_that_diverges_is_verified_and_told(client):
    spec = json.loads(small("recurrent", streams=16, segment_tokens=10, block_tokens=1000).canonical_bytes())
    spec["training"] = {"optimizer": {"rate": 1 << 20}}
    data = TEXT[:2000] + np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8).tobytes()
    result = client.transmit(client.post_octets(data, "x")["id"], spec)
    assert result["state"] == "verified"
    assert "training diverges" in result["notes"][0]


def test_upload_over_the_limit(client):
    with pytest.raises(RequestError, match="limit"):
        client.post_octets(b"\0" * (5 << 20), "big")


async def test_upload_cut_off_leaves_nothing(cluster):
    host, port = cluster.alice.removeprefix("http://").split(":")
    before = httpx.get(f"{cluster.alice}/datasets", trust_env=False).json()
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /datasets HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\nabc"
    )
    await writer.drain()
    writer.close()
    await asyncio.sleep(0.2)
    assert httpx.get(f"{cluster.alice}/datasets", trust_env=False).json() == before


def bob_channel(cluster, **options):
    url = cluster.bob.replace("http", "ws") + CHANNEL_PATH
    return websockets.connect(url, **{"subprotocols": [SUBPROTOCOL], "compression": None, "proxy": None, **options})


def hello(**fields) -> Hello:
    base = {"transmission": "f" * 32, "spec": preset("uniform").canonical_bytes(), "tokens": 1, "media_type": "", "name": "",
            "code": "uniform", "runtime": "{}"}  # fmt: skip
    return Hello(**{**base, **fields})


def sealed(message) -> bytes:
    alice = Channel(Role.ALICE)
    alice.send(message)
    return alice.data_to_send()


async def answer(socket):
    parser = Parser()
    while (message := parser.next()) is None:
        parser.feed(await socket.recv())
    return message


@pytest.mark.parametrize(
    ("data", "problem", "code"),
    [
        (bytes(range(200, 256)), None, None),
        (b"\x03\x01\x07\x00", "version-mismatch", 4025),
        (b"\x02\x0b\x00", "unexpected-message", None),
        (b"\x02\x63x", "unknown-message", 4023),
    ],
)
async def test_nonsense_on_the_channel(cluster, client, data, problem, code):
    async with bob_channel(cluster) as socket:
        await socket.send(data)
        try:
            message = await asyncio.wait_for(answer(socket), 15)
            assert isinstance(message, Error)
            assert problem in (None, message.problem) or data[1] == 0x0B
            await asyncio.wait_for(socket.wait_closed(), 15)
        except websockets.ConnectionClosed:
            pass
        assert socket.close_code is not None
        assert code in (None, socket.close_code)
    assert client.transmit(client.post_octets(b"unharmed", "x")["id"], "uniform")["state"] == "verified"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"spec": b"nonsense"}, "invalid-spec"),
        ({"transmission": "../etc"}, "malformed-request"),
        ({"tokens": 1 << 60}, "limit-exceeded"),
    ],
)
async def test_bob_refuses(cluster, fields, problem):
    async with bob_channel(cluster) as socket:
        await socket.send(sealed(hello(**fields)))
        message = await asyncio.wait_for(answer(socket), 15)
        assert isinstance(message, Refuse)
        assert message.problem == problem


async def test_models_beyond_the_limit_are_refused_with_the_number_and_the_setting(cluster, client):
    """At HELLO by Bob, and at POST by Alice."""
    spec = CodeSpec.from_fields({"model": {"kind": "transformer", "width": 4096, "layers": 8, "heads": 64}})
    said = f"a model of {spec.memory_bytes} bytes", "CODELENGTH_MAX_MODEL_BYTES"
    async with bob_channel(cluster) as socket:
        await socket.send(sealed(hello(spec=spec.canonical_bytes())))
        message = await asyncio.wait_for(answer(socket), 15)
        assert isinstance(message, Refuse)
        assert message.problem == "limit-exceeded"
        assert all(part in message.reason for part in said), message.reason
    body = {"dataset": client.post_octets(b"x", "x")["id"], "code": json.loads(spec.canonical_bytes())}
    posted = httpx.post(f"{cluster.alice}/transmissions", json=body, trust_env=False)
    assert (posted.status_code, posted.json()["type"]) == (413, "urn:codelength:problem:limit-exceeded")
    assert all(part in posted.json()["detail"] for part in said), posted.text


async def test_bob_refuses_another_f(cluster):
    async with bob_channel(cluster) as socket:
        alice = Channel(Role.ALICE)
        alice.send(hello(transmission="e" * 32))
        await socket.send(alice.data_to_send())
        assert isinstance(await asyncio.wait_for(answer(socket), 15), Accept)
        alice.state = State.ACCEPTED
        alice.send(Code(name="source uniform", data=b"p = 1"))
        await socket.send(alice.data_to_send())
        message = await asyncio.wait_for(answer(socket), 15)
        assert isinstance(message, Error)
        assert message.problem == "code-mismatch"
    record = httpx.get(f"{cluster.bob}/transmissions/{'e' * 32}", trust_env=False).json()
    assert record["state"] == "failed"


async def test_another_subprotocol_is_told(cluster):
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with bob_channel(cluster, subprotocols=["codelength.99"]):
            pass
    assert refused.value.response.status_code == 426
    assert json.loads(refused.value.response.body)["type"].endswith("version-mismatch")


def test_pause_resume_cancel(cluster, client):
    data = np.random.default_rng(0).integers(0, 256, 4_000_000, dtype=np.uint8).tobytes()
    identifier = client.post_octets(data, "noise")["id"]
    with httpx.Client(base_url=cluster.alice, trust_env=False, timeout=30) as http:
        url = "/transmissions/" + http.post("/transmissions", json={"dataset": identifier, "code": "ngram"}).json()["id"]
        wait_for(http, url, "running")
        assert http.post(url + "/pause").json()["state"] == "paused"
        time.sleep(0.3)
        first = http.get(url).json()["tokens_done"]
        time.sleep(0.3)
        assert http.get(url).json()["tokens_done"] == first
        assert http.delete(f"/datasets/{identifier}").status_code == 409
        assert http.post(url + "/resume").status_code == 200
        assert http.post(url + "/cancel").status_code == 202
        assert wait_for(http, url, "cancelled")["error"]["type"].endswith("cancelled")
        assert http.post(url + "/cancel").status_code == 409
    with httpx.Client(base_url=cluster.bob, trust_env=False, timeout=30) as http:
        wait_for(http, url, "cancelled")
        assert http.get(url + "/reconstruction").status_code == 409


def wait_for(http, url, state):
    deadline = time.monotonic() + 20
    while (record := http.get(url).json())["state"] != state:
        assert time.monotonic() < deadline, record
        time.sleep(0.01)
    return record
