"""Codes of one's own: the examples between two processes, and what is wrong with others."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.client import Client, Urls
from harness.cluster import Cluster
from shared.code.errors import PluginError
from shared.code.exact import kernels
from shared.code.models import PRESETS, build, spec_of
from shared.code.plugins import PLUGINS
from shared.service.plugins import load
from tests.fault.test_kill import ended, kill, start, under_way, wait_for
from tests.support import encode

EXAMPLES = [Path(__file__).parents[2] / "examples" / f"{name}.py" for name in ("order_one", "torch_module", "exact_module")]
TEXT = b"It was the best of times, it was the worst of times, " * 40
UNIFORM = """
from shared.code.models.uniform import Uniform
class Mine(Uniform):
    "{version}"
    def __init__(self, spec):
        super().__init__(spec.vocabulary_size)
    def _code(self, *arguments):
        if {raises} and self.steps: raise ZeroDivisionError("in the middle")
        return super()._code(*arguments)
CODES = {{"{name}": Mine}}
"""
SLOW = """
import os, time
class Slow(OrderOne):
    def _code(self, *arguments):
        time.sleep(0.03)
        return super()._code(*arguments)
class Unused(OrderOne):
    differs = 1
    def __init__(self, spec):
        super().__init__(spec)
        self._counts[self.differs] += os.environ["TESTED_SIDE"] == "bob"
class Used(Unused):
    differs = ord("I")
CODES = {"slow": Slow, "used": Used, "unused": Unused}
"""


@pytest.fixture
def _forget():
    yield
    for name in list(PLUGINS):
        del PLUGINS[name], PRESETS[name]


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    directory, files = tmp_path_factory.mktemp("plugins"), {"alice": list(EXAMPLES), "bob": list(EXAMPLES)}
    for side, version, name, raises in (
        ("alice", 1, "lonely", False),
        ("alice", 1, "differs", False),
        ("bob", 2, "differs", False),
        ("alice", 1, "raises", True),
        ("bob", 1, "raises", True),
    ):
        files[side].append(directory / f"{side}-{name}.py")
        files[side][-1].write_text(UNIFORM.format(version=version, name=name, raises=raises))
    slow = directory / "slow.py"
    slow.write_text(EXAMPLES[0].read_text(encoding="utf-8") + SLOW)
    own = {
        side: {"CODELENGTH_PLUGINS": os.pathsep.join(map(str, [*paths, slow])), "TESTED_SIDE": side}
        for side, paths in files.items()
    }
    with Cluster(warm=[], own=own) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def plugged(services):
    with Client(Urls(alice=services.alice, bob=services.bob, wire=services.wire)) as client:
        yield client


@pytest.mark.parametrize("code", ["order-one", "convolutions", "exact-convolutions"])
def test_the_examples_are_transmitted_verified_and_charged(plugged, code):
    result = plugged.transmit(plugged.post_octets(TEXT, "x")["id"], code, send_f=True)
    assert result["state"] == "verified", result["error"]
    assert result["code"]["name"] == code
    assert result["z_bits"] < 8 * len(TEXT)
    listed = {one["name"]: one for one in plugged.codes()}[code]
    assert listed["digest"] == result["code"]["digest"]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in EXAMPLES]
    assert listed["spec"]["model"]["source"] in digests
    uniform = plugged.transmit(plugged.post_octets(TEXT, "x")["id"], "uniform")
    assert result["f_bits"]["source"] > uniform["f_bits"]["source"]


@pytest.mark.parametrize(
    ("code", "slug", "said"),
    [
        ("lonely", "plugin-unavailable", "the plugin lonely: it is not held here"),
        ("differs", "plugin-unavailable", "the plugin differs: the file here has the source"),
        ("raises", "plugin-failed", "the plugin raises failed: ZeroDivisionError: in the middle in line 8"),
    ],
)
def test_what_is_wrong_is_named_and_the_services_go_on(plugged, code, slug, said):
    dataset = plugged.post_octets(TEXT * 3, "x")["id"]
    result = plugged.transmit(dataset, code)
    assert result["state"] == "failed"
    assert result["error"]["type"].endswith(slug)
    assert said in result["error"]["detail"]
    assert plugged.transmit(dataset, "uniform")["state"] == "verified"


@pytest.mark.parametrize("code", ["order-one", "convolutions", "exact-convolutions"])
def test_they_start_from_a_corpus_and_freeze(plugged, tmp_path, code):
    (tmp_path / "corpus").write_bytes(TEXT[:-1] * 2)
    corpus, dataset = plugged.post_corpus(tmp_path / "corpus")["id"], plugged.post_octets(TEXT[:999], "x")["id"]
    bits = []
    for k, regime in ((0, "frozen"), (1, "frozen"), (1, "online")):
        training = {"regime": regime, "steps": k, **({"corpus": corpus} if k else {})}
        result = plugged.transmit(dataset, code, training=training)
        assert result["state"] == "verified", result["error"]
        bits.append(result["nll_bits"])
    assert bits[0] == pytest.approx(8 * 999, rel=0.01)  # the biases of a torch module do not begin at 0
    assert bits[2] != bits[1] < bits[0]


@pytest.mark.parametrize(("code", "ends"), [("unused", ("diverged",)), ("used", ("diverged", "corrupt-code"))])
def test_a_plugin_that_computes_otherwise_at_the_other_end_is_caught_at_check(plugged, code, ends):
    """In what was coded the code itself may come to an end too early; in what was not, only the digest of the state differs."""
    result = plugged.transmit(plugged.post_octets(b"It is." * 100, "x")["id"], code)
    assert (result["state"], result["reconstruction"]["verified"]) == ("failed", False)
    assert result["error"]["type"].endswith(ends), result["error"]


@pytest.mark.long
def test_both_sides_killed_it_goes_on_from_what_the_plugin_had_learned(services, plugged):
    identifier = start(services, TEXT * 200, "slow")
    wait_for(services.bob, identifier, under_way)
    kill(services, "alice", "bob")
    record = wait_for(services.alice, identifier, ended)
    assert record["state"] == "verified", record["error"]
    whole = plugged.transmit(plugged.post_octets(TEXT * 200, "x")["id"], "order-one")
    assert record["nll_bits"] == whole["nll_bits"]
    assert plugged.ledger(identifier)["wire"]["connections"] >= 2


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("code", ["order-one", "convolutions", "exact-convolutions"])
def test_they_go_on_from_a_stored_state_in_the_middle(code):
    load(os.pathsep.join(map(str, EXAMPLES)))
    spec = spec_of(code)
    tokens = np.frombuffer(TEXT[:384], np.uint8).astype(np.uint32)
    went_on, fresh = build(spec), build(spec)
    encode(spec, tokens[:256], went_on)
    fresh.restore(went_on.state_bytes())
    assert fresh.digest() == went_on.digest()
    rest = [encode(spec, tokens[256:], predictor) for predictor in (went_on, fresh)]
    assert rest[0] == rest[1]
    assert rest[0][1] < 8 * 128  # so it has learned


@pytest.mark.usefixtures("_forget")
def test_the_exact_one_gives_the_same_bits_with_other_kernels():
    load(str(EXAMPLES[2]))
    spec, tokens = spec_of("exact-convolutions"), np.frombuffer(TEXT[:256], np.uint8).astype(np.uint32)
    found = []
    for name in kernels.NAMES:
        kernels.choose(name)
        try:
            found.append(encode(spec, tokens))
        finally:
            kernels.choose("fused")
    assert found[0] == found[1]


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:", "line 1: invalid syntax"),
        ("1 / 0", "loading it raised ZeroDivisionError: division by zero"),
        ("", "it defines no codes"),
        ("CODES = {'x': int}", "is no subclass of"),
        (UNIFORM.format(version=1, name="ngram", raises=False), "a preset has this name"),
        (UNIFORM.format(version=1, name="Big Name", raises=False), "name: String should match"),
    ],
)
def test_a_file_that_is_no_plugin(tmp_path, text, said):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(PluginError, match=said):
        load(str(tmp_path / "bad.py"))
    assert not PLUGINS


@pytest.mark.usefixtures("_forget")
def test_files_need_the_plugin_at_both_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("CODELENGTH_PLUGINS", "")
    run, plugin = CliRunner(), ["--plugin", str(EXAMPLES[0])]
    file, out = tmp_path / "f", tmp_path / "back"
    file.write_bytes(TEXT)
    done = run.invoke(app, ["compress", str(file), "--code", "order-one", *plugin])
    assert done.exit_code == 0, done.output
    PLUGINS.clear()
    del PRESETS["order-one"]
    done = run.invoke(app, ["decompress", f"{file}.clz1", "-o", str(out), "--json"])
    assert done.exit_code == 2
    error = json.loads(done.stdout)["files"][0]["error"]
    assert "plugin-unavailable" in json.dumps(error)
    assert "start both sides with --plugin" in json.dumps(error)
    assert not out.exists()
    assert run.invoke(app, ["decompress", f"{file}.clz1", "-o", str(out), *plugin]).exit_code == 0
    assert out.read_bytes() == TEXT
