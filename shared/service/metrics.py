"""What Prometheus reads: transmissions by state, tokens, and bytes on the wire. One registry a service."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from shared.service.records import Transmission


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._finished = Counter("codelength_transmissions", "Transmissions ended, by state", ["state"], registry=self.registry)
        self._tokens = Counter("codelength_tokens", "Tokens coded in transmissions that ended", registry=self.registry)
        self._z = Counter("codelength_z_bits", "Bits of z in transmissions that ended", registry=self.registry)
        self._rollbacks = Counter("codelength_rollbacks", "Divergences of native models in them", registry=self.registry)
        self._abandoned = Counter("codelength_abandoned_bytes", "Bytes of z given up for these", registry=self.registry)
        self._socket = Counter("codelength_socket_bytes", "Bytes on the channel's sockets", ["direction"], registry=self.registry)
        self.unfinished = Gauge("codelength_transmissions_unfinished", "Transmissions not settled", registry=self.registry)

    def ended(self, record: Transmission) -> None:
        """Count a transmission whose ledger is final."""
        self._finished.labels(record.state).inc()
        self._tokens.inc(record.tokens_done)
        self._z.inc(record.z_bits)
        self._rollbacks.inc(record.rollbacks)
        self._abandoned.inc(record.abandoned_bytes)
        for direction in ("sent", "received"):
            self._socket.labels(direction).inc(record.wire[direction]["socket_bytes"])

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
