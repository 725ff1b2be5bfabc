"""The pair under every fault at once, in memory: whatever happens, Bob has a prefix of D by whole blocks, and D at the end.

Alice is her encoder and outbox, Bob his log on a disk and his decoder, the connection two channels and the bytes under way.
Bob's disk forgets what was not synced when the power fails.
"""

import contextlib
import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from alice.outbox import Outbox
from shared.channel.errors import DivergedError, RemoteProtocolError
from shared.channel.messages import Accept, Ack, Data, Done, Hello, Prepared
from shared.channel.states import State
from shared.code.codec import prepare
from shared.code.errors import CorruptCodeError
from shared.code.spec import CodeSpec, Start
from shared.code.vocabulary import dataset_digest, from_tokens
from shared.service.coding import TransmissionDecoder, TransmissionEncoder
from shared.service.received import ReceivedLog, ReceivedReader
from shared.service.snapshots import Snapshot, Snapshots, StoredSnapshot
from tests.support import REPLAY, identity, pair, small, small_model

MEMORY = Path("/dev/shm")  # thousands of syncs
TEXT = np.frombuffer(b"to be, or not to be, that is the question: " * 40, dtype=np.uint8).astype(np.uint32)[:1650]
SPECS = {
    "frequency": CodeSpec.from_fields({"model": small_model("frequency"), "block_tokens": 100, "segment_tokens": 30}),
    "ngram": CodeSpec.from_fields({"model": {"kind": "ngram", "table_bits": 10}, "block_tokens": 90, "segment_tokens": 90}),
    "recurrent": small("recurrent", training=REPLAY),
    "frozen": small("recurrent").with_training(frozen=True, start=Start(corpus="0" * 64, steps=3)),
}


def ready(spec):
    """The predictor that either side begins with: of a spec with a start after its steps, which come before any snapshot."""
    if spec.start is None:
        return None
    *_, (predictor, _) = prepare(spec, lambda: [TEXT[200:300]])
    return predictor


class Alice:
    """Her process: what restarts with nothing but D and snapshots."""

    def __init__(self, spec, tokens, directory, ticks):
        self.spec, self.tokens, self.ticks = spec, tokens, ticks
        self.snapshots = Snapshots(directory, spec, "encode", clock=ticks)
        self.outbox = None

    def accept(self, accept):
        if self.outbox is not None and self.outbox.rewind(accept.records, accept.z_bytes):
            return
        snapshot = self.snapshots.newest(lambda h: h["records"] <= accept.records and h["z_bytes"] <= accept.z_bytes)
        done = snapshot.head["tokens"] if snapshot else 0
        blocks = [self.tokens[i : i + self.spec.block_tokens] for i in range(done, len(self.tokens), self.spec.block_tokens)]
        self.encoder = TransmissionEncoder(
            self.spec,
            blocks,
            sha256=identity(self.spec.vocabulary, self.tokens),
            data_bytes=16,
            held=(accept.records, accept.z_bytes),
            predictor=ready(self.spec),
            clock=self.ticks,
        )
        if snapshot:
            digest = dataset_digest(self.spec.vocabulary)
            digest.update(from_tokens(self.tokens[:done], self.spec.vocabulary))
            self.encoder.restore(snapshot, digest)
        self.outbox = Outbox(accept.records, accept.z_bytes)
        self.coding = self.encoder.messages()

    def code(self):
        """One step of the encoder."""
        message = next(self.coding, ...)
        if message is None and self.encoder.between_blocks and self.snapshots.due():
            self.snapshots.write(self.encoder.snapshot)
        if message not in (None, ...):
            self.outbox.put([message])
        return message is not ...


class Bob:
    """His process: what restarts with nothing but his directory."""

    def __init__(self, spec, directory, ticks):
        self.spec, self.directory = spec, directory
        self.log = ReceivedLog(directory / "received")
        self.synced = self.log.size, self.log.z_bytes
        self.snapshots = Snapshots(directory, spec, "decode", clock=ticks)
        self.decoder = TransmissionDecoder(spec, max_tokens=1 << 20, predictor=ready(spec))
        self.reader = ReceivedReader(directory / "received")
        self.file = directory / "file"
        snapshot = self.snapshots.newest(lambda h: h["blocks"] <= self.log.checks and h["z_bytes"] <= self.log.z_bytes)
        tokens = snapshot.head["tokens"] if snapshot else 0
        self.out = np.fromfile(self.file, dtype=np.uint32)[:tokens] if tokens else np.zeros(0, np.uint32)
        if len(self.out) < tokens:  # from before a power failure, after which the file began anew
            snapshot, self.out = None, np.zeros(0, np.uint32)
        if snapshot:
            digest = dataset_digest(spec.vocabulary)
            digest.update(from_tokens(self.out, spec.vocabulary))
            assert digest.hexdigest() == snapshot.head["sha256"]
            self.decoder.restore(snapshot, digest)

    def close(self):
        self.log.close()
        self.reader.close()

    def sync(self):
        self.log.sync()
        self.synced = self.log.size, self.log.z_bytes

    def decode(self):
        for message in self.reader.messages(self.log.size):
            self.decoder.take(message)
            for block in self.decoder.blocks():
                if block is not None:
                    self.out = np.concatenate([self.out, block[0]])
                    if self.snapshots.due():
                        self.out.tofile(self.file)
                        self.snapshots.write(lambda: Snapshot(*self.decoder.snapshot()))


class World:
    """Both, and what lies between them."""

    def __init__(self, name, tokens):
        self.spec = SPECS[name]
        self.tokens = TEXT[:tokens]
        self.kept = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.place = Path(self.kept.name)
        self.time = 0.0
        self.connection = self.bob = None
        self.done = False
        self.start_alice()
        self.start_bob()

    def ticks(self):
        self.time += 0.07
        return self.time

    def start_alice(self):
        self.connection = None
        self.alice = Alice(self.spec, self.tokens, self.place / "alice", self.ticks)

    def start_bob(self, lost=None):
        """lost: how much of what was not synced the power failure took, and what stands there instead."""
        self.connection = None
        if self.bob is not None:
            self.bob.close()
        if lost is not None:
            path, (size, _) = self.place / "bob" / "received", self.bob.synced
            data = path.read_bytes()
            keep = size + lost[0] % (len(data) - size + 1)
            path.write_bytes(data[:keep] + lost[1])
        self.bob = Bob(self.spec, self.place / "bob", self.ticks)

    def connect(self):
        self.there, self.back = bytearray(), bytearray()
        self.connection = pair()
        hello = Hello(
            transmission="0" * 32, spec=self.spec.canonical_bytes(), tokens=None, media_type="", name="", code="", runtime=""
        )
        self.connection[0].send(hello)

    def send(self):
        """Alice sends what is next."""
        alice = self.connection[0]
        if alice.state is State.CLOSED:
            return
        if alice.state not in (State.OPENING, State.OFFERED):
            while not (made := self.alice.outbox.take_made()) and self.alice.code():
                pass
            for message in made:
                alice.send(message)
        self.there += alice.data_to_send()

    def deliver(self, count):
        """Some bytes arrive, either way."""
        if self.connection is None:
            return
        alice, bob = self.connection
        part = bytes(self.there[:count])
        del self.there[:count]
        bob.receive_data(part)
        try:
            for message in bob.events():
                if isinstance(message, Hello):
                    bob.send(Accept(block=0, records=self.bob.log.records, z_bytes=self.bob.log.z_bytes, runtime=""))
                else:
                    self.bob.log.append(message)
            self.bob.decode()
            if self.bob.decoder.finished and bob.state is State.ENDED:
                bob.send(Done(sha256=bytes.fromhex(self.bob.decoder.sha256)))
            self.back += bob.data_to_send()
            part = bytes(self.back[:count])
            del self.back[:count]
            alice.receive_data(part)
            for message in alice.events():
                match message:
                    case Accept():
                        self.alice.accept(message)
                    case Ack(durable_bytes=durable):
                        self.alice.outbox.acknowledge(durable)
                    case Done():
                        self.done = True
        except RemoteProtocolError:
            self.connection = None

    def acknowledge(self):
        self.bob.sync()
        if self.connection is not None and self.connection[1].state in (State.STREAMING, State.ENDED):
            z_bytes = self.bob.synced[1]
            self.connection[1].send(Ack(received_bytes=z_bytes, durable_bytes=z_bytes))

    def finish(self):
        """Nothing goes wrong any more."""
        for _ in range(10_000):
            if self.done:
                break
            if self.connection is None:
                self.connect()
            self.send()
            self.deliver(1 << 20)
            self.acknowledge()
        assert self.done
        assert np.array_equal(self.bob.out, self.tokens)

    def whole_blocks(self):
        out = self.bob.out
        assert np.array_equal(out, self.tokens[: len(out)])
        assert len(out) % self.spec.block_tokens == 0 or len(out) == len(self.tokens)

    def close(self):
        self.bob.close()
        self.kept.cleanup()


class Pair(RuleBasedStateMachine):
    name, tokens = "frequency", 0

    def __init__(self):
        super().__init__()
        self.world = World(self.name, self.tokens)

    @rule(times=st.integers(1, 6), count=st.integers(1, 400), acknowledged=st.booleans())
    def go_on(self, times, count, acknowledged):
        """Cut where `count` says; what does not arrive stays under way."""
        world = self.world
        for _ in range(0 if world.done else times):
            if world.connection is None:
                world.connect()
            world.send()
            world.deliver(count)
        if acknowledged:
            world.acknowledge()

    @rule()
    def drop(self):
        self.world.connection = None

    @rule(place=st.integers(0, 1 << 20), bit=st.integers(0, 7), back=st.booleans())
    def corrupt(self, place, bit, back):
        world = self.world
        if world.connection is not None and not world.done:
            world.send()
            data = world.back if back else world.there
            if data:
                data[place % len(data)] ^= 1 << bit
            world.deliver(1 << 20)

    @rule(place=st.integers(0, 1 << 20), length=st.integers(1, 50))
    def duplicate(self, place, length):
        world = self.world
        if world.connection is not None and not world.done:
            world.send()
            start = place % max(1, len(world.there))
            world.there[start:start] = world.there[start : start + length]
            world.deliver(1 << 20)

    @rule()
    def restart_alice(self):
        if not self.world.done:
            self.world.start_alice()

    @rule(count=st.integers(0, 1 << 20), junk=st.binary(max_size=20))
    def power_fails_at_bobs(self, count, junk):
        if not self.world.done:
            self.world.start_bob((count, junk))

    @invariant()
    def bob_has_whole_blocks(self):
        self.world.whole_blocks()

    def teardown(self):
        self.world.finish()
        self.world.close()


def machine(name, tokens, examples):
    cls = type(f"Pair{name}", (Pair,), {"name": name, "tokens": tokens})
    cls.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    return cls.TestCase


TestFrequency = machine("frequency", 1650, 25)
TestNgram = machine("ngram", 1650, 25)
TestRecurrent = pytest.mark.long(machine("recurrent", 350, 10))
RESTARTS = "none", "alice", "bob", "power"


def cut_after(world, count, restart, *, torn=b"", most=1 << 20, eager=False):
    """Break the connection after so many bytes from Alice, with what may fall then, and go on; or whether D had crossed before.

    most: bytes delivered at once. eager: Alice sends before all that she has sent is delivered. torn: what a power failure leaves
    in the place of what was not synced.
    """
    world.connect()
    left = count
    while left > 0 and world.connection is not None and not world.done:
        if eager or not world.there:
            world.send()
        size = min(left, max(1, len(world.there)), most)
        world.deliver(size)
        world.whole_blocks()
        left -= size
        if count % 3 == 0:
            world.acknowledge()
    if world.done:
        return True
    world.connection = None
    if restart == "alice":
        world.start_alice()
    elif restart != "none":
        world.start_bob((count, torn) if restart == "power" else None)
    world.finish()
    return False


@pytest.mark.parametrize("restart", [pytest.param(one, marks=[] if one == "power" else pytest.mark.long) for one in RESTARTS])
def test_cut_after_every_byte(restart):
    """Connections that break after 1, 2, 3 … bytes, each of a new transmission, and what may fall with them."""
    for count in range(1, 10_000):
        world = World("frequency", 250)
        done = cut_after(world, count, restart)
        world.close()
        if done:
            break
    assert count > 300


def slicing(spec, tokens, patient, held=(0, 0)):
    """What Alice says where she holds z back, and where she does not."""
    time = iter(range(0, 1 << 30, 1 if patient else 10))
    blocks = [tokens[i : i + spec.block_tokens] for i in range(0, len(tokens), spec.block_tokens)]
    clock = (lambda: 0.0) if patient else (lambda: float(next(time)))
    encoder = TransmissionEncoder(spec, blocks, data_bytes=64, held=held, clock=clock)
    return [message for message in encoder.messages() if message is not None]


@pytest.mark.parametrize("patient", [True, False])
def test_another_run_goes_on_after_any_message(patient):
    """Another run of the encoder holds z back for other times; what it says still fits behind what Bob has (P-15)."""
    spec, tokens = SPECS["frequency"], TEXT[:250]
    first = slicing(spec, tokens, patient)
    for count in range(len(first)):  # END is never held
        z = b"".join(message.z for message in first[:count] if isinstance(message, Data))
        records = sum(not isinstance(message, Data) for message in first[:count])
        decoder, out = TransmissionDecoder(spec, max_tokens=1 << 20), []
        for message in first[:count] + slicing(spec, tokens, not patient, (records, len(z))):
            decoder.take(message)
            out += [block[0] for block in decoder.blocks() if block is not None]
        assert decoder.finished
        assert np.array_equal(np.concatenate(out), tokens)


class Refusing:
    """A file whose n-th write or sync fails, after half of what was to be written."""

    def __init__(self, file, count, number):
        self.file, self.left, self.number = file, count, number

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.spend(lambda: self.file.write(data[: len(data) // 2]))
        return self.file.write(data)

    def fileno(self):
        self.spend(lambda: None)
        return self.file.fileno()

    def spend(self, before):
        self.left -= 1
        if self.left == 0:
            before()
            raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_any_write(number):
    """Bob's log stays whole, and he goes on from it once there is room."""
    for count in range(1, 1000):
        world = World("frequency", 150)
        world.bob.log._file = refusing = Refusing(world.bob.log._file, count, number)
        with contextlib.suppress(OSError):
            world.finish()
        if not world.done:
            if count % 2:  # the service is started again, or goes on with the same log
                world.start_bob()
            world.connection = None
            world.finish()
        world.close()
        if refusing.left > 0:
            break
    assert count > 15


def test_a_flipped_weight_is_found_by_the_next_check():
    """The model at Bob's side drifts by one bit: nothing of that block is delivered."""
    spec, tokens = SPECS["recurrent"], TEXT[:350]
    decoder, blocks = TransmissionDecoder(spec, max_tokens=1 << 20), []

    def receive():
        for message in slicing(spec, tokens, patient=False):
            decoder.take(message)
            for block in decoder.blocks():
                if block is not None:
                    blocks.append(block[0])
                    if len(blocks) == 2:
                        weights = decoder.decoder._predictor._arrays()["embedding.w"]
                        weights.reshape(-1).view(np.uint32)[5] ^= 1 << 18

    with pytest.raises((CorruptCodeError, DivergedError)):  # whichever sees it first
        receive()
    assert np.array_equal(np.concatenate(blocks), tokens[:200])


def test_a_code_that_starts_from_a_corpus_goes_on_from_snapshots():
    """PREPARED is the first record; whoever goes on from a snapshot is past it, and does not compare a model that has moved on."""
    spec = SPECS["frozen"]
    blocks = [TEXT[:100], TEXT[100:200], TEXT[200:300]]

    def digest(tokens):
        found = dataset_digest(spec.vocabulary)
        found.update(from_tokens(TEXT[:tokens], spec.vocabulary))
        return found

    def stored(snapshot):
        return StoredSnapshot(snapshot.head, memoryview(b"".join(bytes(part) for part in snapshot.state)))

    alice = TransmissionEncoder(spec, blocks, data_bytes=16, predictor=ready(spec), clock=lambda: 0.0)
    said, held = [], None
    for message in alice.messages():
        if message is not None:
            said.append(message)
        elif held is None and alice.between_blocks:
            held = stored(alice.snapshot()), len(said)
    assert isinstance(said[0], Prepared)
    again = TransmissionEncoder(spec, blocks[1:], data_bytes=16, predictor=ready(spec), clock=lambda: 0.0)
    again.restore(held[0], digest(100))
    assert [message for message in again.messages() if message is not None] == said[held[1] :]
    bob, out, kept = TransmissionDecoder(spec, max_tokens=300, predictor=ready(spec)), [], None
    for message in said:
        bob.take(message)
        for block in bob.blocks():
            if block is not None:
                out.append(block[0])
                kept = kept or stored(bob.snapshot())
    assert np.array_equal(np.concatenate(out), TEXT[:300])
    other = TransmissionDecoder(spec, max_tokens=300, predictor=ready(spec))
    other.restore(kept, digest(100))
    for message in said:
        other.take(message)
    assert np.array_equal(np.concatenate([block[0] for block in other.blocks() if block is not None]), TEXT[100:300])
    assert other.finished
