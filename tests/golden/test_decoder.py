"""The independent decoder, written from docs/ alone, decodes what f wrote, to the bit, and finds what is damaged.

`DECODER_PYTHON` names another interpreter to run it with, one of another architecture under an emulator for instance.
"""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.code.models import preset
from shared.code.spec import CodeSpec, Start
from shared.service import filing

DECODER = Path(__file__).with_name("decoder.py")
PYTHON = shlex.split(os.environ.get("DECODER_PYTHON", sys.executable))
TEXT = b"".join(b"It was the %d. of times, it was the worst of times; " % n for n in range(60))[:2400]
CORPUS = b"".join(b"It was the season of %d, it was the spring of hope; " % n for n in range(30))[:430]  # 13 steps of `small`
PERIODIC = bytes(range(27)) * 15  # the streams of `small` read the same at once: matches lead to places nobody will learn
REPLAY = {"passes": 2, "history_bits": 9}
ATTENTION = {"heads": 2, "context": 5}


@pytest.fixture
def stored(tmp_path):
    """Writes FILE and, where the code starts after some steps, its CORPUS; gives their paths."""

    def write(spec, data=TEXT, *, frozen=None, steps=0, corpus=CORPUS):
        path, other = tmp_path / "file.clz1", tmp_path / "corpus"
        other.write_bytes(corpus)
        if frozen is not None:
            start = Start(corpus=filing.corpus_identity(other, spec.vocabulary).sha256, steps=steps) if steps else None
            spec = spec.with_training(frozen=frozen, start=start)
        with path.open("wb") as file:
            filing.compress(io.BytesIO(data).read, file.write, spec, "", assets=filing.Assets([other]))
        return [path, other] if steps else [path]

    return write


def decoded(paths):
    return subprocess.run([*PYTHON, str(DECODER), *map(str, paths)], capture_output=True, check=False)


def small(kind, replay=None, vocabulary=None, **more):
    model = {"kind": kind, "width": 16, "hidden": 8, "taps": 3, "layers": 2, "tables": {"bits": 8}, **more}
    rest = {"training": {"kind": "online", "replay": replay}} if replay else {}
    rest |= {"vocabulary": vocabulary} if vocabulary else {}
    return CodeSpec.from_fields({"model": model, "block_tokens": 401, "segment_tokens": 7, "streams": 5, **rest})


def holds(paths, data=TEXT):
    done = decoded(paths)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == data


@pytest.mark.parametrize(
    "spec",
    [preset("recurrent"), preset("transformer"), small("recurrent"), small("transformer", **ATTENTION)],
    ids=["recurrent", "transformer", "small recurrent", "small transformer"],
)
def test_decodes_what_f_wrote(spec, stored):
    holds(stored(spec, TEXT[:1300]), TEXT[:1300])


@pytest.mark.parametrize("replay", [None, REPLAY], ids=["", "replay"])
@pytest.mark.parametrize(("frozen", "steps"), [(True, 9), (True, 0), (False, 16)], ids=["at 9", "at 0", "online after 16"])
@pytest.mark.parametrize(
    ("kind", "model"),
    [("recurrent", {}), ("transformer", {**ATTENTION, "tables": None})],
    ids=["recurrent", "transformer"],
)
def test_decodes_regimes_starts_and_replay(kind, model, frozen, steps, replay, stored):
    holds(stored(small(kind, replay, **model), TEXT[:500], frozen=frozen, steps=steps), TEXT[:500])


def test_matches_that_lead_past_the_corpus_end_with_it(stored):
    holds(stored(small("recurrent"), PERIODIC, frozen=True, steps=10, corpus=PERIODIC), PERIODIC)


def test_a_corpus_of_token_ids(stored):
    ids = np.resize(np.arange(0, 1000, 37, dtype="<u2"), 300).tobytes()
    spec = small("recurrent", REPLAY, {"kind": "ids", "size": 1000})
    holds(stored(spec, ids, frozen=True, steps=9, corpus=ids[100:]), ids)


@pytest.mark.long
@pytest.mark.parametrize("code", ["recurrent", "transformer", "transformer-tables"])
@pytest.mark.parametrize(("frozen", "steps"), [(True, 5), (False, 5)], ids=["frozen", "online"])
@pytest.mark.parametrize("replay", [None, {"passes": 1}], ids=["", "replay"])
def test_decodes_presets_after_a_corpus(code, frozen, steps, replay, stored):
    fields = preset(code).model_dump(mode="json")
    spec = CodeSpec.from_fields({**fields, "training": {**fields["training"], "replay": replay}})
    holds(stored(spec, TEXT[:1500], frozen=frozen, steps=steps), TEXT[:1500])


def test_finds_a_flipped_bit(stored):
    (path,) = stored(small("recurrent"), TEXT[:500])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = decoded([path])
    assert done.returncode == 1
    assert done.stderr


def test_wants_the_corpus_that_is_named(stored):
    path, corpus = stored(small("recurrent"), TEXT[:100], frozen=True, steps=1)
    corpus.write_bytes(CORPUS + b".")
    for given in ([path], [path, corpus]):
        done = decoded(given)
        assert done.returncode == 1
        assert b"no corpus given has the SHA-256" in done.stderr
