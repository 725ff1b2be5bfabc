"""Messages, states, the credit window, the error tree, the ledger."""

import pytest

from harness.document import generated
from shared.channel import errors
from shared.channel.errors import (
    BadFrameError,
    LimitError,
    LocalProtocolError,
    PeerLostError,
    RemoteProtocolError,
    UnexpectedMessageError,
    UnknownMessageError,
    VersionError,
    describe,
)
from shared.channel.ledger import DirectionLedger, FrameMeter, Measure, compose, disagreements
from shared.channel.messages import (
    MAX_DATA_BYTES,
    MAX_INTEGER,
    MESSAGES,
    Accept,
    Ack,
    Block,
    Cancel,
    Check,
    Code,
    Data,
    Done,
    End,
    Error,
    Hello,
    Parser,
    Prepared,
    Refuse,
    Restart,
    Rollback,
    decode,
    encode,
    encode_varint,
)
from shared.channel.protocol import WINDOW_BYTES
from shared.channel.states import TABLE, Role, State, after
from shared.code.errors import CodelengthError
from tests.support import carry, pair

HELLO = Hello(transmission="0" * 32, spec=b"{}", tokens=None, media_type="text/plain", name="naïve", code="ngram", runtime="{}")
ALL = (
    HELLO,
    Accept(block=0, records=0, z_bytes=0, runtime="x"),
    Refuse(problem="busy", reason="later"),
    Code(name="source", data=b"abc"),
    Block(index=3, tokens=MAX_INTEGER),
    Data(z=b"\0" * MAX_DATA_BYTES),
    Check(position=1, crc=0xFFFFFFFF, digest=b"d" * 32),
    Check(position=1, crc=0, digest=None),
    End(tokens=0, sha256=b"s" * 32, z_bits=0),
    Ack(received_bytes=5, durable_bytes=4),
    Done(sha256=b"s" * 32),
    Cancel(reason="no"),
    Error(problem="internal", reason=""),
    Rollback(block=7),
    Restart(block=7, code="frequency"),
    Prepared(digest=b"m" * 32),
)


def whole(data):
    return [data]


@pytest.mark.parametrize("message", ALL, ids=lambda m: type(m).__name__)
def test_messages_come_back(message):
    parser = Parser()
    for byte in encode(message):
        assert parser.next() is None
        parser.feed(bytes([byte]))
    assert parser.next() == message
    assert parser.waiting_bytes == 0


def test_numbers_are_the_protocols():
    assert {number: cls.__name__ for number, cls in MESSAGES.items()} == dict(
        enumerate(
            [
                "Hello",
                "Accept",
                "Refuse",
                "Code",
                "Block",
                "Data",
                "Check",
                "End",
                "Ack",
                "Done",
                "Cancel",
                "Error",
                "Rollback",
                "Restart",
                "Prepared",
                "Seal",
                "Text",
            ],
            start=1,
        )
    )


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x00", BadFrameError),
        (b"\xff" * 9, BadFrameError),
        (b"\x02\x63x", UnknownMessageError),
        (b"\x01\x00", UnknownMessageError),
        (encode_varint(1 << 40) + b"\x06", LimitError),
        (b"\x02\x05\x01", BadFrameError),  # BLOCK without tokens
        (b"\x05\x05\x01\x01\x01\x01", BadFrameError),  # bytes after the last field
        (b"\x04\x05\x80\x00\x01", BadFrameError),  # not the shortest form
        (b"\x03\x01\x07\x00", VersionError),
        (b"\x04\x0b\x02\xff\xfe", BadFrameError),  # no UTF-8
        (b"\x05\x07\x01\x01\x02\x00", BadFrameError),  # the mark of an optional field
        (b"\x05\x0b\xff\x7f\x00\x00", LimitError),  # a text that says it is too long
    ],
)
def test_malformed_records(data, error):
    parser = Parser()
    parser.feed(data)
    with pytest.raises(error):
        parser.next()


@pytest.mark.parametrize("bad", [Block(index=-1, tokens=1), Data(z=b"x" * (MAX_DATA_BYTES + 1)), Done(sha256=b"short")])
def test_own_mistakes_are_local(bad):
    with pytest.raises(LocalProtocolError):
        encode(bad)


def test_decode_unknown_number():
    with pytest.raises(UnknownMessageError, match="99"):
        decode(99, b"")


def opened():
    alice, bob = pair()
    alice.send(HELLO)
    assert carry(alice, bob, whole) == [HELLO]
    bob.send(Accept(block=0, records=0, z_bytes=0, runtime=""))
    carry(bob, alice, whole)
    return alice, bob


def test_a_whole_conversation():
    alice, bob = opened()
    for message in (Code(name="f", data=b"f"), Block(index=0, tokens=1), Data(z=b"z"), Check(position=1, crc=2, digest=None)):
        alice.send(message)
    assert len(carry(alice, bob, whole)) == 4
    bob.send(Ack(received_bytes=1, durable_bytes=1))
    assert carry(bob, alice, whole) == [Ack(received_bytes=1, durable_bytes=1)]
    assert alice.credit_bytes == bob.credit_bytes == WINDOW_BYTES
    alice.send(End(tokens=1, sha256=b"s" * 32, z_bits=8))
    carry(alice, bob, whole)
    bob.send(Done(sha256=b"s" * 32))
    carry(bob, alice, whole)
    assert alice.state == bob.state == State.CLOSED
    assert alice.z_sent_bytes == bob.z_sent_bytes == 1
    bob.receive_data(b"\x00")  # after the end everything is ignored (P-8)
    assert list(bob.events()) == []
    bob.receive_eof()


@pytest.mark.parametrize("message", ALL[1:], ids=lambda m: type(m).__name__)
def test_the_table_is_enforced_on_both_sides(message):
    """In every state and role: what the table allows passes, all else is a local or a remote error."""
    for state in State:
        for role in Role:
            alice, bob = pair()
            sender, receiver = (alice, bob) if role is Role.ALICE else (bob, alice)
            sender.state = receiver.state = state
            if isinstance(message, Ack):
                sender._z_sent = receiver._z_sent = 100
            if after(state, role, type(message)) is None:
                with pytest.raises(LocalProtocolError):
                    sender.send(message)
                assert sender.data_to_send() == b""
                receiver.receive_data(encode(message))
                if state is State.CLOSED:
                    assert list(receiver.events()) == []
                else:
                    with pytest.raises(UnexpectedMessageError):
                        list(receiver.events())
                    assert receiver.state is State.CLOSED
            else:
                sender.send(message)
                assert carry(sender, receiver, whole) == [message]
                assert sender.state is receiver.state is TABLE[state, role, type(message)]


def test_credit_binds_both_sides():
    alice, bob = opened()
    for _ in range(WINDOW_BYTES // MAX_DATA_BYTES):
        alice.send(Data(z=b"\0" * MAX_DATA_BYTES))
        carry(alice, bob, whole)
    assert alice.credit_bytes == 0
    with pytest.raises(LocalProtocolError, match="credit"):
        alice.send(Data(z=b"x"))
    bob.receive_data(encode(Data(z=b"x")))
    with pytest.raises(LimitError, match="in flight"):
        list(bob.events())


def test_acknowledgements_must_be_plausible():
    alice, bob = opened()
    alice.send(Data(z=b"abc"))
    carry(alice, bob, whole)
    for bad in (Ack(received_bytes=4, durable_bytes=0), Ack(received_bytes=2, durable_bytes=3)):
        with pytest.raises(LocalProtocolError):
            bob.send(bad)
    alice.receive_data(encode(Ack(received_bytes=4, durable_bytes=0)))
    with pytest.raises(LimitError):
        list(alice.events())


def test_nothing_is_believed_before_its_seal():
    """Any flipped bit of what is sent is found, by the seal at the latest; a part without its seal says nothing yet."""
    alice, bob = opened()
    alice.send(Data(z=b"abc"))
    alice.send(Check(position=1, crc=2, digest=None))
    sent = alice.data_to_send()
    bob.receive_data(sent[:-1])
    assert list(bob.events()) == []
    bob.receive_data(sent[-1:])
    assert len(list(bob.events())) == 2
    for place in range(8 * len(sent)):
        _, bob = opened()
        damaged = bytearray(sent)
        damaged[place // 8] ^= 1 << place % 8
        bob.receive_data(bytes(damaged) + b"\xff" * 70_000)
        with pytest.raises(RemoteProtocolError):
            list(bob.events())


def test_a_conversation_goes_on_where_bob_says():
    """Credit and acknowledgements count from what he held before (P-15)."""
    alice, bob = pair()
    alice.send(HELLO)
    carry(alice, bob, whole)
    bob.send(Accept(block=0, records=3, z_bytes=1 << 40, runtime=""))
    carry(bob, alice, whole)
    assert alice.credit_bytes == bob.credit_bytes == WINDOW_BYTES
    alice.send(Data(z=b"abc"))
    carry(alice, bob, whole)
    assert alice.z_sent_bytes == bob.z_sent_bytes == 3
    with pytest.raises(LocalProtocolError):
        bob.send(Ack(received_bytes=3, durable_bytes=3))
    bob.send(Ack(received_bytes=3 + (1 << 40), durable_bytes=3 + (1 << 40)))
    carry(bob, alice, whole)
    assert alice.credit_bytes == WINDOW_BYTES


def test_an_early_end_is_a_lost_peer():
    alice, _ = opened()
    with pytest.raises(PeerLostError, match="accepted"):
        alice.receive_eof()
    assert alice.fail(Error(problem="x", reason="y")).startswith(encode(Error(problem="x", reason="y")))
    alice.close()
    alice.receive_eof()


def subclasses(cls):
    for sub in cls.__subclasses__():
        if sub.__module__.startswith(("shared.code", "shared.channel")):
            yield sub
            yield from subclasses(sub)


def test_the_error_tree_in_the_docstring_is_the_tree():
    lines = [
        line.strip(" │├└─").split()[0]
        for line in errors.__doc__.splitlines()
        if "── " in line or line.strip() == "CodelengthError"
    ]
    assert set(lines) == {"CodelengthError", *(cls.__name__ for cls in subclasses(CodelengthError))}


def test_every_error_is_described_and_speaks():
    slugs = [d.slug for d in errors._DESCRIPTIONS.values()]
    assert len(set(slugs)) == len(slugs)
    assert set(errors._DESCRIPTIONS) == {CodelengthError, *subclasses(CodelengthError)}
    for error in (
        UnknownMessageError(5), VersionError(2, 1), errors.DivergedError(1, 2, "a", "b"), errors.DigestMismatchError("a", "b"),
        errors.RefusedError("busy", "later"), errors.PeerFailedError("x", "y"), errors.CancelledTransmissionError("z"),
    ):  # fmt: skip
        assert str(error)
        assert 4000 <= describe(error).close_code < 5000
    assert describe(ZeroDivisionError()).slug == "internal"


def test_docs_protocol_is_generated_from_the_table():
    from pathlib import Path

    text = Path(__file__).parents[2].joinpath("docs", "protocol.md").read_text(encoding="utf-8")
    assert generated() in text


def frame(payload: bytes, *, mask: bool, opcode: int = 2) -> bytes:
    size = len(payload)
    head = bytes([0x80 | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    return head + (b"mask" if mask else b"") + payload


@pytest.mark.parametrize("step", [1, 3, 100_000])
@pytest.mark.parametrize("client", [True, False])
def test_frame_meter(step, client):
    request = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n" if client else b"HTTP/1.1 101 Switching\r\n\r\n"
    sizes = 5, 300, 70_000
    data = request + b"".join(frame(b"x" * size, mask=client) for size in sizes) + frame(b"bye", mask=client, opcode=8)
    meter = FrameMeter(client=client)
    for start in range(0, len(data), step):
        assert not meter.closed
        meter.feed(data[start : start + step])
    assert meter.closed
    ledger, mask = meter.ledger, 4 if client else 0
    assert ledger.payload_bytes == sum(sizes)
    assert ledger.framing_bytes == 2 + 4 + 10 + 3 * mask
    assert ledger.control_bytes == 2 + mask + 3
    assert ledger.handshake_bytes == len(request)
    assert ledger.socket_bytes == len(data)
    assert ledger.violations() == []
    assert not meter.compressed


def test_no_close_frame_has_crossed_where_its_length_was_damaged_and_a_ping_fills_it():
    meter = FrameMeter(client=True)
    close, ping = frame(b"\x03\xe8", mask=True, opcode=8), frame(b"ping", mask=True, opcode=9)
    meter.feed(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n" + close + ping)
    assert meter.closed
    damaged = FrameMeter(client=True)
    damaged.feed(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n" + close[:1] + bytes([close[1] ^ 8]) + close[2:] + ping)
    assert not damaged.closed


def test_frame_meter_sees_compression_and_refusals():
    meter = FrameMeter(client=False)
    meter.feed(b"HTTP/1.1 101 Switching\r\n\r\n" + bytes([0xC2, 1, 0]))
    assert meter.compressed
    refused = FrameMeter(client=False)
    refused.feed(b"HTTP/1.1 401 No\r\n\r\nbody")
    assert refused.ledger.handshake_bytes == refused.ledger.socket_bytes == 23


def test_ledger_finds_every_disagreement():
    good = {"payload_bytes": 5, "z_bytes": 4, "framing_bytes": 1, "handshake_bytes": 4, "socket_bytes": 10, "tcp_info_bytes": 10}
    one = DirectionLedger(**good)
    assert disagreements(one, DirectionLedger(**good), 10) == []
    assert compose(one, one, 10)["tcp_info_bytes"] == {"sender": 10, "receiver": 10}
    for change in ({"socket_bytes": 11}, {"z_bytes": 6}, {"tcp_info_bytes": 9}, {"payload_bytes": 4}):
        assert disagreements(one, DirectionLedger(**{**good, **change}), 10)
    assert "witness" in disagreements(one, one, 9)[0]


def test_measure():
    one = Measure(f_bits=80, tokens=10, vocabulary_size=256, nll_bits=40.0, dataset_bytes=10)
    assert (one.s0_bits, one.sk_bits, one.bits_per_byte, one.compression_rate_net_of_f) == (160.0, 120.0, 4.0, 0.5)
    assert one.compression_rate == 0.25
    empty = Measure(f_bits=80, tokens=0, vocabulary_size=256, nll_bits=0.0, dataset_bytes=0)
    assert empty.s0_bits == empty.sk_bits == 80
    assert set(empty.as_dict().values()) == {80, None}
