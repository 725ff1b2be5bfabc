"""What the documents tell people to type is typed here: every `sh` block, in an empty directory, against the test services."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OUTPUT = ("", "mermaid")  # what is shown, not typed
COMMANDS = {"transmit", "compare", "explain", "compress", "decompress", "test", "list", "doctor", "demo", "codes", "serve"} | {
    "bench",
    "curve",
    "sample",
    "sweep",
    "report",
}


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    text: str
    reason: str | None


def blocks(path: Path) -> list[Block]:
    out: list[Block] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    begun, reason = None, None
    for number, line in enumerate(lines):
        if line.startswith("```"):
            if begun is None:
                begun = number
            else:
                text = "\n".join(lines[begun + 1 : number])
                out.append(Block(str(path.relative_to(ROOT)), begun + 1, lines[begun][3:].strip(), text, reason))
                begun, reason = None, None
        elif begun is None:
            found = re.fullmatch(r"<!-- not run: (.+) -->", line)
            reason = found[1] if found else reason if not line else None
    assert begun is None, f"{path}: a block that does not end"
    return out


BLOCKS = [block for path in DOCUMENTS for block in blocks(path)]


def test_what_is_not_run_is_listed_here():
    assert [(block.document, block.text.split()[0]) for block in BLOCKS if block.reason] == [
        ("README.md", "make"),
        ("README.md", "codelength"),
        ("docs/class.md", "make"),
        ("docs/operations.md", "docker"),
        ("docs/results.md", "python"),
    ]


def test_every_block_is_typed_or_shown():
    for block in BLOCKS:
        assert block.language in ("sh", *OUTPUT), block
        if block.language == "":
            assert not re.search(r"^\s*(\$|codelength|curl|make|pip|docker|python3?) ", block.text, re.MULTILINE), block


@pytest.mark.parametrize("document", sorted({block.document for block in BLOCKS if block.language == "sh"}))
def test_blocks_run(document, cluster, commands, tmp_path):
    """All blocks of a document in turn, in one shell, which stops at the first command that fails."""
    (tmp_path / "README.md").write_bytes((ROOT / "README.md").read_bytes())
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = "set -euo pipefail\n"
    for block in BLOCKS:
        if block.document == document and block.language == "sh" and block.reason is None:
            script += f"echo '--- line {block.line}'\n{block.text}\n"
    script = script.replace("http://127.0.0.1:8001", cluster.alice).replace("http://127.0.0.1:8002", cluster.bob)
    environment = {**os.environ, "PATH": commands, "no_proxy": "*"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False)
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, said
    assert "urn:codelength:problem" not in said, said
    if document == "README.md":
        assert "identical" in said
        assert said.count("verified") >= 5


def test_every_metric_is_documented():
    """Those of a service that has just ended a transmission, in the form that Prometheus reads."""
    from shared.service.examples import TRANSMISSION
    from shared.service.metrics import Metrics
    from shared.service.records import Transmission

    metrics = Metrics()
    metrics.ended(Transmission.model_validate(TRANSMISSION))
    there = set(re.findall(r"^(codelength_\w+)", metrics.text().decode(), re.MULTILINE))
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(codelength_\w+)", text))
    assert {name for name in there if not name.endswith("_created")} == documented


def test_help_of_every_command_ends_with_examples_that_could_be_typed():
    """What they name is there: command and options; and nothing is wider than a terminal."""
    import shlex

    from typer.main import get_command

    from harness.cli import app
    from harness.epilogs import EPILOGS

    commands = get_command(app).commands
    assert set(EPILOGS) == set(commands)
    for name, (examples, _) in EPILOGS.items():
        assert all(len(line) <= 78 for line in examples), name
        for line in "\n".join(examples).replace("\\\n", " ").splitlines():
            program, command, *words = shlex.split(line.partition("|")[0])
            assert (program, command) == ("codelength", name)
            options = {option for one in commands[name].params for option in one.opts}
            assert {word for word in words if word.startswith("-")} <= options, line


def test_commands_and_routes_that_are_named_exist():
    """Every command of the program is typed in a script or a document; every route that a document names is there."""
    import alice.app
    import bob.app
    from harness.cli import app
    from shared.service.settings import Settings

    names = {one.name or one.callback.__name__ for one in app.registered_commands}
    assert names == COMMANDS
    typed = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "cli").glob("*.cli"))
    typed += "\n".join(block.text for block in BLOCKS if block.language == "sh" and not block.reason)
    untyped = {name for name in names if f"codelength {name}" not in typed}
    assert untyped <= {"demo", "bench"}, "demo is run by tests/wire/test_cli.py, bench by tests/unit/test_bench.py"
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert set(re.findall(r"`codelength ([a-z]+)", text)) <= names
    routes = {
        (method, re.sub(r"\{\w+\}", "{id}", path))
        for create in (alice.app.create_app, bob.app.create_app)
        for path, operations in create(Settings()).openapi()["paths"].items()
        for method in operations
    }
    for method, path in re.findall(r"`(GET|POST|DELETE)\s+(/[a-z/{}|]+)", text):
        head, _, last = path.rpartition("/")
        for one in last.split("|"):
            assert (method.lower(), f"{head}/{one}") in routes, (method, path)
