"""The wire as a worse channel: slow, cut, reset, silent, damaging; and transmissions that come through all of it."""

import time

import pytest

from harness.client import Client, Urls
from harness.cluster import Cluster
from harness.simulation import Broken, ChannelError, SimulatedConnection, Simulation
from shared.channel.protocol import WINDOW_BYTES
from shared.code.models import preset

TEXT = (b"It was the best of times, it was the worst of times, " * 4000)[:60_000]


def test_descriptions():
    one = Simulation.parse("bandwidth=9.6kbit/s, latency=80ms,jitter=1s,slice=100B,cut=5kB,flip=1000,faults=3,seed=7")
    assert (one.bandwidth_bits_per_second, one.latency_seconds, one.jitter_seconds) == (9600, 0.08, 1)
    assert (one.slice_bytes, one.cut_bytes, one.flip_bytes, one.faults, one.seed) == (100, 5000, 1000, 3, 7)
    assert Simulation.parse("") == Simulation()
    for wrong in ("speed=1", "bandwidth", "bandwidth=9600", "latency=3bit/s", "cut=1.5B", "slice=0", "latency=-1s", "cut=x"):
        with pytest.raises(ChannelError, match=r"with|more than 0|whole"):
            Simulation.parse(wrong)


async def through(simulation, data, number=0):
    """What arrives of the data, how the connection ends, and how long it took."""
    arrived, started, left = bytearray(), time.monotonic(), bytearray(data)

    async def read(size):
        part = bytes(left[:size])
        del left[:size]
        return part

    async def write(part):
        assert len(part) <= (simulation.slice_bytes or len(part))
        arrived.extend(part)

    ended = "broken"
    try:
        await SimulatedConnection(simulation, number).carry(read, write, lambda: None)
        ended = "whole"
    except Broken as broken:
        ended = "reset" if broken.reset else "cut"
    return bytes(arrived), ended, time.monotonic() - started


async def test_faults():
    data = bytes(range(256)) * 40
    assert (await through(Simulation(slice_bytes=7), data))[:2] == (data, "whole")
    assert (await through(Simulation(cut_bytes=1000, slice_bytes=64), data))[:2] == (data[:1000], "cut")
    assert (await through(Simulation(reset_bytes=0), data))[:2] == (b"", "reset")
    assert (await through(Simulation(blackhole_bytes=1000), data))[:2] == (data[:1000], "whole")
    assert (await through(Simulation(cut_bytes=10, faults=2), data, number=2))[:2] == (data, "whole")
    found, _, _ = await through(Simulation(flip_bytes=500, seed=1), data)
    bits = [(a ^ b).bit_count() for a, b in zip(found, data, strict=True)]
    assert max(bits) == 1
    assert 5 < sum(bits) < 60
    assert (await through(Simulation(flip_bytes=500, seed=1), data))[0] == found


async def test_time():
    _, _, took = await through(Simulation(bandwidth_bits_per_second=80_000, latency_seconds=0.1), b"x" * 3000)
    assert 0.4 <= took < 1.5


@pytest.fixture(scope="module")
def run():
    """Send over a private cluster whose wire is so."""

    def send(channel, code="ngram", data=TEXT, **environment):
        own = {"wire": {"CODELENGTH_WIRE_CHANNEL": channel}}
        with (
            Cluster(environment={"CODELENGTH_RETRY_SECONDS": "120", **environment}, own=own) as cluster,
            Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as client,
        ):
            return client.transmit(client.post_octets(data, "x")["id"], code)

    return send


SPEC = {**preset("uniform").model_dump(mode="json"), "block_tokens": 4096}


@pytest.mark.parametrize(
    "channel",
    [
        pytest.param("cut=9kB,slice=700B", marks=pytest.mark.long),
        pytest.param("reset=15kB,latency=10ms,jitter=10ms", marks=pytest.mark.long),
        pytest.param("flip=20kB,seed=3", marks=pytest.mark.long),
        pytest.param("blackhole=30kB,faults=2", marks=pytest.mark.long),
        pytest.param("bandwidth=1Mbit/s,latency=80ms,cut=20kB", marks=pytest.mark.long),
    ],
)
def test_a_transmission_comes_through(run, channel):
    """`uniform`, so that much crosses. The ledger holds over all connections, and no fault costs more than the window."""
    result = run(channel, SPEC, CODELENGTH_KEEPALIVE_SECONDS="1")
    assert result["state"] == "verified"
    wire = result["wire"]
    assert wire["connections"] > 1
    assert 0 <= wire["alice_to_bob"]["retransmitted_bytes"] <= WINDOW_BYTES * (wire["connections"] - 1)
    assert wire["alice_to_bob"]["witness_bytes"] >= -(-result["z_bits"] // 8)
