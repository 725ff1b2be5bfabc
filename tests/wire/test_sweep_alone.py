"""`codelength sweep` without Ray, in processes of this machine that it starts itself, with a code of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

PLUGIN = Path(__file__).parents[2] / "examples" / "order_one.py"
WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from harness.cli import main; main()"


def sweep(directory, *arguments):
    command = [sys.executable, "-c", WITHOUT_RAY, "sweep", "grid.toml", "--json", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "CODELENGTH_PLUGINS")}
    environment["PYTHONPATH"] = str(PLUGIN.parents[1])
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep")
    (directory / "d.txt").write_bytes(b"It is a truth universally acknowledged " * 20)
    (directory / "grid.toml").write_text('datasets = ["d.txt"]\ncodes = ["order-one", "frequency"]\n')
    return directory


@pytest.fixture(scope="module")
def done(place):
    return sweep(place, "--plugin", str(PLUGIN))


def test_it_says_so_and_uses_processes_of_this_machine(done):
    assert done.returncode == 0, done.stderr
    assert "ray is not installed (pip install 'codelength[cluster]')" in done.stderr
    assert "2 trials on processes of this machine, " in done.stderr
    for row in json.loads(done.stdout)["trials"]:
        assert (row["state"], row["node_alice"], row["reconstruction_sha256"]) == ("verified", "local", row["dataset_sha256"])
        assert row["wire_bytes_alice_to_bob"] == row["witness_bytes_alice_to_bob"] > row["z_bytes"]


def test_its_services_have_the_plugin(done):
    rows = {row["code"]: row for row in json.loads(done.stdout)["trials"]}
    assert json.loads(rows["order-one"]["spec"])["model"]["kind"] == "plugin"
    assert rows["order-one"]["z_bits"] < rows["frequency"]["z_bits"]


def test_without_the_plugin_the_code_is_unknown(place):
    done = sweep(place)
    assert done.returncode == 2
    assert "code order-one: no preset is called 'order-one'" in done.stderr


def test_a_cluster_needs_ray(place):
    done = sweep(place, "--address", "127.0.0.1:6379", "--plugin", str(PLUGIN), "-o", "elsewhere")
    assert done.returncode == 2
    assert "--address needs ray: pip install 'codelength[cluster]'" in done.stderr
