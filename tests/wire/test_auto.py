"""`auto`: the code that does best on D's beginning, in a limited time, and what the choice is charged."""

import httpx
import numpy as np
import pytest

from shared.service.choosing import choice_bits
from tests.support import LIGHT

NOISE = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()


def post(cluster, **body):
    return httpx.post(f"{cluster.alice}/transmissions", json=body, trust_env=False)


def settled(cluster, client, identifier):
    client._follow(identifier, None)
    return [client._settled(url, identifier) for url in (cluster.alice, cluster.bob)]


def test_noise_is_sent_as_it_is_and_a_slow_code_is_left_out(cluster, client):
    dataset = client.post_octets(NOISE, "noise")["id"]
    identifier = post(cluster, dataset=dataset, code="auto", auto_seconds=0.5).json()["id"]
    alice, bob = settled(cluster, client, identifier)
    assert alice["state"] == "verified"
    assert alice["code"]["name"] == bob["code"]["name"] == f"auto: uniform of {len(LIGHT)}"
    assert alice["f_bits"] == bob["f_bits"]
    assert alice["f_bits"]["spec"] == 8 * len(b'{"format":1,"model":{"kind":"uniform"}}') + (len(LIGHT) - 1).bit_length()
    assert alice["sk_bits"] == bob["sk_bits"]
    assert [one["code"] for one in alice["choice"]] == list(LIGHT)
    finished = [one for one in alice["choice"] if one["sk_bits"] is not None]
    assert finished[0]["code"] == "uniform"
    assert finished[0]["tokens"] == len(NOISE)
    assert sum(one["seconds"] for one in alice["choice"]) < 5


def test_text_gets_more_than_the_uniform_code(client):
    text = b"".join(b"%d bottles of beer on the wall, %d bottles of beer. " % (n, n) for n in range(1500))
    result = client.transmit(client.post_octets(text, "x")["id"], "auto")
    assert result["state"] == "verified"
    assert result["code"]["name"].split()[1] not in ("uniform", "frequency")
    best = min((one for one in result["choice"] if one["sk_bits"] is not None), key=lambda one: one["sk_bits"])
    assert best["code"] == result["code"]["name"].split()[1]


@pytest.mark.parametrize("data", [b"", b"x"])
def test_hardly_anything_to_choose_by(client, data):
    assert client.transmit(client.post_octets(data, "x")["id"], "auto")["state"] == "verified"


def test_auto_starts_from_nothing(cluster, client):
    dataset = client.post_octets(NOISE, "noise")["id"]
    for more in ({"steps": 1, "corpus": "0" * 64}, {"regime": "frozen"}):
        refused = post(cluster, dataset=dataset, code="auto", **more)
        assert refused.status_code == 422
        assert "auto chooses" in refused.json()["detail"]


@pytest.mark.parametrize(("name", "bits"), [("auto: ngram of 8", 3), ("auto: ngram of 9", 4), ("auto: x of 1", 0), ("ngram", 0)])
def test_the_charge(name, bits):
    assert choice_bits(name) == bits
