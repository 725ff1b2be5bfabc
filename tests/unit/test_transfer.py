"""A conversation over a link: who speaks last, and who is believed."""

import asyncio
from types import SimpleNamespace

import pytest

from shared.channel.errors import PeerFailedError, PeerLostError, RefusedError
from shared.channel.legs import Leg
from shared.channel.messages import Accept, Ack, Check, Data, Done, End, Error, Hello, Prepared
from shared.channel.protocol import Channel
from shared.channel.states import Role, State
from shared.code.errors import CodelengthError
from shared.code.models import preset
from shared.code.size import source_module
from shared.service.metering import ConnectionMeter
from shared.service.records import CodeReference, Dataset, FBitsRecord, Transmission
from shared.service.retrying import Retrying, is_doubtful, may_be_cured
from shared.service.transfer import Conversation, Recorder, side_by_side

HELLO = Hello(transmission="0" * 32, spec=b"{}", tokens=None, media_type="text/plain", name="x", code="ngram", runtime="{}")


class FakeLink:
    """What the peer has sent already, and what was sent to it."""

    def __init__(self):
        self.meter = SimpleNamespace(sent=SimpleNamespace(), received=SimpleNamespace(), silence_seconds=0.05)
        self.incoming = asyncio.Queue()
        self.outgoing = []

    async def send(self, data):
        self.outgoing.append(data)

    async def receive(self):
        return await self.incoming.get()

    async def close(self, code, reason):
        self.closed = code, reason


async def test_what_the_peer_said_last_counts_not_that_nothing_could_be_said_after_it():
    """Bob fails while Alice is about to speak: the error is his, not that her message came too late."""
    link, bob = FakeLink(), Channel(Role.BOB)
    alice = Conversation(Role.ALICE, link)
    await alice.say(HELLO)
    bob.receive_data(link.outgoing.pop())
    assert list(bob.events()) == [HELLO]
    bob.send(Accept(block=0, records=0, z_bytes=0, runtime="{}"))
    link.incoming.put_nowait(bob.data_to_send())
    heard = alice.hear()
    await anext(heard)
    bob.send(Error(problem="corpus-damaged", reason="give it again"))
    link.incoming.put_nowait(bob.data_to_send())

    async def listen():
        await anext(heard)

    async def speak():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await alice.say(Prepared(digest=b"m" * 32))

    with pytest.raises(PeerFailedError, match="give it again"):
        await side_by_side(listen(), speak(), speak())
    await alice.say(Prepared(digest=b"m" * 32))
    assert not link.outgoing


async def error_of(conversation, data):
    """How a conversation ends that hears these bytes and then the end; the peer is told."""
    conversation.link.incoming.put_nowait(data)
    conversation.link.incoming.put_nowait(None)
    error = None
    try:
        async for _ in conversation.hear():
            pass
    except CodelengthError as raised:
        error = raised
    await conversation.end(error)
    return error


@pytest.mark.parametrize(
    ("speaker", "state", "messages"),
    [
        (Role.ALICE, State.OPENING, (HELLO,)),
        (Role.BOB, State.OFFERED, (Accept(block=0, records=0, z_bytes=0, runtime="{}"),)),
        (Role.BOB, State.OFFERED, (Done(sha256=b"s" * 32),)),
        (
            Role.ALICE,
            State.ACCEPTED,
            (Data(z=b"z"), Check(position=1, crc=2, digest=None), End(tokens=1, sha256=b"s" * 32, z_bits=8)),
        ),
        (Role.BOB, State.ENDED, (Ack(received_bytes=0, durable_bytes=0), Done(sha256=b"s" * 32))),
    ],
)
async def test_no_flipped_bit_lets_a_side_give_up(speaker, state, messages):
    """Neither the side that hears it, whatever it looks like, nor the other, who is told of an error of a sound message."""

    def link():
        one = FakeLink()
        one.meter.abort = lambda: None
        return one

    def conversation(role):
        one = Conversation(role, link())
        one.channel.state = state
        return one

    said = Channel(speaker)
    said.state = state
    for message in messages:
        said.send(message)
    data, told = said.data_to_send(), 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        hearer, other = conversation(speaker.other), conversation(speaker)
        error = await error_of(hearer, bytes(damaged))
        assert may_be_cured(error) or hearer.doubts(error), (bit, error)
        if hearer.link.outgoing:
            error = await error_of(other, hearer.link.outgoing.pop())
            assert may_be_cured(error) or other.doubts(error), (bit, error)
            told += 1
    assert told > 4 * len(data)


async def test_a_handshake_s_refusal_is_believed_once_it_comes_again_and_again(monkeypatch):
    """What Bob refuses may be a damaged token or subprotocol; waits before it, however many, do not count."""
    monkeypatch.setattr("shared.service.retrying._FIRST_SECONDS", 0.0)
    retrying = Retrying(60)
    for _ in range(20):
        assert retrying.may_go_on(PeerLostError("gone"))
        await retrying.wait()
    for slug in ("unauthorized", "version-mismatch"):
        refused, answers = RefusedError(slug, "no"), []
        assert is_doubtful(refused)
        while retrying.may_go_on(refused):
            answers.append(slug)
            await retrying.wait()
        assert len(answers) == 6
        assert retrying.may_go_on(PeerLostError("gone"))
    assert not retrying.may_go_on(RefusedError("limit-exceeded", "in a sealed REFUSE"))


@pytest.mark.parametrize("left_out", [1, 6, 10])  # of the SEAL, all of it, and of the record before it
async def test_what_was_begun_and_is_not_ended_breaks_the_connection(left_out):
    """A damaged length would have the receiver wait for the rest for ever, while pings come and go."""
    link, alice = FakeLink(), Channel(Role.ALICE)
    bob = Conversation(Role.BOB, link)
    alice.send(HELLO)
    data = alice.data_to_send()
    link.incoming.put_nowait(data[:-left_out])
    with pytest.raises(PeerLostError, match="left unfinished"):
        await asyncio.wait_for(anext(bob.hear()), 5)
    link.incoming.put_nowait(data)
    heard = Conversation(Role.BOB, link).hear()
    assert await anext(heard) == HELLO
    with pytest.raises(TimeoutError):  # silence after all was said is no fault
        await asyncio.wait_for(anext(heard), 0.2)


@pytest.mark.parametrize(
    ("begun", "then", "cut"),
    [
        (b"", b"\x89\x00", False),  # pings
        (b"\x82\x7e\xff\xff", b"\x89\x00", True),  # … vanish in a frame of 65,535 bytes
        (b"\x82\x7e\xff\xff", bytes(300), False),  # which goes on
        (b"\x02\x01z", b"\x89\x00", True),  # the rest of a message that does not come
        (b"\x8a\x04pong", b"\x89\x00", False),
        (b"\x8a\x09a message", b"\x89\x00", True),  # which would have been dropped as a pong
        (b"", b"", True),
    ],
)
async def test_a_frame_that_does_not_go_on_is_silence(begun, then, cut):
    aborted = []
    transport = SimpleNamespace(get_extra_info=lambda _: None, is_closing=lambda: bool(aborted))
    meter = ConnectionMeter(transport, client=True)
    meter.abort = lambda: aborted.append(True)
    meter.wrote(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x89\x84maskping")
    meter.read(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    meter.watch(0.3)
    meter.read(begun)
    for _ in range(12):
        await asyncio.sleep(0.05)
        meter.read(then) if then else None
    assert bool(aborted) == cut


async def test_a_rollback_that_is_said_again_is_charged_and_noted_once():
    safe = preset("ngram")
    bits = FBitsRecord(spec=8, source=80, assets=0, total=88)
    dataset = Dataset(
        id="", sha256="", vocabulary="bytes", vocabulary_size=256, tokens=9, bytes=9, media_type="text/plain", name="x"
    )
    record = Transmission(id="0" * 32, dataset=dataset, code=CodeReference.of("x", safe), f_bits=bits)
    recorder = Recorder(SimpleNamespace(changed=lambda *_, **__: None), record, "decode")
    first = Leg()
    second = first.rolled_back(3, 40 << 24, 50, "ngram")
    assert (second.coded_bytes, second.abandoned_bytes, second.end) == (5, 45, 19)
    for leg in (first, second, second, first, second):
        recorder.leg(leg, safe, {source_module(safe): (b"", 800)})
        assert record.f_bits.source == (880 if leg.rollbacks else 80)
        assert (record.rollbacks, record.abandoned_bytes) == (leg.rollbacks, leg.abandoned_bytes)
    assert len(record.notes) == 1
    assert "45 bytes of z were given up" in record.notes[0]
    recorder.leg(second.ended(19, 60 << 24, 7), safe, {})
    assert (record.z_bits, record.nll_bits, record.rollbacks) == (96, 60.0, 1)
