"""Native models that diverge, in memory and under every fault: Bob has a prefix of D, and all of D at the end, in at most five legs.

The pair is that of test_resume, with legs. A count stands for the model: a bit of Bob's flips where a test says so.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from alice.outbox import Outbox
from shared.channel.errors import BadFrameError, DivergedError, LocalProtocolError, RemoteProtocolError
from shared.channel.legs import SAFE_BLOCKS, SAFE_CODE, Leg, safe_code
from shared.channel.messages import Ack, Data, Done, End, Hello, Restart, Rollback
from shared.channel.protocol import WINDOW_BYTES
from shared.channel.states import State
from shared.code.codec import first_predictor
from shared.code.errors import CorruptCodeError
from shared.code.models.frequency import Frequency, _build
from shared.code.spec import CodeSpec
from shared.code.vocabulary import dataset_digest, from_tokens
from shared.service.coding import TransmissionDecoder, TransmissionEncoder
from shared.service.received import ReceivedLog, ReceivedReader
from shared.service.snapshots import Snapshot, Snapshots, remove_snapshots
from tests.property.test_resume import TEXT, Pair, World, cut_after
from tests.support import SMALL_NETWORKS, carry, identity, pair

BLOCK = 30
NATIVE = CodeSpec.from_fields(
    {"model": SMALL_NETWORKS["recurrent"], "numerics": "native", "block_tokens": BLOCK, "segment_tokens": 10}
)
SAFE = safe_code("frequency", NATIVE)  # cheaper than SAFE_CODE
TOKENS = 30 * BLOCK + 7


def spec_of(leg):
    return SAFE if leg.code else NATIVE


def model(leg):
    return first_predictor(SAFE) if leg.code else Frequency(256, limit=400 + leg.rollbacks)


def digest_of(tokens):
    digest = dataset_digest(NATIVE.vocabulary)
    digest.update(from_tokens(tokens, NATIVE.vocabulary))
    return digest


class Alice:
    """Her process; `leg` and all else is lost when it is started again."""

    def __init__(self, tokens, directory, ticks):
        self.tokens, self.directory, self.ticks = tokens, directory, ticks
        self.outbox = None
        self.sent = 0  # of the leg's z

    def begin(self, leg, held=(0, 0), restart=None):
        self.leg = leg
        if restart or not leg.code:
            remove_snapshots(self.directory)
        self.snapshots = Snapshots(self.directory, spec_of(leg), "encode", block=leg.block, clock=self.ticks)
        snapshot = self.snapshots.newest(lambda h: h["records"] <= held[0] and h["z_bytes"] <= held[1])
        done = snapshot.head["tokens"] if snapshot else leg.block * BLOCK
        self.encoder = TransmissionEncoder(
            spec_of(leg),
            [self.tokens[i : i + BLOCK] for i in range(done, len(self.tokens), BLOCK)],
            sha256=identity(NATIVE.vocabulary, self.tokens),
            data_bytes=16,
            held=held,
            predictor=model(leg),
            leg=leg,
            digest=digest_of(self.tokens[:done]),
            clock=self.ticks,
        )
        if snapshot:
            self.encoder.restore(snapshot, digest_of(self.tokens[:done]))
        self.outbox, self.first, self.sent = Outbox(*held, restart), 0, held[1]
        self.coding = self.encoder.messages()

    def accept(self, accept):
        leg = Leg.of(accept)
        if self.outbox is not None and self.leg == leg and self.outbox.rewind(accept.records, accept.z_bytes):
            self.first = 0
            return
        self.begin(leg, (accept.records, accept.z_bytes))

    def code(self):
        message = next(self.coding, ...)
        if message is None and self.encoder.between_blocks and self.snapshots.due():
            self.snapshots.write(self.encoder.snapshot)
        if message not in (None, ...):
            self.outbox.put([message])
        return message is not ...


class Bob:
    """His process: what restarts with nothing but his directory. It decodes leg by leg, as his worker does."""

    def __init__(self, world, directory):
        self.world, self.directory, self.file = world, directory, directory / "file"
        self.log = ReceivedLog(directory / "received")
        self.synced = self.log.size
        self.came = self.synced_came = self.log.z_bytes
        self.rolled_back = self.log.rollback
        self.reader = None
        self.finished = False
        self.out = np.fromfile(self.file, dtype=np.uint32) if self.file.exists() else np.zeros(0, np.uint32)
        if self.rolled_back is None:
            self.begin()

    def begin(self):
        leg = self.log.first
        self.leg = leg
        self.snapshots = Snapshots(self.directory, spec_of(leg), "decode", block=leg.block, clock=self.world.ticks)
        checks, z_bytes = (self.log.checks, self.log.z_bytes) if leg == self.log.leg else (0, 0)
        snapshot = self.snapshots.newest(lambda h: h["blocks"] <= leg.block + checks and h["z_bytes"] <= z_bytes)
        held = np.fromfile(self.file, dtype=np.uint32) if self.file.exists() else np.zeros(0, np.uint32)
        if snapshot and digest_of(held[: snapshot.head["tokens"]]).hexdigest() != snapshot.head["sha256"]:
            snapshot = None  # the file was written again since
        tokens = snapshot.head["tokens"] if snapshot else leg.block * BLOCK
        assert len(held) >= tokens
        self.out = held[:tokens]
        self.predictor = model(leg)
        self.decoder = TransmissionDecoder(
            spec_of(leg), max_tokens=1 << 20, predictor=self.predictor, leg=leg, digest=digest_of(self.out)
        )
        if snapshot:
            self.decoder.restore(snapshot, digest_of(self.out))
        if self.reader is not None:
            self.reader.close()
        self.reader = ReceivedReader(self.directory / "received")
        self.world.begins(self)

    def close(self):
        self.log.close()
        if self.reader is not None:
            self.reader.close()

    def take(self, message):
        """What comes over the connection."""
        lost = len(message.z) if isinstance(message, Data) else 0
        self.came += lost
        if isinstance(message, Restart) and self.rolled_back is not None:
            asked = self.rolled_back
            assert (message.block, message.nll_units) == (asked.block, asked.nll_units)
            self.log.start_over(self.log.leg.rolled_back(asked.block, asked.nll_units, asked.z_bytes, SAFE_CODE))
            self.rolled_back = None
            self.synced = self.log.size
            self.begin()
        elif self.rolled_back is None:
            self.log.append(message)
        else:
            self.rolled_back = Rollback(
                block=self.rolled_back.block, nll_units=self.rolled_back.nll_units, z_bytes=self.rolled_back.z_bytes + lost
            )

    def deliver(self, blocks):
        for block in blocks:
            if block is not None:
                self.out = np.concatenate([self.out, block[0]])
                self.world.begins(self)
                if self.snapshots.due():
                    self.out.tofile(self.file)
                    self.snapshots.write(lambda: Snapshot(*self.decoder.snapshot()))

    def decode(self):
        """Returns a ROLLBACK to be said."""
        if self.rolled_back is not None:
            return None
        try:
            for message in self.reader.messages(self.log.size):
                if isinstance(message, Restart):
                    self.deliver(self.decoder.end_leg(message))
                    self.out.tofile(self.file)
                    self.log.drop_first()
                    self.synced = self.log.size
                    self.begin()
                    return self.decode()
                if not (self.reader.read_bytes and type(message).__name__ == "Accept"):
                    self.decoder.take(message)
                    self.deliver(self.decoder.blocks())
        except (DivergedError, CorruptCodeError):
            block = self.decoder.rollback_block
            if block is None:
                raise
            self.out.tofile(self.file)
            remove_snapshots(self.directory)
            self.rolled_back = Rollback(block=block, nll_units=self.decoder.agreed_units, z_bytes=self.log.z_bytes)
            self.log.start_over(self.log.leg, self.rolled_back)
            self.synced = self.log.size
            return self.rolled_back
        self.finished = self.decoder.finished
        return None


class Legs(World):
    """drifts: before which block of D, after how many divergences, a bit of Bob's flips, and whether in a safe leg."""

    def __init__(self, drifts=(), tokens=TOKENS):
        self.drifts = {(*one, False)[:3] for one in drifts}
        super().__init__("frequency", tokens)
        self.spec = NATIVE

    def start_alice(self):
        self.connection = None
        self.alice = Alice(self.tokens, self.place / "alice", self.ticks)

    def start_bob(self, lost=None):
        self.connection = None
        if self.bob is not None:
            self.bob.close()
        if lost is not None:
            path = self.place / "bob" / "received"
            data = path.read_bytes()
            keep = self.bob.synced + lost[0] % (len(data) - self.bob.synced + 1)
            path.write_bytes(data[:keep] + lost[1])
        self.bob = Bob(self, self.place / "bob")

    def begins(self, bob):
        place = bob.leg.rollbacks, len(bob.out) // BLOCK, bool(bob.leg.code)
        if place in self.drifts:  # whenever he comes there: Bob's machine is wrong, not his memory
            bob.predictor._frequencies[ord("e")] ^= np.uint32(1 << 3)
            _build(bob.predictor._tree, bob.predictor._frequencies)

    def connect(self):
        super().connect()
        self.accepted = False

    def send(self):
        alice = self.connection[0]
        if alice.state is State.CLOSED or not self.accepted:
            self.there += alice.data_to_send()
            return
        one = self.alice
        while not (made := one.outbox.take_made()) and one.code():
            pass
        for message in made:
            alice.send(message)
            one.sent += len(message.z) if isinstance(message, Data) else 0
        if made and isinstance(made[-1], Restart) and not made[-1].code:
            end = made[-1]
            one.begin(one.leg.ended(end.block, end.nll_units, one.outbox.made_z_bytes))
            one.first = alice.z_before_bytes + alice.z_sent_bytes
        self.there += alice.data_to_send()

    def deliver(self, count):
        if self.connection is None:
            return
        alice, bob = self.connection
        part = bytes(self.there[:count])
        del self.there[:count]
        bob.receive_data(part)
        try:
            for message in bob.events():
                if isinstance(message, Hello):
                    log = self.bob.log
                    bob.send(log.leg.accept(records=log.records, z_bytes=log.z_bytes, runtime=""))
                    self.bob.came = log.z_bytes
                    if self.bob.rolled_back is not None:
                        bob.send(self.bob.rolled_back)
                else:
                    self.bob.take(message)
            rollback = None if bob.state in (State.OPENING, State.OFFERED, State.CLOSED) else self.bob.decode()
            if rollback is not None:
                bob.send(rollback)
            if self.bob.finished and bob.state is State.ENDED:
                bob.send(Done(sha256=bytes.fromhex(self.bob.decoder.sha256)))
            self.back += bob.data_to_send()
            part = bytes(self.back[:count])
            del self.back[:count]
            alice.receive_data(part)
            for message in alice.events():
                self.hear(alice, message)
        except RemoteProtocolError:
            self.connection = None

    def hear(self, alice, message):
        one = self.alice
        match message:
            case Ack(durable_bytes=durable):
                one.outbox.acknowledge(durable - one.first)
            case Done():
                self.done = True
            case Rollback(block=block, nll_units=nll_units):
                one.begin(
                    one.leg.rolled_back(block, nll_units, max(one.sent, message.z_bytes), SAFE_CODE),
                    restart=Restart(block=block, code=SAFE_CODE, nll_units=nll_units),
                )
                one.first = alice.z_before_bytes + alice.z_sent_bytes
            case _:
                one.accept(message)
                self.accepted = True

    def acknowledge(self):
        self.bob.log.sync()
        self.bob.synced = self.bob.log.size
        bob = self.connection and self.connection[1]
        if bob and bob.state in (State.STREAMING, State.ENDED) and self.bob.rolled_back is None:
            bob.send(Ack(received_bytes=self.bob.came, durable_bytes=self.bob.came))

    def finish(self):
        self.connection = None  # a length that was damaged may have it wait for ever
        super().finish()
        assert self.alice.leg.rollbacks <= 2


@pytest.mark.parametrize("block", range(TOKENS // BLOCK + 1))
def test_a_bit_flips_in_any_block(block):
    world = Legs([(0, block)])
    world.finish()
    leg = world.alice.leg
    assert leg == world.bob.leg
    assert leg.rollbacks == 1
    to_the_end = block + SAFE_BLOCKS >= TOKENS / BLOCK
    assert (leg.block, leg.code) == ((block, SAFE_CODE) if to_the_end else (block + SAFE_BLOCKS, ""))
    assert leg.abandoned_bytes > 0
    world.close()


@pytest.mark.parametrize(("first", "second"), [(0, 16), (0, 25), (3, 19), (3, 22), (12, 28), (14, 30)])
def test_after_the_second_divergence_the_safe_code_stays(first, second):
    world = Legs([(0, first), (1, second)], 50 * BLOCK)
    world.finish()
    assert world.alice.leg == world.bob.leg
    assert (world.bob.leg.rollbacks, world.bob.leg.block, world.bob.leg.code) == (2, second, SAFE_CODE)
    world.close()


@pytest.mark.parametrize("place", [(1, 5, True), (2, 25, True)])
def test_a_safe_code_is_not_rolled_back(place):
    world = Legs([(0, 3), (1, 20), place])
    with pytest.raises((DivergedError, CorruptCodeError)):
        world.finish()
    assert np.array_equal(world.bob.out, TEXT[: place[1] * BLOCK])
    world.close()


@pytest.mark.parametrize("restart", ["none", "alice", "bob", "power"])
def test_cut_after_every_few_bytes(restart):
    """A connection that breaks anywhere around both rollbacks, and who may fall with it."""
    for count in range(40, 10_000, 37):
        world = Legs([(0, 2), (1, 19)], 21 * BLOCK)
        done = cut_after(world, count, restart, torn=b"x", most=50, eager=True)
        assert done or world.bob.leg.rollbacks == 2
        world.close()
        if done:
            break
    assert count > 1000


class DivergingPair(Pair):
    """The state machine of test_resume, with flips anywhere."""

    def __init__(self):
        super(Pair, self).__init__()
        self.world = Legs(tokens=20 * BLOCK)

    @rule(ahead=st.integers(0, 2))
    def flip(self, ahead):
        bob = self.world.bob
        if bob.reader is not None:
            self.world.drifts.add((bob.leg.rollbacks, len(bob.out) // BLOCK + ahead, False))


DivergingPair.TestCase.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
TestDivergingPair = DivergingPair.TestCase


def test_the_restart_that_answers_a_rollback_settles_all_z():
    """What was given up takes no credit, and no ACK afterwards may be behind it; a RESTART of Alice's own settles nothing."""
    alice, bob = pair()
    alice.send(Hello(transmission="0" * 32, spec=b"{}", tokens=None, media_type="", name="", code="", runtime="", safe=SAFE_CODE))
    carry(alice, bob, lambda data: [data])
    bob.send(Leg().accept(records=0, z_bytes=0, runtime=""))
    carry(bob, alice, lambda data: [data])
    alice.send(Data(z=b"x" * 1000))
    alice.send(Restart(block=1, code="", nll_units=0))
    carry(alice, bob, lambda data: [data])
    assert alice.credit_bytes == bob.credit_bytes == WINDOW_BYTES - 1000
    bob.send(Rollback(block=0))
    alice.send(Data(z=b"x" * 10))  # crosses with it
    carry(bob, alice, lambda data: [data])
    with pytest.raises(LocalProtocolError):
        bob.send(Ack(received_bytes=1010, durable_bytes=1010))
    alice.send(Restart(block=0, code=SAFE_CODE))
    carry(alice, bob, lambda data: [data])
    assert alice.credit_bytes == bob.credit_bytes == WINDOW_BYTES
    with pytest.raises(LocalProtocolError):
        bob.send(Ack(received_bytes=1010, durable_bytes=1000))
    bob.send(Ack(received_bytes=1010, durable_bytes=1010))


@pytest.mark.parametrize("numerics", ["native", "exact"])
def test_z_that_contradicts_itself_is_a_divergence_under_native_numerics(numerics):
    """As where Alice was killed, started again, and made other z than before."""
    spec = NATIVE if numerics == "native" else NATIVE.model_copy(update={"numerics": "exact"})
    said = [one for one in TransmissionEncoder(spec, [TEXT[:BLOCK]], predictor=model(Leg())).messages() if one is not None]
    decoder = TransmissionDecoder(spec, max_tokens=100, predictor=model(Leg()))
    *before, end = said
    for message in before:
        decoder.take(message)
    with pytest.raises(DivergedError if numerics == "native" else BadFrameError):
        decoder.take(dataclasses.replace(end, z_bits=end.z_bits - 16))
    assert decoder.rollback_block == (0 if numerics == "native" else None)


def test_a_leg_that_is_ended_too_early_is_refused():
    leg = Leg(block=1, code=SAFE_CODE, rollbacks=1)
    decoder = TransmissionDecoder(SAFE, max_tokens=1000, leg=leg, digest=digest_of(TEXT[:BLOCK]))
    with pytest.raises(BadFrameError, match="before the leg's end"):
        list(decoder.end_leg(Restart(block=17, code="", nll_units=0)))


def everything(path, size):
    reader = ReceivedReader(path)
    found = list(reader.messages(size))
    reader.close()
    return found


def test_a_log_that_drops_its_first_leg_keeps_all_of_the_next(tmp_path):
    """END, too, which Alice says once in a connection; only a log that is opened again forgets it."""
    path = tmp_path / "received"
    log = ReceivedLog(path)
    log.start_over(Leg(block=2, code=SAFE_CODE, rollbacks=1, nll_units=7, coded_bytes=3))
    end = End(tokens=9, sha256=bytes(32), z_bits=16)
    for message in (Data(z=b"abc"), Restart(block=18, code="", nll_units=9), Data(z=b"de"), end):
        log.append(message)
    assert (log.first.block, log.leg) == (2, Leg(block=18, rollbacks=1, nll_units=9, coded_bytes=6))
    log.drop_first()
    assert (log.first, log.z_bytes, log.records) == (log.leg, 2, 0)
    _, *held = everything(path, log.size)
    assert held == [Data(z=b"de"), end]
    log.close()
    again = ReceivedLog(path)
    assert (again.first, again.leg, again.z_bytes) == (log.first, log.leg, 2)
    _, *held = everything(path, again.size)
    assert held == [Data(z=b"de")]
    again.close()


def test_a_snapshot_of_the_first_leg_is_none_of_a_later_one(tmp_path):
    """Of the same spec; they are removed, but a disk that lost power may bring them back."""
    first, later = (Snapshots(tmp_path, NATIVE, "encode", block=block) for block in (0, 18))
    first.write(lambda: Snapshot({"blocks": 2, "z_bytes": 5}, [b"state"]))
    assert first.newest(lambda _: True) is not None
    assert later.newest(lambda _: True) is None
