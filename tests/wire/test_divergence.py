"""Models that diverge, between real services: native numerics go on with the safe code, exact numerics stop."""

import json
import os
import re

import httpx
import pytest

from harness.advice import advise, read
from harness.client import Client, RequestError, Urls
from harness.cluster import Cluster
from tests.fault.test_kill import ended, kill, wait_for

TEXT = (b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. " * 500)[
    :50_000
]
BLOCK = 500
PLUGIN = """
import os
import pathlib
from shared.code.models.frequency import Frequency, _build

FILE = os.environ.get("DRIFTS")  # only Bob has one: the steps at which a weight flips, one after the other

class Drifting(Frequency):
    "Counts of which Bob's lose a bit."
    numerics, segment_tokens = "{numerics}", 100

    def __init__(self, spec):
        super().__init__(spec.vocabulary_size)

    def _code(self, *arguments):
        left = pathlib.Path(FILE).read_text().split() if FILE else []
        if left and self.steps == int(left[0]):
            pathlib.Path(FILE).write_text(" ".join(left[1:]))
            self._frequencies[ord("e")] ^= 1 << 3
            _build(self._tree, self._frequencies)
        return super()._code(*arguments)

CODES = {{"{numerics}-drifting": Drifting}}
"""
TEXT = (b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. " * 500)[
    :50_000
]
BLOCK = 500


@pytest.fixture(scope="module")
def drifting(tmp_path_factory):
    directory = tmp_path_factory.mktemp("drifting")
    plugins = [directory / f"{numerics}.py" for numerics in ("native", "exact")]
    for path in plugins:
        path.write_text(PLUGIN.format(numerics=path.stem))
    environment = {"CODELENGTH_PLUGINS": os.pathsep.join(map(str, plugins)), "CODELENGTH_RETRY_SECONDS": "120"}
    drifts = directory / "drifts"
    with Cluster(warm=["ngram"], environment=environment, own={"bob": {"DRIFTS": str(drifts)}}) as cluster:
        cluster.drifts = drifts
        yield cluster


@pytest.fixture
def client(drifting):
    with Client(Urls(alice=drifting.alice, bob=drifting.bob, wire=drifting.wire)) as one:
        yield one


def spec_of(client, numerics):
    (found,) = (one["spec"] for one in client.codes() if one["name"] == f"{numerics}-drifting")
    return {**found, "block_tokens": BLOCK}


def both(client, result):
    return [client.record(side, result["transmission"]) for side in ("alice", "bob")]


@pytest.mark.parametrize(
    ("drifts", "legs"),
    [
        ([], []),
        ([23], [(4, "for 16 blocks")]),
        ([2], [(0, "for 16 blocks")]),
        ([499], [(99, "for 16 blocks")]),
        ([23, 31], [(4, "for 16 blocks"), (26, "to the end")]),
    ],
)
def test_a_native_code_that_drifts_is_rolled_back_verified_and_charged(drifting, client, tmp_path, drifts, legs):
    drifting.drifts.write_text(" ".join(map(str, drifts)))
    result = client.transmit(client.post_octets(TEXT, "x")["id"], spec_of(client, "native"))
    assert result["state"] == "verified", result["error"]
    client.reconstruction(result["transmission"], tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == TEXT
    notes, fault = result["notes"][1::2], result["notes"][::2]
    said = [f"the models diverged in block {block}: sent again from there with ngram, {to}" for block, to in legs]
    assert [one.partition(";")[0] for one in notes] == said
    assert sum(int(one.split()[-7]) for one in notes) == result["abandoned_bytes"]
    for (block, _), one in zip(legs, fault, strict=True):
        assert f"the check over tokens {BLOCK * block} to {BLOCK * block + BLOCK - 1} failed" in one
    assert result["rollbacks"] == len(legs)
    abandoned = result["abandoned_bytes"]
    assert (abandoned > 0) == bool(legs)
    wire = result["wire"]["alice_to_bob"]
    assert wire["z_bytes"] == -(-result["z_bits"] // 8) + abandoned
    assert wire["retransmitted_bytes"] == 0
    assert result["sk_bits"] == pytest.approx(result["f_bits"]["total"] + result["nll_bits"] + 8 * abandoned)
    alone = {one["name"]: one["f_bits"]["total"] for one in client.codes()}
    assert (result["f_bits"]["total"] > alone["native-drifting"] + alone["ngram"] - 200) == bool(legs)
    alice, bob = both(client, result)
    for name in ("nll_bits", "z_bits", "f_bits", "sk_bits", "abandoned_bytes", "rollbacks", "leg"):
        assert alice[name] == bob[name], name
    assert client.costs(result["transmission"]).sum() == pytest.approx(result["nll_bits"])
    if legs:
        assert bob["notes"][1] == notes[0]
        assert bob["notes"][0].split("(")[0] == fault[0].split("(")[0]
        assert "It diverged here" in advise({"f": {"sources": ""}}, read(json.dumps(result)))[0]
        with pytest.raises(RequestError, match="diverged"):
            client.sample(result["transmission"], 5, 1)


def test_an_exact_code_that_drifts_stops_and_names_tokens_and_both_fingerprints(drifting, client, tmp_path):
    drifting.drifts.write_text("23")
    result = client.transmit(client.post_octets(TEXT, "x")["id"], spec_of(client, "exact"))
    assert (result["state"], result["rollbacks"]) == ("failed", 0)
    assert result["error"]["type"].endswith("diverged")
    detail = result["error"]["detail"]
    assert "the check over tokens 2000 to 2499 failed" in detail
    here, there = (json.loads(part) for part in re.findall(r"\{.*?\}", detail))
    assert here == there
    assert here["f"]
    found = tmp_path / "failed.json"
    found.write_text(json.dumps(result))
    advice = advise({"exact": True, "f": {"sources": here["f"]}}, read(found.read_text()))
    assert "It stopped here" in advice[0]
    assert "tokens 2000 to 2499" in advice[0]


@pytest.mark.long
def test_killed_around_both_rollbacks(drifting, client, tmp_path):
    """SIGKILL of both, service and worker, once each has rolled back once, and of Bob once it was twice: verified."""
    drifting.drifts.write_text("1900 1200")
    text = TEXT * 20
    with httpx.Client(base_url=drifting.alice, trust_env=False, timeout=60) as http:
        dataset = http.post("/datasets", content=text, headers={"Content-Type": "application/octet-stream"}).json()["id"]
        identifier = http.post("/transmissions", json={"dataset": dataset, "code": spec_of(client, "native")}).json()["id"]
    for rollbacks, who in ((1, ("bob", "alice")), (2, ("bob",))):
        wait_for(drifting.bob, identifier, lambda record, at=rollbacks: record.get("rollbacks", 0) >= at)
        kill(drifting, *who)
    record = wait_for(drifting.alice, identifier, ended)
    assert record["state"] == "verified", record["error"]
    result = client.ledger(identifier)
    assert (result["rollbacks"], result["wire"]["connections"]) >= (2, 3)
    client.reconstruction(identifier, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == text
    assert client.costs(identifier).sum() == pytest.approx(result["nll_bits"])
