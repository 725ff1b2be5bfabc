"""The house itself: imports, sizes, docstrings, what --help costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for room in ("alice", "bob", "shared", "harness") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 600
    assert ast.get_docstring(ast.parse(text))


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, harness.cli; print([m for m in ('torch', 'numba', 'fastapi', 'numpy', 'httpx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_services_prepare_the_kernel_cache_before_numba_is_there():
    """Numba looks where its cache is when it is imported; in a read-only installation it finds no other place."""
    code = "import sys, alice.__main__, bob.__main__, shared.service.starting; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_the_channel_knows_no_sockets():
    for path in (ROOT / "shared" / "channel").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import)
                else [node.module] if isinstance(node, ast.ImportFrom) else []
            )  # fmt: skip
            assert not {str(n).split(".")[0] for n in names} & {"asyncio", "socket", "fastapi", "websockets", "httpx"}
