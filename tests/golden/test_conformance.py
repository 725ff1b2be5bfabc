"""The conformance set of the file channel: every file is read, or refused, as the index says, soon and in little memory."""

import io
import json
import os
import subprocess
import sys

import pytest

from shared.channel.errors import describe
from shared.channel.messages import Check, Hello, encode
from shared.code.errors import CodelengthError
from shared.service import conformance, filing

ENTRIES = conformance.entries()
DECODED = ("diverged", "corrupt-code", "digest-mismatch")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.file)
def test_read_as_described(entry):
    assert entry.description
    assert conformance.check(entry) is None


def test_files_are_written_as_they_were(tmp_path, monkeypatch):
    """Changing a good file is a breaking change; a bad one must be made by what is described."""
    monkeypatch.setattr(conformance, "DIRECTORY", tmp_path)
    monkeypatch.setattr(conformance, "_INDEX", tmp_path / "index.json")
    before = {path.name: path.read_bytes() for path in (conformance.Path(conformance.__file__).parent / "golden/files").iterdir()}
    conformance.write_all()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_every_error_of_a_file_has_a_file():
    known = {entry.problem for entry in ENTRIES}
    wanted = {"not-a-codelength-file", "file-version", "version-mismatch", "damaged-header", "truncated", "invalid-spec"}
    wanted |= {
        "damaged-file",
        "bad-frame",
        "unknown-message",
        "unexpected-message",
        "limit-exceeded",
        "diverged",
        "digest-mismatch",
    }
    assert wanted <= known


def test_scanning_finds_what_is_wrong_with_the_frame():
    framing = (
        "not-a-codelength-file",
        "file-version",
        "version-mismatch",
        "damaged-header",
        "truncated",
        "unknown-message",
        "damaged-file",
    )
    for entry in ENTRIES:
        content = io.BytesIO((conformance.DIRECTORY / entry.file).read_bytes())
        if entry.problem in framing:
            with pytest.raises(CodelengthError) as found:
                filing.scan(content.read)
            assert describe(found.value).slug == entry.problem
        elif entry.problem is None:
            assert sum(one.bytes for one in filing.scan(content.read)) == entry.bytes


_REFUSE = """
import json, sys, time
from pathlib import Path
from shared.service.kernels import prepare_kernel_cache
prepare_kernel_cache()
from shared.channel.errors import describe
from shared.channel.messages import Check, Hello, encode
from shared.code.errors import CodelengthError
from shared.service.filing import decompress
out = {}
for name in sys.argv[1:]:
    started = time.process_time()
    with Path(name).open("rb") as file:
        try:
            decompress(file.read1, len)
            slug = None
        except CodelengthError as error:
            slug = describe(error).slug
    out[name] = slug, time.process_time() - started, "torch" in sys.modules, "numba" in sys.modules
from shared.service.worker import peak_memory_bytes
out["peak_bytes"] = peak_memory_bytes()
print(json.dumps(out))
"""


def test_refused_soon_in_little_memory_without_torch(tmp_path):
    """Head and spec before anything is imported that models need; framing and limits within 2 s and 200 MB."""
    head = ("not-a-codelength-file", "file-version", "version-mismatch", "damaged-header", "invalid-spec")
    first = [e for e in ENTRIES if e.problem in head and e.file != "bad-trailing.clz1"]
    rest = [e for e in ENTRIES if e.problem is not None and e.problem not in DECODED and e not in first]
    floods = {
        "z": flood([b"\x83\x80\x04\x06\xff\xff\x03" + b"\x55" * 65535] * 200),  # 13 MB of z and no CHECK
        "checks": flood(encode(Check(position=65_536 * (i + 1), crc=0, digest=None)) for i in range(140_000)),
    }
    for name, content in floods.items():
        (tmp_path / name).write_bytes(content)
    names = [str(conformance.DIRECTORY / e.file) for e in first + rest] + [str(tmp_path / name) for name in floods]
    bare = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")
    }  # a tracer costs five times as much
    done = subprocess.run([sys.executable, "-c", _REFUSE, *names], capture_output=True, check=True, timeout=120, env=bare)
    found = json.loads(done.stdout)
    for entry in first:
        slug, seconds, torch, numba = found[str(conformance.DIRECTORY / entry.file)]
        assert slug == entry.problem
        assert not torch
        assert not numba, entry.file
        assert seconds < 2
    for name in names[len(first) :]:
        slug, seconds, torch, _ = found[name]
        assert slug is not None, name
        assert not torch
        assert seconds < 2, name
    assert found["peak_bytes"] < 200_000_000


def flood(records) -> bytes:
    from shared.channel.stored import StoredWriter
    from shared.code.models import preset

    hello = Hello(
        transmission="", spec=preset("frequency").canonical_bytes(), tokens=None, media_type="", name="", code="", runtime=""
    )
    return StoredWriter().begin(hello) + b"".join(records)


@pytest.mark.parametrize("limit", [1000, 999])
def test_a_bomb_is_held_by_max_bytes(limit):
    """m = 1: a million tokens cost nothing at all in the file."""
    from shared.code.spec import CodeSpec

    spec = CodeSpec.from_fields({"model": {"kind": "uniform"}, "vocabulary": {"kind": "ids", "size": 1}, "block_tokens": 500})
    out = io.BytesIO()
    filing.compress(io.BytesIO(bytes(1000)).read, out.write, spec, "uniform")
    written = io.BytesIO()
    if limit == 1000:
        filing.decompress(io.BytesIO(out.getvalue()).read, written.write, max_bytes=limit)
    else:
        with pytest.raises(CodelengthError, match="bytes to be written: 1000 is more than the limit of 999"):
            filing.decompress(io.BytesIO(out.getvalue()).read, written.write, max_bytes=limit)
    assert len(written.getvalue()) <= limit
    announced = io.BytesIO()
    filing.compress(io.BytesIO(bytes(1000)).read, announced.write, spec, "uniform", tokens=1000)
    with pytest.raises(CodelengthError, match="limit of 999"):
        filing.decompress(io.BytesIO(announced.getvalue()).read, written.write, max_bytes=999)
