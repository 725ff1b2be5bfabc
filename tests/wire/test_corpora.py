"""Corpora at both services, training on them before the first token, and what is wrong with them, told by name."""

import asyncio
import hashlib
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
import websockets

from shared.channel.messages import CHANNEL_PATH, SUBPROTOCOL, Hello, Prepared
from shared.channel.protocol import Channel
from shared.channel.states import Role
from shared.code.codec import Encoder, prepare
from shared.code.models import preset
from shared.code.spec import Start
from shared.code.vocabulary import to_tokens
from shared.service.starts import _LINE, _signature

DATA = b"It was the best of times, it was the worst of times. " * 300
HEADERS = {"Content-Type": "application/octet-stream"}


def corpus_of(number):
    """A text of its own for each test, like the data."""
    return (f"Chapter {number}. " * 50).encode() + DATA[1000:9000]


def post(url, content, **query):
    answer = httpx.post(f"{url}/corpora", content=content, headers=HEADERS, params=query, trust_env=False, timeout=60)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def both(cluster, number):
    post(cluster.alice, corpus_of(number))
    return post(cluster.bob, corpus_of(number))


def state(cluster, side):
    return Path(cluster._directory.name) / side


@pytest.fixture
def dataset(client):
    return client.post_octets(DATA, "x")["id"]


def test_the_curve_begins_at_s0_and_falls(cluster, client, dataset):
    corpus = both(cluster, 0)
    assert corpus["id"] == hashlib.sha256(corpus_of(0)).hexdigest()
    assert 0 < corpus["asset_bits"] < 8 * len(corpus_of(0))
    found, before = {}, set((state(cluster, "alice") / "snapshots").glob("*.state"))
    for steps in (0, 1, 3, 2):
        training = {"corpus": corpus["id"], "steps": steps, "regime": "frozen"}
        result = found[steps] = client.transmit(dataset, "ngram", training=training)
        assert (result["state"], result["steps"], result["regime"]) == ("verified", steps, "frozen")
    assert abs(found[0]["sk_bits"] - found[0]["s0_bits"]) < 1
    assert found[0]["f_bits"]["assets"] == 0
    assert found[1]["f_bits"]["assets"] == corpus["asset_bits"]
    assert found[0]["sk_bits"] > found[1]["sk_bits"] > found[3]["sk_bits"]
    kept = sorted(path.name.rpartition("-")[2] for path in set((state(cluster, "alice") / "snapshots").glob("*.state")) - before)
    assert kept == ["1.state", "2.state", "3.state"]
    online = client.transmit(dataset, "ngram", training={"corpus": corpus["id"], "steps": 2})
    assert (online["state"], online["steps"]) == ("verified", 2 + -(-len(DATA) // 4096))
    assert online["z_bits"] < client.transmit(dataset, "ngram")["z_bits"]


def test_networks_with_and_without_learning(cluster, client):
    corpus, dataset = both(cluster, 1), client.post_octets(DATA[:3000], "x")["id"]
    bits = {}
    for regime in ("online", "frozen"):
        result = client.transmit(dataset, "recurrent", training={"corpus": corpus["id"], "steps": 10, "regime": regime})
        assert result["state"] == "verified"
        bits[regime] = result["z_bits"]
    assert bits["online"] < bits["frozen"] < 8 * 3000


def test_ids(cluster, client):
    tokens = np.minimum(np.random.default_rng(1).geometric(0.05, 3000), 299).tolist()
    body = {"vocabulary_size": 300, "tokens": tokens}
    dataset = httpx.post(f"{cluster.alice}/datasets", json=body, trust_env=False).json()["id"]
    for url in (cluster.alice, cluster.bob):
        corpus = httpx.post(f"{url}/corpora", json=body, trust_env=False).json()
    assert corpus["id"] == dataset
    training = {"corpus": dataset, "steps": 1, "regime": "frozen"}
    assert client.transmit(dataset, "frequency", training=training)["state"] == "verified"
    octets = client.post_octets(DATA, "x")["id"]
    refused = httpx.post(f"{cluster.alice}/transmissions", json={"dataset": octets, **training}, trust_env=False)
    assert "it has m = 300, the code m = 256" in refused.json()["detail"]
    assert httpx.delete(f"{cluster.bob}/corpora/{dataset}", trust_env=False).status_code == 204
    assert httpx.get(f"{cluster.bob}/corpora/{dataset}", trust_env=False).status_code == 404
    assert dataset not in httpx.get(f"{cluster.bob}/corpora", trust_env=False).text
    assert httpx.get(f"{cluster.alice}/datasets/{dataset}", trust_env=False).status_code == 200


def test_a_corpus_that_one_side_lacks_is_named(cluster, client, dataset):
    sha256 = hashlib.sha256(corpus_of(2)).hexdigest()
    training = {"corpus": sha256, "steps": 1}
    refused = httpx.post(f"{cluster.alice}/transmissions", json={"dataset": dataset, **training}, trust_env=False)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:codelength:problem:corpus-unavailable")
    assert f"{sha256}: Alice does not hold it" in refused.json()["detail"]
    post(cluster.alice, corpus_of(2))
    result = client.transmit(dataset, "ngram", training=training)
    assert result["state"] == "failed"
    assert result["error"]["type"] == "urn:codelength:problem:corpus-unavailable"
    assert f"{sha256}: Bob does not hold it" in result["error"]["detail"]


async def test_training_beyond_the_limit_is_refused_with_both_numbers_and_the_setting(cluster, client, dataset):
    """At POST by Alice, and at HELLO by Bob: a stranger may ask for 2^40 steps."""
    corpus = both(cluster, 6)["id"]
    spec = preset("ngram").with_training(frozen=True, start=Start(corpus=corpus, steps=1 << 40))
    said = f"training on {4096 << 40} tokens", f"the limit of {1 << 30} (CODELENGTH_MAX_TRAINING_TOKENS)"
    body = {"dataset": dataset, "code": "ngram", "corpus": corpus, "steps": 1 << 40, "regime": "frozen"}
    refused = httpx.post(f"{cluster.alice}/transmissions", json=body, trust_env=False)
    assert (refused.status_code, refused.json()["type"]) == (413, "urn:codelength:problem:limit-exceeded")
    assert all(part in refused.json()["detail"] for part in said), refused.text
    channel, url = Channel(Role.ALICE), cluster.bob.replace("http", "ws") + CHANNEL_PATH
    async with websockets.connect(url, subprotocols=[SUBPROTOCOL], compression=None, proxy=None) as link:
        channel.send(
            Hello(transmission="6" * 32, spec=spec.canonical_bytes(), tokens=9, media_type="", name="", code="", runtime="")
        )
        await link.send(channel.data_to_send())
        channel.receive_data(await asyncio.wait_for(link.recv(), 15))
        (answer,) = channel.events()
        assert (type(answer).__name__, answer.problem) == ("Refuse", "limit-exceeded")
        assert all(part in answer.reason for part in said), answer.reason


def test_an_empty_corpus_and_steps_without_one(cluster, client, dataset):
    for url in (cluster.alice, cluster.bob):
        empty = post(url, b"")["id"]
    result = client.transmit(dataset, "ngram", training={"corpus": empty, "steps": 1})
    assert result["state"] == "failed"
    assert "nothing can be learned" in result["error"]["detail"]
    for bad in (
        {"steps": 5},
        {"corpus": empty},
        {"steps": -1, "corpus": empty},
        {"regime": "thawed"},
        {"steps": 1, "corpus": "x"},
    ):
        assert httpx.post(f"{cluster.alice}/transmissions", json={"dataset": dataset, **bad}, trust_env=False).status_code == 422


def test_a_damaged_corpus_is_noticed_and_can_be_given_again(cluster, client, dataset):
    corpus = both(cluster, 3)["id"]
    kept = state(cluster, "bob") / "objects" / corpus
    kept.write_bytes(b"X" + kept.read_bytes()[1:])
    training = {"corpus": corpus, "steps": 2}
    result = client.transmit(dataset, "frequency", training=training)
    assert result["state"] == "failed"
    assert "give it again" in result["error"]["detail"]
    post(cluster.bob, corpus_of(3))
    assert client.transmit(dataset, "frequency", training=training)["state"] == "verified"


def test_false_snapshots(cluster, client, dataset):
    """Damaged: removed, and made again. Another model's, properly signed: stopped before the first token, at both sides."""
    training = {"corpus": both(cluster, 4)["id"], "steps": 2, "regime": "frozen"}
    before = set((state(cluster, "bob") / "snapshots").glob("*.state"))
    first = client.transmit(dataset, "frequency", training=training)
    (path,) = set((state(cluster, "bob") / "snapshots").glob("*.state")) - before
    whole = path.read_bytes()
    for bad in (whole[:-1], whole[:50] + b"\0" + whole[51:], b"", b"something else"):
        path.write_bytes(bad)
        again = client.transmit(dataset, "frequency", training=training)
        assert (again["state"], again["z_bits"]) == ("verified", first["z_bits"])
        assert path.read_bytes() == whole
    other = Encoder(preset("frequency"))
    for block in (np.zeros(9, np.uint32), np.zeros(9, np.uint32)):
        list(other.encode_block(block))
    packed = zlib.compress(other._predictor.state_bytes())
    path.write_bytes(_LINE + _signature(path.stem.rpartition("-")[0], 2, packed) + packed)
    result = client.transmit(dataset, "frequency", training=training)
    assert result["state"] == "failed"
    assert result["error"]["type"] == "urn:codelength:problem:start-mismatch"
    record = httpx.get(f"{cluster.bob}/transmissions/{result['transmission']}", trust_env=False).json()
    assert (record["state"], record["tokens_done"]) == ("failed", 0)
    path.unlink()
    assert client.transmit(dataset, "frequency", training=training)["state"] == "verified"


def test_cancelled_while_training(cluster, client, dataset):
    corpus = both(cluster, 5)["id"]
    with httpx.Client(base_url=cluster.alice, trust_env=False, timeout=30) as http:
        body = {"dataset": dataset, "code": "mixing", "corpus": corpus, "steps": 100_000}
        url = "/transmissions/" + http.post("/transmissions", json=body).json()["id"]
        while http.get(url).json()["steps"] < 2:
            pass
        assert http.delete(f"/corpora/{corpus}").status_code == 409
        assert http.post(url + "/cancel").status_code == 202
    assert client.transmit(dataset, "uniform")["state"] == "verified"  # the workers are free again


async def test_no_ack_before_there_is_something_to_acknowledge(cluster):
    """Whoever codes more than a second after PREPARED was sent an ACK that the protocol forbids there."""
    spec = preset("frequency").with_training(frozen=True, start=Start(corpus=both(cluster, 9)["id"], steps=1))
    (predictor,) = (one for one, done in prepare(spec, lambda: [to_tokens(corpus_of(9), spec.vocabulary)]) if done)
    channel, url = Channel(Role.ALICE), cluster.bob.replace("http", "ws") + CHANNEL_PATH
    async with websockets.connect(url, subprotocols=[SUBPROTOCOL], compression=None, proxy=None) as link:
        hello = Hello(transmission="5" * 32, spec=spec.canonical_bytes(), tokens=9, media_type="", name="", code="", runtime="")
        channel.send(hello)
        await link.send(channel.data_to_send())
        channel.receive_data(await link.recv())
        assert [type(one).__name__ for one in channel.events()] == ["Accept"]
        channel.send(Prepared(digest=Encoder(spec, predictor).model_digest()))
        await link.send(channel.data_to_send())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.6):
                await link.recv()
