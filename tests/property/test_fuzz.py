"""Changed and random input everywhere a stranger's bytes are read: taken, or refused by a documented error, soon and in little memory.

The oracle is the same throughout: nothing but a `CodelengthError` leaves, in bounded time; its text can be sent. Each test runs with
few inputs always, and with many under `long`, which says how many were tried.
"""

import io
import json
import resource
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.channel.messages import Block, Check, Data, End, Hello, encode
from shared.channel.protocol import Channel
from shared.channel.states import Role, State
from shared.code.codec import Decoder
from shared.code.errors import CodelengthError
from shared.code.models import PRESETS, preset
from shared.code.spec import BytesVocabulary, CodeSpec, IdsVocabulary
from shared.service import filing
from shared.service.coding import TransmissionDecoder
from tests.support import SMALL_NETWORKS, STATISTICAL, small, small_model

SECONDS = 5.0  # for one input, on a crowded machine
GROWTH_BYTES = 400 << 20
TEXT = b"to be or not to be, that is the question: " * 30


def amounts(few, many):
    return pytest.mark.parametrize("inputs", [few, pytest.param(many, marks=pytest.mark.long)])


class Oracle:
    """Judges every input. refused: those that ended in a documented error."""

    def __init__(self):
        self.tried = self.refused = 0
        self.resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def judge(self, use):
        self.tried += 1
        started = time.process_time()
        try:
            use()
        except CodelengthError as error:
            self.refused += 1
            str(error).encode()
        assert time.process_time() - started < SECONDS

    def tell(self, name, capsys, inputs):
        assert self.tried >= inputs // 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.resident < GROWTH_BYTES
        if inputs >= 1000:
            with capsys.disabled():
                sys.stderr.write(f"\n{name}: {self.tried} inputs tried, {self.refused} refused\n")


def run(inputs, body, **strategies):
    settings(max_examples=inputs, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))(
        given(**strategies)(body)
    )()


CHANGES = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat", "drop"]), st.integers(0, 1 << 20), st.binary(max_size=12)),
    min_size=1,
    max_size=5,
)


def changed(data, changes):
    """Bits flipped, the end cut off, bytes put in, twice, or left out."""
    out = bytearray(data)
    for kind, place, given_bytes in changes:
        at = place % (len(out) + 1)
        if kind == "flip" and out:
            out[at % len(out)] ^= 1 << place % 8
        elif kind == "cut":
            del out[at:]
        elif kind == "insert":
            out[at:at] = given_bytes
        elif kind == "repeat":
            out[at:at] = out[at : at + 8 * len(given_bytes)]
        else:
            del out[at : at + len(given_bytes)]
    return bytes(out)


SPECS = [
    preset(name, vocabulary).canonical_bytes() for name in PRESETS for vocabulary in (BytesVocabulary(), IdsVocabulary(size=300))
]
FIELDS = [
    {"model": one.model.model_dump(), "training": {"kind": "online", "optimizer": {"rate": 1}}, "block_tokens": 9, "streams": 1}
    for one in PRESETS.values()
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([1 << 64, -1, 10**400, "\ud800", "online"])
    | st.text()
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))
NAMES = (
    st.sampled_from(["format", "vocabulary", "model", "training", "streams", "seed", "kind", "start", "size", "\ud800"])
    | st.text()
)


def judge_spec(data):
    spec = CodeSpec.parse(data)
    assert spec.memory_bytes > 0
    again = CodeSpec.parse(spec.canonical_bytes())
    assert again == spec
    assert again.digest() == spec.digest()


@amounts(150, 20_000)
def test_changed_specs(inputs, capsys):
    oracle = Oracle()

    def body(data, changes):
        oracle.judge(lambda: judge_spec(changed(data, changes)))

    run(inputs, body, data=st.sampled_from(SPECS), changes=CHANGES)
    oracle.tell("specs, bytes changed", capsys, inputs)


@amounts(150, 20_000)
def test_specs_with_other_fields(inputs, capsys):
    oracle = Oracle()

    def body(fields, deep, name, value):
        fields = json.loads(json.dumps(fields))
        (fields["model"] if deep else fields)[name] = value
        oracle.judge(lambda: judge_spec(json.dumps(fields).encode()))

    run(inputs, body, fields=st.sampled_from(FIELDS), deep=st.booleans(), name=NAMES, value=JSON)
    oracle.tell("specs, fields changed", capsys, inputs)


def hello(spec, **fields):
    return Hello(
        transmission="0" * 32, spec=spec, tokens=7, media_type="text/plain", name="x", code="ngram", runtime="{}", **fields
    )


@amounts(100, 20_000)
def test_changed_hellos(inputs, capsys):
    """What Bob does with it before anything else: the message, its specification, and what that needs."""
    oracle = Oracle()

    def body(data, changes):
        alice, bob = Channel(Role.ALICE), Channel(Role.BOB)
        alice.send(hello(data))
        said = changed(alice.data_to_send(), changes)

        def use():
            bob.receive_data(said)
            for message in bob.events():
                assert isinstance(message, Hello)
                judge_spec(message.spec)

        oracle.judge(use)

    run(inputs, body, data=st.sampled_from(SPECS), changes=CHANGES)
    oracle.tell("HELLO", capsys, inputs)


MESSAGES = st.one_of(
    st.builds(Data, z=st.binary(min_size=1, max_size=300)),
    st.builds(
        Check, position=st.integers(0, 500) | st.sampled_from([40, 80, 120]), crc=st.integers(0, (1 << 32) - 1), digest=st.none()
    ),
    st.builds(Block, index=st.integers(0, 3), tokens=st.integers(0, 50)),
    st.builds(End, tokens=st.integers(0, 200), sha256=st.just(bytes(32)), z_bits=st.integers(0, 4000)),
)


@amounts(100, 20_000)
def test_changed_frames(inputs, capsys):
    """After ACCEPT, where most may be said; the connection is closed by whatever is wrong."""
    oracle = Oracle()

    def body(messages, changes, role):
        side = Channel(role)
        side.state = State.STREAMING
        said = changed(b"".join(map(encode, messages)), changes)

        def use():
            side.receive_data(said)
            try:
                list(side.events())
            except CodelengthError:
                assert side.state is State.CLOSED
                raise

        oracle.judge(use)

    run(inputs, body, messages=st.lists(MESSAGES, min_size=1, max_size=6), changes=CHANGES, role=st.sampled_from(list(Role)))
    oracle.tell("frames", capsys, inputs)


def stored(name):
    spec = CodeSpec.from_fields({"model": small_model(name), "block_tokens": 200, "segment_tokens": 50})
    out = io.BytesIO()
    filing.compress(io.BytesIO(TEXT).read, out.write, spec, name)
    return out.getvalue()


@amounts(60, 10_000)
def test_changed_files(inputs, capsys):
    """Also two files spliced: nothing false is ever written."""
    oracle = Oracle()
    files = [stored(name) for name in ("uniform", "frequency", "ngram")]

    def body(first, second, cut, place, changes):
        spliced = first[: cut % (len(first) + 1)] + second[place % (len(second) + 1) :]
        content = changed(spliced if place % 2 else first, changes)
        out = io.BytesIO()
        oracle.judge(lambda: filing.decompress(io.BytesIO(content).read, out.write, max_bytes=10 * len(TEXT)))
        assert (TEXT * 10).startswith(out.getvalue())
        oracle.judge(lambda: filing.scan(io.BytesIO(content).read))

    one = st.sampled_from(files)
    places = st.integers(0, 1 << 20)
    run(inputs, body, first=one, second=one, cut=places, place=places, changes=CHANGES)
    oracle.tell("files", capsys, inputs)


@pytest.mark.parametrize("name", [*STATISTICAL, *(f"small {name}" for name in SMALL_NETWORKS)])
@amounts(8, 1000)
def test_random_z(name, inputs, capsys):
    """Any z decodes to something until the first CHECK, which no chance passes; nothing is delivered."""
    oracle = Oracle()
    sizes = {"block_tokens": 40, "segment_tokens": 10}
    spec = small(name[6:], **sizes) if name[:6] == "small " else CodeSpec.from_fields({"model": small_model(name), **sizes})

    warm = Decoder(spec)  # kernels are loaded at their first use
    warm.begin_block(40)
    warm.feed(bytes(100))
    warm.decode()

    def body(messages, tokens):
        decoder = TransmissionDecoder(spec, max_tokens=100, tokens=tokens)
        delivered = []

        def use():
            for message in messages:
                decoder.take(message)
                delivered.extend(block for block in decoder.blocks() if block is not None)

        oracle.judge(use)
        assert not delivered

    run(inputs, body, messages=st.lists(MESSAGES, min_size=1, max_size=8), tokens=st.none() | st.integers(0, 200))
    oracle.tell(f"random z, {name}", capsys, inputs)
