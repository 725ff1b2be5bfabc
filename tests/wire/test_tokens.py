"""Text through a tokenizer that both sides hold, over real services; what one side lacks, or cannot give back, is told by name."""

import hashlib
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from tokenizers import normalizers

from harness import compare, notebook, transmit
from harness.bench import Bench, BenchError
from shared.channel.messages import CHANNEL_PATH, SUBPROTOCOL, Check, Data, End, Hello, Text
from shared.channel.protocol import Channel
from shared.channel.states import Role
from shared.code.models import preset
from shared.code.vocabulary import to_tokens
from shared.service.coding import TransmissionEncoder
from tests.support import byte_level_tokenizer

DATA = "It was the best of times, it was the worst of times: naïve, 東京. ".encode() * 200 + b"\xff\x00 no text"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokens")
    inner = byte_level_tokenizer(DATA[:-10].decode(), 280)
    (directory / "tokenizer.json").write_text(inner.to_str())
    inner.normalizer = normalizers.Lowercase()
    (directory / "lowercase.json").write_text(inner.to_str())
    (directory / "data").write_bytes(DATA)
    return directory


@pytest.fixture(scope="module")
def tokenizer(client, files):
    return client.post_tokenizer(files / "tokenizer.json")


@pytest.fixture(scope="module")
def dataset(client, files, tokenizer):
    return client.post_file(files / "data", tokenizer=tokenizer["id"])


@pytest.fixture(scope="module")
def sent(client, dataset):
    return client.transmit(dataset["id"], "ngram")


def get(url, **query):
    return httpx.get(url, params=query, trust_env=False)


def post(url, content=b"", **query):
    headers = {"Content-Type": "application/octet-stream"}
    return httpx.post(url, content=content, params=query, headers=headers, trust_env=False)


def test_the_tokenizer_is_an_asset(cluster, files, tokenizer):
    content = (files / "tokenizer.json").read_bytes()
    assert tokenizer["id"] == tokenizer["sha256"] == hashlib.sha256(content).hexdigest()
    assert (tokenizer["vocabulary_size"], tokenizer["byte_level"], tokenizer["bytes"]) == (280, True, len(content))
    assert 0 < tokenizer["asset_bits"] < 8 * len(content)
    for url in (cluster.alice, cluster.bob):
        assert get(f"{url}/tokenizers/{tokenizer['id']}").json()["asset_bits"] == tokenizer["asset_bits"]
        assert tokenizer["id"] in [one["id"] for one in get(f"{url}/tokenizers").json()["tokenizers"]]
        assert post(f"{url}/tokenizers", content).status_code == 200


def test_bob_gives_back_the_octets_and_the_ids(cluster, client, files, tokenizer, dataset, sent, tmp_path):
    assert (sent["state"], sent["error"]) == ("verified", None)
    found = sent["dataset"]
    assert (found["octets"], found["octets_sha256"]) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert (found["tokenizer"], found["vocabulary_size"], found["tokens"] < len(DATA)) == (tokenizer["id"], 280, True)
    client.reconstruction(sent["transmission"], tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == DATA
    url = f"{cluster.bob}/transmissions/{sent['transmission']}/reconstruction"
    ids = np.frombuffer(get(url, form="raw").content, dtype="<u2")
    head = b"tokens m=280 width=2 tokenizer=%s\n" % tokenizer["id"].encode()
    assert hashlib.sha256(head + ids.tobytes()).hexdigest() == found["sha256"] == sent["reconstruction"]["sha256"]
    assert get(url, form="json").json()["tokens"] == ids.tolist()
    assert httpx.get(url, headers={"Range": "bytes=3-10"}, trust_env=False).content == DATA[3:11]
    assert len({get(url).headers["etag"], get(url, form="raw").headers["etag"]}) == 2
    record = get(f"{cluster.bob}/transmissions/{sent['transmission']}").json()
    assert record["dataset"]["octets"] == len(DATA)
    assert record["bits_per_byte"] == sent["bits_per_byte"]


def test_what_it_cost(sent, tokenizer):
    """The tokenizer is charged; bits are given by token and by byte of the octets, and r_k with log2 m of the tokenizer."""
    n = sent["dataset"]["tokens"]
    assert sent["f_bits"]["assets"] == tokenizer["asset_bits"]
    assert sent["f_bits"]["total"] == sum(sent["f_bits"][part] for part in ("spec", "source", "assets"))
    assert sent["bits_per_byte"] == pytest.approx(sent["nll_bits"] / len(DATA))
    assert sent["bits_per_token"] == pytest.approx(sent["nll_bits"] / n)
    assert sent["s0_bits"] == pytest.approx(sent["f_bits"]["total"] + n * np.log2(280))


def test_auto_charges_it_too(client, dataset, tokenizer):
    result = client.transmit(dataset["id"], "auto", training={"auto_seconds": 0.3})
    assert (result["state"], result["f_bits"]["assets"]) == ("verified", tokenizer["asset_bits"])


def test_bench_measures_a_code_with_it_beside_the_code(client, files, tokenizer, tmp_path, monkeypatch):
    """Over the tokens, per byte of the octets; by another tokenizer of that name it is measured anew."""
    monkeypatch.setattr(Bench, "_client", lambda *_: client)
    data, place, told = tmp_path / "data", tmp_path / "r.json", []
    data.write_bytes(DATA[:700])
    for chosen in (None, files / "tokenizer.json", files / "tokenizer.json"):
        with Bench(place, told.append, chosen) as bench:
            bench.run([data], ["ngram", "recurrent:native"], [], 1, again=False)
    assert len(told) == 4
    found = {one["name"]: one for one in json.loads(place.read_text())["results"]}
    assert set(found) == {"ngram", "ngram@tokenizer.json", "recurrent:native", "recurrent:native@tokenizer.json"}
    plain, by_tokens = found["ngram"], found["ngram@tokenizer.json"]
    assert (plain["bytes"], by_tokens["bytes"], by_tokens["tokenizer"]) == (700, 700, tokenizer["id"])
    assert by_tokens["f_bytes"] - plain["f_bytes"] >= tokenizer["asset_bits"] // 8
    assert by_tokens["z_bits"] != plain["z_bits"]
    other = tmp_path / "tokenizer.json"
    other.write_text((files / "tokenizer.json").read_text() + " ")
    client.post_tokenizer(other)
    with Bench(place, told.append, other) as bench:
        bench.run([data], ["ngram"], [], 1, again=False)
    assert len(told) == 5
    data.write_bytes(b"OH")
    client.post_tokenizer(files / "lowercase.json")
    with (
        Bench(place, told.append, files / "lowercase.json") as bench,
        pytest.raises(BenchError, match="data: the tokenizer"),
    ):
        bench.run([data], ["ngram"], [], 1, again=False)


def test_from_python(files, tokenizer, client, monkeypatch):
    monkeypatch.setitem(notebook._clients, (None, None), client)
    for data in (files / "data", DATA):
        found = transmit(data, "frequency", tokenizer=files / "tokenizer.json").as_dict["dataset"]
        assert (found["tokenizer"], found["octets"]) == (tokenizer["id"], len(DATA))
    assert compare(DATA[:500], ["frequency"], tokenizer=files / "tokenizer.json").best.vocabulary_size == 280
    with pytest.raises(ValueError, match="for octets"):
        transmit([1, 2], tokenizer=files / "tokenizer.json")


def test_an_empty_file(client, tokenizer, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    result = client.transmit(client.post_file(tmp_path / "empty", tokenizer=tokenizer["id"])["id"], "frequency")
    assert (result["state"], result["dataset"]["octets"], result["bits_per_byte"]) == ("verified", 0, None)
    client.reconstruction(result["transmission"], tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


def test_a_corpus_by_the_same_tokenizer(cluster, client, files, dataset, tokenizer):
    corpus = client.post_corpus(files / "data", tokenizer=tokenizer["id"])
    training = {"corpus": corpus["id"], "steps": 1, "regime": "frozen"}
    result = client.transmit(dataset["id"], "frequency", training=training)
    assert (result["state"], result["f_bits"]["assets"]) == ("verified", tokenizer["asset_bits"] + corpus["asset_bits"])
    ids = {"vocabulary_size": 280, "tokens": [1, 2, 3]}
    other = httpx.post(f"{cluster.alice}/corpora", json=ids, trust_env=False).json()["id"]
    refused = httpx.post(
        f"{cluster.alice}/transmissions", json={"dataset": dataset["id"], "corpus": other, "steps": 1}, trust_env=False
    )
    assert "it is of the tokenizer None" in refused.json()["detail"]


def test_a_tokenizer_that_normalises_is_refused_with_the_first_byte(cluster, client, files):
    lowercase = client.post_tokenizer(files / "lowercase.json")["id"]
    answer = post(f"{cluster.alice}/datasets", b"once upon A time", tokenizer=lowercase)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:codelength:problem:inexact-tokenizer")
    assert answer.json()["detail"].endswith("byte 10 is 0x41, and 0x61 comes back")


def test_without_the_tokenizer_bob_refuses_by_name(cluster, client, files, dataset, tokenizer):
    sha256 = tokenizer["id"]
    assert httpx.delete(f"{cluster.bob}/tokenizers/{sha256}", trust_env=False).status_code == 204
    assert get(f"{cluster.bob}/tokenizers/{sha256}").status_code == 404
    try:
        result = client.transmit(dataset["id"], "frequency")
        assert (result["state"], result["error"]["type"]) == ("failed", "urn:codelength:problem:tokenizer-unavailable")
        assert f"the tokenizer {sha256}: Bob does not hold it" in result["error"]["detail"]
    finally:
        client.post_tokenizer(files / "tokenizer.json")
    kept = Path(cluster.directory) / "bob" / "objects" / sha256
    kept.write_bytes(b"{}")
    result = client.transmit(dataset["id"], "frequency")
    assert result["state"] == "failed"
    assert "what is kept as it is damaged: give it again" in result["error"]["detail"]
    client.post_tokenizer(files / "tokenizer.json")
    assert client.transmit(dataset["id"], "frequency")["state"] == "verified"


@pytest.mark.parametrize(
    ("query", "content", "told"),
    [
        ({"tokenizer": "0" * 64}, b"x", "Alice does not hold it"),
        ({"tokenizer": "x"}, b"x", "tokenizer"),
        ({"tokenizer": "HELD", "form": "json"}, b'{"vocabulary_size": 3, "tokens": []}', "a tokenizer is for octets"),
        ({"tokenizer": "HELD", "vocabulary_size": 256}, b"x", "a tokenizer is for octets"),
    ],
)
def test_what_cannot_be_tokenized(cluster, tokenizer, query, content, told):
    query = {name: tokenizer["id"] if value == "HELD" else value for name, value in query.items()}
    answer = post(f"{cluster.alice}/datasets", content, **query)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


def test_what_is_no_tokenizer(cluster):
    answer = post(f"{cluster.alice}/tokenizers", json.dumps({"version": "1.0"}).encode())
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:codelength:problem:tokenizer-unavailable")
    assert "cannot use it: " in answer.json()["detail"]


def test_as_a_form(cluster, tokenizer):
    fields = {"file": ("text", b"It was", "text/plain")}
    answer = httpx.post(f"{cluster.alice}/datasets", files=fields, data={"tokenizer": tokenizer["id"]}, trust_env=False)
    assert (answer.json()["octets"], answer.json()["vocabulary_size"]) == (6, 280)
    answer = httpx.post(f"{cluster.alice}/datasets", files=fields, data={"tokenizer": "x"}, trust_env=False)
    assert "64 hexadecimal digits" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        (Text(size=2, sha256=hashlib.sha256(b"!#").digest()), "digest-mismatch"),
        (Text(size=1, sha256=hashlib.sha256(b"!").digest()), "limit-exceeded"),
        (Text(size=1 << 40, sha256=bytes(32)), "storage-full"),
        (None, "unexpected-message"),
    ],
)
def test_octets_that_are_not_those_announced(cluster, tokenizer, text, slug):
    """An Alice who says another SHA-256 than Bob finds, fewer octets, too many, or nothing: he does not call it verified."""
    from websockets.sync.client import connect

    found = get(f"{cluster.bob}/tokenizers/{tokenizer['id']}").json()
    spec = preset("frequency", _vocabulary(found))
    tokens = to_tokens(b"\0\0\1\0", spec.vocabulary)  # "!" and '"'
    identifier = hashlib.sha256(slug.encode()).hexdigest()[:32]
    channel = Channel(Role.ALICE)
    with connect(
        cluster.bob.replace("http", "ws") + CHANNEL_PATH, subprotocols=[SUBPROTOCOL], compression=None, proxy=None
    ) as link:
        fields = {"media_type": "", "name": "", "code": "", "runtime": ""}
        channel.send(Hello(transmission=identifier, spec=spec.canonical_bytes(), tokens=2, **fields))
        link.send(channel.data_to_send())
        channel.receive_data(link.recv(timeout=60))
        assert [type(one).__name__ for one in channel.events()] == ["Accept"]
        if text is not None:
            channel.send(text)
        for message in TransmissionEncoder(spec, [tokens]).messages():
            if message is not None:
                assert isinstance(message, (Data, Check, End)) or type(message).__name__ == "Block"
                channel.send(message)
        link.send(channel.data_to_send())
        told = []
        for _ in range(9):
            channel.receive_data(link.recv(timeout=60))
            told += [one for one in channel.events() if type(one).__name__ == "Error"]
            if told:
                break
    assert told[0].problem == slug
    record = get(f"{cluster.bob}/transmissions/{identifier}").json()
    assert not record["reconstruction"]["verified"]


def _vocabulary(tokenizer):
    from shared.code.spec import IdsVocabulary

    return IdsVocabulary(size=tokenizer["vocabulary_size"], tokenizer=tokenizer["id"])
