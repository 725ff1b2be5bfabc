"""Codes of one's own: the examples between two processes, and what is wrong with others."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.client import Client, Urls
from harness.cluster import Cluster
from shared.code.errors import PluginError
from shared.code.models import PRESETS
from shared.code.plugins import PLUGINS
from shared.service.plugins import load

EXAMPLES = [Path(__file__).parents[2] / "examples" / f"{name}.py" for name in ("order_one", "torch_module")]
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


@pytest.fixture
def _forget():
    yield
    for name in list(PLUGINS):
        del PLUGINS[name], PRESETS[name]


@pytest.fixture(scope="module")
def plugged(tmp_path_factory):
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
    own = {side: {"CODELENGTH_PLUGINS": os.pathsep.join(map(str, paths))} for side, paths in files.items()}
    with Cluster(warm=[], own=own) as cluster, Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as client:
        yield client


@pytest.mark.parametrize("code", ["order-one", "convolutions"])
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
