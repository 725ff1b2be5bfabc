"""The Python interface, and the walk-through of examples/."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import harness.client
import harness.cluster
from harness import TransmissionError, compare, notebook, transmit

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def private(client, monkeypatch):
    """The test services instead of private ones."""
    monkeypatch.setitem(notebook._clients, (None, None), client)


def test_the_walk_through(tmp_path):
    done = runpy.run_path(str(ROOT / "examples" / "walk_through.py"))
    assert done["comparison"].best.code == "ngram" or done["comparison"].best.sk_bits <= done["result"].sk_bits
    assert done["figure"]._repr_svg_().startswith("<svg")
    assert done["figure"].save(tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    assert b"gzip -9" in done["comparison"].save(tmp_path / "r.html").read_bytes()
    with pytest.raises(ValueError, match="ends in"):
        done["figure"].save(tmp_path / "f.gif")


def test_all_kinds_of_data_are_the_same_data():
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    found = [transmit(data, "frequency") for data in (ids, np.array(ids, np.int16), torch.tensor(ids))]
    assert {one.as_dict["dataset"]["sha256"] for one in found} == {found[0].as_dict["dataset"]["sha256"]}
    assert found[0].vocabulary_size == 10
    assert len(found[0].costs) == 8
    texts = [transmit(data, "uniform") for data in ("añ", "añ".encode(), bytearray("añ".encode()))]
    assert {one.nll_bits for one in texts} == {24.0}
    assert transmit([], "uniform").tokens == 0


def test_what_is_no_data_is_told(tmp_path):
    for data, said in ((np.zeros((2, 2), int), "one dimension"), (np.zeros(3), "integers"), ([-1], "negative")):
        with pytest.raises(ValueError, match=said):
            transmit(data)
    with pytest.raises(harness.client.RequestError, match="zip"):
        transmit(b"x", "zip")
    with pytest.raises(ValueError, match="come together"):
        transmit(b"x", alice="http://127.0.0.1:1")
    with pytest.raises(ValueError, match="at least one"):
        compare(b"x", [])


def test_codes_of_ones_own_have_services_of_their_own(cluster, client, monkeypatch, tmp_path):
    """They start at the first call, serve the next ones, and start anew once a file has changed."""
    started = []

    class Cluster:
        alice, bob, wire = cluster.alice, cluster.bob, cluster.wire

        def __init__(self, environment):
            started.append(environment)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            started.append("stopped")

    monkeypatch.setattr(harness.cluster, "Cluster", Cluster)
    plugin, model = tmp_path / "mine.py", tmp_path / "model"
    plugin.write_text("CODES = {}")
    model.mkdir()
    own = {"plugins": [plugin], "pretrained": [model]}
    for _ in range(2):
        transmit(b"x", "uniform", **own)
    named = {"CODELENGTH_PLUGINS": str(plugin), "CODELENGTH_PRETRAINED": str(model)}
    assert started == [named]
    (model / "config.json").write_text("{}")
    assert compare(b"x", ["uniform"], **own).best.code == "uniform"
    assert started == [named, "stopped", named]
    transmit(b"x", "uniform")  # by the plain ones
    assert len(started) == 3
    notebook.close()
    assert started[3:] == ["stopped"]
    for wrong, said in (({"plugins": [tmp_path / "none.py"]}, "none.py: no such file"), ({"alice": "x", "bob": "x"}, "private")):
        with pytest.raises(ValueError, match=said):
            transmit(b"x", "uniform", **{**own, **wrong})


def test_what_was_not_verified_raises(client, monkeypatch):
    monkeypatch.setattr(type(client), "transmit", lambda *_: {"state": "failed", "error": {"detail": "the disk is full"}})
    with pytest.raises(TransmissionError, match="failed: the disk is full"):
        transmit(b"x")
