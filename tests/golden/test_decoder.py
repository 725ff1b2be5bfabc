"""The independent decoder, written from docs/ alone, decodes what f wrote, to the bit, and finds what is damaged."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from shared.code.models import preset
from shared.code.spec import CodeSpec
from shared.service import filing

DECODER = Path(__file__).with_name("decoder.py")
TEXT = b"".join(b"It was the %d. of times, it was the worst of times; " % n for n in range(60))[:2400]


def stored(spec, tmp_path, data=TEXT):
    parts = []
    filing.compress(io.BytesIO(data).read, parts.append, spec, "")
    path = tmp_path / "file.clz1"
    path.write_bytes(b"".join(parts))
    return path


def decoded(path):
    return subprocess.run([sys.executable, str(DECODER), str(path)], capture_output=True, check=False)


def small(kind, **more):
    model = {"kind": kind, "width": 16, "hidden": 8, "taps": 3, "layers": 2, "tables": {"bits": 8}, **more}
    return CodeSpec.from_fields({"model": model, "block_tokens": 401, "segment_tokens": 7, "streams": 5})


@pytest.mark.parametrize(
    "spec",
    [preset("recurrent"), preset("transformer"), small("recurrent"), small("transformer", heads=2, context=5)],
    ids=["recurrent", "transformer", "small recurrent", "small transformer"],
)
def test_decodes_what_f_wrote(spec, tmp_path):
    done = decoded(stored(spec, tmp_path))
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == TEXT


def test_finds_a_flipped_bit(tmp_path):
    path = stored(small("recurrent"), tmp_path, TEXT[:500])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = decoded(path)
    assert done.returncode == 1
    assert done.stderr
