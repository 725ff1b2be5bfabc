"""Models that diverge, between real services: native numerics go on with the safe code, exact numerics stop."""

import json
import os

import httpx
import numpy as np
import pytest

from harness.client import Client, Urls
from harness.cluster import Cluster
from shared.channel.legs import SAFE_BLOCKS

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
    drifts = directory / "drifts"
    environment = {"CODELENGTH_PLUGINS": os.pathsep.join(map(str, plugins)), "CODELENGTH_RETRY_SECONDS": "120"}
    with Cluster(warm=["ngram"], environment=environment, own={"bob": {"DRIFTS": str(drifts)}}) as cluster:
        cluster.drifts = drifts
        yield cluster


def spec_of(client, name):
    (found,) = (one["spec"] for one in client.codes() if one["name"] == name)
    return {**found, "block_tokens": BLOCK}


@pytest.mark.parametrize(
    ("drifts", "blocks"),
    [
        ([], []),
        ([23], [(4, "ngram"), (20, "")]),
        ([2], [(0, "ngram"), (16, "")]),
        ([499], [(99, "ngram")]),
        ([23, 31], [(4, "ngram"), (20, ""), (26, "ngram")]),
    ],
)
def test_a_native_code_that_drifts_at_bobs_is_rolled_back_and_charged(drifting, tmp_path, drifts, blocks):
    drifting.drifts.write_text(" ".join(map(str, drifts)))
    with Client(Urls(alice=drifting.alice, bob=drifting.bob, wire=drifting.wire)) as client:
        result = client.transmit(client.post_octets(TEXT, "x")["id"], spec_of(client, "native-drifting"))
        assert result["state"] == "verified", result["error"]
        client.reconstruction(result["transmission"], tmp_path / "back")
        records = [client.record(side, result["transmission"]) for side in ("alice", "bob")]
    assert (tmp_path / "back").read_bytes() == TEXT
    print(
        json.dumps({k: v for k, v in result.items() if k not in ("notes",)}, indent=1),
        result["notes"],
        [r["leg"] for r in records],
    )
