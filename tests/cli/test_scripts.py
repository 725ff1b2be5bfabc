"""Command lines as a user types them, with what they must print. `pytest tests/cli --refresh` rewrites the expectations.

A script is a text file of steps: `$ command`, then the lines of standard output, those of standard error after `! `, and
`? status` where that is not 0. `[..]` in an expected line stands for anything, and survives a refresh where it still fits.
Lines that begin with `#` are comments. Every script runs by bash in an empty directory, with the services of the test
cluster in $ALICE, $BOB and $WIRE, and the repository in $ROOT.
"""

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPTS = sorted(Path(__file__).parent.glob("*.cli"))


@dataclass
class Step:
    """A command, the comments before it, and what it is expected to print."""

    comments: list[str]
    command: str
    expected: list[str] = field(default_factory=list)


def parse(text: str) -> tuple[list[Step], list[str]]:
    steps, comments = [], []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(comments, line[2:]))
            comments = []
        elif line.startswith("#") or not line:
            comments.append(line)
        else:
            steps[-1].expected.append(line)
    return steps, comments


def run(command: str, directory: Path, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=environment,
        capture_output=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    out = [line or "." for line in done.stdout.decode("utf-8", "replace").splitlines()]
    out += [f"! {line}" for line in done.stderr.decode("utf-8", "replace").splitlines()]
    return [line.rstrip() for line in out] + ([f"? {done.returncode}"] if done.returncode else [])


def fits(expected: str, line: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, expected.split("[..]"))), line) is not None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(script, cluster, commands, tmp_path, request):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CODELENGTH_") or "CACHE" in name},
        "PATH": commands,
        "COLUMNS": "100",
        "ROOT": str(Path(__file__).parents[2]),
        "LC_ALL": "C.UTF-8",
        "ALICE": cluster.alice,
        "BOB": cluster.bob,
        "WIRE": cluster.wire,
    }
    steps, tail = parse(script.read_text(encoding="utf-8"))
    found, wrong = [], []
    for step in steps:
        lines = run(step.command, tmp_path, environment)
        same = len(lines) == len(step.expected) and all(map(fits, step.expected, lines))
        if not same:
            wrong.append("\n".join([f"$ {step.command}", "expected:", *step.expected, "found:", *lines]))
        kept = [next((one for one in step.expected if "[..]" in one and fits(one, line)), line) for line in lines]
        found += [*step.comments, f"$ {step.command}", *kept]
    if request.config.getoption("--refresh"):
        script.write_text("\n".join([*found, *tail]) + "\n", encoding="utf-8")
    else:
        assert not wrong, "\n\n".join(wrong)
