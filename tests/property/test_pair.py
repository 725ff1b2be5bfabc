"""An in-memory pair: however the bytes are cut, both sides see the same, and D comes out."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.channel.errors import BadFrameError, ChannelError, StartMismatchError
from shared.channel.messages import Accept, Data, Hello, Parser, Prepared
from shared.channel.protocol import Channel
from shared.channel.states import Role
from shared.code.codec import prepare
from shared.code.errors import CodelengthError
from shared.code.spec import CodeSpec, Start
from shared.service.coding import TransmissionDecoder, TransmissionEncoder
from tests.support import SMALL_NETWORKS, STATISTICAL, carry, identity, pair, small, small_model

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
FEWER = settings(SETTINGS, max_examples=12)  # of networks


def cutter(cuts):
    def cut(data):
        places = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
        return [data[a:b] for a, b in pairwise(places)]

    return cut


def single(data):
    return [data[i : i + 1] for i in range(len(data))]


def transmit(spec, tokens, cut, damage=None, out=None):
    """The tokens that Bob delivers, over two Channels."""
    alice, bob = pair()
    alice.send(
        Hello(transmission="0" * 32, spec=spec.canonical_bytes(), tokens=None, media_type="", name="", code="", runtime="")
    )
    (hello,) = carry(alice, bob, cut)
    bob.send(Accept(block=0, records=0, z_bytes=0, runtime=""))
    carry(bob, alice, cut)
    blocks = [tokens[i : i + spec.block_tokens] for i in range(0, len(tokens), spec.block_tokens)]
    encoder = TransmissionEncoder(spec, blocks, sha256=identity(spec.vocabulary, tokens))
    decoder = TransmissionDecoder(CodeSpec.parse(hello.spec), max_tokens=1 << 20)
    out = [] if out is None else out
    for message in encoder.messages():
        if message is None:
            continue
        if damage is not None and isinstance(message, Data):
            place, bit = damage
            z = bytearray(message.z)
            z[place % len(z)] ^= 1 << bit
            message = Data(z=bytes(z))
            damage = None
        alice.send(message)
        for event in carry(alice, bob, cut):
            decoder.take(event)
            out.extend(block[0] for block in decoder.blocks() if block is not None)
    assert decoder.finished
    return np.concatenate(out) if out else np.zeros(0, np.uint32)


CUTS = st.lists(st.integers(0, 1 << 20), max_size=8)


@SETTINGS
@given(
    name=st.sampled_from(STATISTICAL),
    m=st.sampled_from([1, 2, 7, 256, 300, 70_000]),
    data=st.lists(st.integers(0, 1 << 30), max_size=300),
    block=st.integers(1, 100),
    segment=st.integers(1, 40),
    cuts=CUTS,
)
def test_split_anywhere(name, m, data, block, segment, cuts):
    spec = CodeSpec.from_fields(
        {"vocabulary": {"kind": "ids", "size": m}, "model": small_model(name), "block_tokens": block, "segment_tokens": segment}
    )
    tokens = np.array([x % m for x in data], dtype=np.uint32)
    for cut in (cutter([]), cutter(cuts), single):
        assert np.array_equal(transmit(spec, tokens, cut), tokens)


@pytest.mark.parametrize("m", [1, 2, 300, 70_000])
@FEWER
@given(
    name=st.sampled_from(list(SMALL_NETWORKS)),
    data=st.data(),
    block=st.integers(1, 100),
    segment=st.integers(1, 12),
    streams=st.integers(1, 9),
    passes=st.integers(0, 2),
    cuts=CUTS,
)
def test_split_anywhere_with_a_network(m, name, data, block, segment, streams, passes, cuts):
    """Also blocks shorter than the number of streams, data of one token or none, and replay of as few tokens as may be kept."""
    found = data.draw(st.lists(st.integers(0, 1 << 30), max_size=100 if m < 1000 else 12), label="tokens")
    tokens = np.array([x % m for x in found], dtype=np.uint32)
    kept = (segment * streams - 1).bit_length() or 1
    training = {"replay": {"passes": passes, "history_bits": kept}} if passes else {}
    spec = small(name, m, block_tokens=block, segment_tokens=segment, streams=streams, training=training)
    for cut in (cutter(cuts), single) if m < 1000 else (cutter(cuts),):
        assert np.array_equal(transmit(spec, tokens, cut), tokens)


def damaged(spec, place, bit, repeats=30):
    """One flipped bit: an error, and nothing false before it."""
    tokens = np.frombuffer(b"to be or not to be, that is the question " * repeats, dtype=np.uint8).astype(np.uint32)
    delivered = []
    with pytest.raises(CodelengthError):
        transmit(spec, tokens, cutter([]), damage=(place, bit), out=delivered)
    found = np.concatenate([*delivered, np.zeros(0, np.uint32)])
    assert np.array_equal(found, tokens[: len(found)])


@SETTINGS
@given(name=st.sampled_from(STATISTICAL), place=st.integers(0, 1 << 16), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_and_nothing_false_is_delivered(name, place, bit):
    damaged(CodeSpec.from_fields({"model": small_model(name), "block_tokens": 400, "segment_tokens": 50}), place, bit)


@FEWER
@given(name=st.sampled_from(list(SMALL_NETWORKS)), place=st.integers(0, 1 << 16), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_by_a_network(name, place, bit):
    damaged(small(name), place, bit, repeats=6)


@SETTINGS
@given(data=st.binary(max_size=300), role=st.sampled_from(list(Role)))
def test_random_bytes_are_messages_or_documented_errors(data, role):
    channel = Channel(role)
    channel.receive_data(data)
    try:
        list(channel.events())
    except ChannelError:
        assert channel.state == "closed"


@SETTINGS
@given(data=st.binary(max_size=200))
def test_parser_is_the_same_byte_by_byte(data):
    def run(parts):
        parser, out = Parser(), []
        try:
            for part in parts:
                parser.feed(part)
                while (message := parser.next()) is not None:
                    out.append(message)
        except ChannelError as error:
            out.append(type(error))
        return out

    assert run([data]) == run(single(data))


def test_the_models_are_compared_before_the_first_token():
    """PREPARED comes first, once, and only where the spec starts from a corpus; models that differ end it there."""
    start = Start(corpus="0" * 64, steps=2)
    spec = CodeSpec.from_fields({"model": {"kind": "frequency"}, "block_tokens": 50}).with_training(frozen=True, start=start)

    def ready(corpus):
        *_, (predictor, _) = prepare(spec, lambda: [np.full(50, corpus, np.uint32)])
        return predictor

    tokens = np.arange(70, dtype=np.uint32)
    said = [m for m in TransmissionEncoder(spec, [tokens[:50], tokens[50:]], predictor=ready(1)).messages() if m is not None]
    assert [type(m) for m in said].count(Prepared) == 1
    for corpus, order, error in (
        (2, said, StartMismatchError),
        (1, said[1:], BadFrameError),
        (1, [said[0], *said], BadFrameError),
    ):
        decoder = TransmissionDecoder(spec, max_tokens=100, predictor=ready(corpus))
        with pytest.raises(error):
            list(map(decoder.take, order))
        assert decoder.decoder.position == 0
    decoder = TransmissionDecoder(spec, max_tokens=100, predictor=ready(1))
    for message in said:
        decoder.take(message)
    assert sum(len(block[0]) for block in decoder.blocks() if block is not None) == 70
    with pytest.raises(BadFrameError, match="no place"):
        TransmissionDecoder(spec.with_training(frozen=True, start=None), max_tokens=100).take(said[0])
