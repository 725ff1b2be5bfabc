"""Every byte accounted for: what one direction of one connection carried, and what a code length is.

    socket bytes = handshake (HTTP) + framing (websocket headers) + payload (messages, z inside) + control (ping, pong, close)

`FrameMeter` finds these parts in the bytes themselves, without the library that made them. `Measure` holds the arithmetic of
S_0, S_k and r_k. Nothing here knows sockets.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

_CONTROL: Final = 0x8  # opcodes 8 … F are control frames
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_FIN: Final = 0x80
_RSV: Final = 0x70


@dataclass(slots=True, kw_only=True)
class DirectionLedger:
    """Bytes one way. `None` is unknown, never zero.

    socket_bytes: as the application wrote or read them. tls_bytes: what TLS adds. tcp_info_bytes: what the kernel says was
    acknowledged, by the sender's side, or received, without SYN and FIN. retransmitted_bytes: of z, sent in an earlier connection
    already. tcp_retransmitted_bytes: by the kernel, on top.
    """

    payload_bytes: int = 0
    z_bytes: int = 0
    framing_bytes: int = 0
    control_bytes: int = 0
    handshake_bytes: int = 0
    socket_bytes: int = 0
    tls_bytes: int | None = 0
    retransmitted_bytes: int = 0
    tcp_retransmitted_bytes: int | None = None
    tcp_info_bytes: int | None = None

    def add(self, other: "DirectionLedger") -> None:
        """Count another connection's bytes too; what is unknown in one stays unknown."""
        for item in fields(self):
            ours, theirs = getattr(self, item.name), getattr(other, item.name)
            setattr(self, item.name, None if ours is None or theirs is None else ours + theirs)

    def as_dict(self) -> dict[str, Any]:
        """Field names to values."""
        return asdict(self)

    def violations(self) -> list[str]:
        """The identities that do not hold, in words; empty when all do."""
        parts = self.payload_bytes + self.framing_bytes + self.control_bytes + self.handshake_bytes
        out = []
        if parts != self.socket_bytes:
            out.append(f"payload + framing + control + handshake = {parts}, but the socket carried {self.socket_bytes}")
        if self.z_bytes > self.payload_bytes:
            out.append(f"z of {self.z_bytes} bytes does not fit in a payload of {self.payload_bytes}")
        if self.tcp_info_bytes is not None and self.tls_bytes is not None:
            whole = self.socket_bytes + self.tls_bytes
            if self.tcp_info_bytes != whole:
                out.append(f"the kernel counted {self.tcp_info_bytes}, the application {whole}")
        return out


def compose(sender: DirectionLedger, receiver: DirectionLedger, witness_bytes: int | None) -> dict[str, Any]:
    """One direction as both its ends and the witness saw it, as `transmit --json` prints it."""
    out = sender.as_dict()
    out["tcp_info_bytes"] = {"sender": sender.tcp_info_bytes, "receiver": receiver.tcp_info_bytes}
    out["witness_bytes"] = witness_bytes
    return out


def disagreements(sender: DirectionLedger, receiver: DirectionLedger, witness_bytes: int | None) -> list[str]:
    """Where the two ends, their kernels and the witness differ about one direction, in words; empty when they agree."""
    out = [f"sender: {line}" for line in sender.violations()] + [f"receiver: {line}" for line in receiver.violations()]
    for name in ("payload_bytes", "z_bytes", "framing_bytes", "control_bytes", "handshake_bytes", "socket_bytes"):
        sent, received = getattr(sender, name), getattr(receiver, name)
        if sent != received:
            out.append(f"{name}: sent {sent}, received {received}")
    if witness_bytes is not None and sender.tls_bytes is not None and witness_bytes != sender.socket_bytes + sender.tls_bytes:
        out.append(f"the witness counted {witness_bytes}, the sender {sender.socket_bytes + sender.tls_bytes}")
    return out


class FrameMeter:
    """Splits one direction of a websocket connection (RFC 6455) into its parts, from the bytes as they stand on the socket.

    `compressed` tells whether a frame used a reserved bit, as permessage-deflate does: such bytes are no honest count. `closed`
    tells whether a whole close frame has passed, and no part of another frame behind it.
    """

    def __init__(self, *, client: bool) -> None:
        self.ledger = DirectionLedger()
        self.compressed = self._close_passed = False
        self._client = client
        self._head = bytearray()
        self._upgraded: bool | None = None  # None until the HTTP head is complete
        self._left = 0  # bytes of the open frame's payload still to come
        self._is_control = self._is_close = self._fragmented = False
        self.longest_ping_bytes = self.longest_pong_bytes = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Count bytes, split anywhere."""
        view = memoryview(data)
        ledger = self.ledger
        ledger.socket_bytes += len(view)
        if self._upgraded is None:
            view = self._handshake(view)
        if self._upgraded is False:
            ledger.handshake_bytes += len(view)
            return
        while len(view):
            if self._left:
                part = min(self._left, len(view))
                if self._is_control:
                    ledger.control_bytes += part
                else:
                    ledger.payload_bytes += part
                self._left -= part
                view = view[part:]
            else:
                view = self._header(view)
            self._close_passed |= self._is_close and not self._left

    def _handshake(self, view: memoryview) -> memoryview:
        before = len(self._head)
        self._head += view
        end = self._head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            self.ledger.handshake_bytes += len(view)
            return view[len(view) :]
        used = end + 4 - before
        self.ledger.handshake_bytes += used
        head = bytes(self._head[: end + 4]).lower()
        self._upgraded = b"\r\nupgrade: websocket\r\n" in head if self._client else head.startswith(b"http/1.1 101")
        self._head.clear()
        return view[used:]

    def _header(self, view: memoryview) -> memoryview:
        head = self._head
        while len(view):
            head.append(view[0])
            view = view[1:]
            if len(head) < 2:
                continue
            short = head[1] & 0x7F
            extended = {126: 2, 127: 8}.get(short, 0)
            size = 2 + extended + (4 if head[1] & 0x80 else 0)
            if len(head) < size:
                continue
            self._is_control = bool(head[0] & _CONTROL)
            self._is_close = head[0] & 0xF == _CLOSE
            self.compressed |= bool(head[0] & _RSV)
            self._left = int.from_bytes(head[2 : 2 + extended], "big") if extended else short
            opcode = head[0] & 0xF
            if not self._is_control:
                self._fragmented = not head[0] & _FIN
            elif opcode == _PING:
                self.longest_ping_bytes = max(self.longest_ping_bytes, self._left)
            elif opcode == _PONG:
                self.longest_pong_bytes = max(self.longest_pong_bytes, self._left)
            if self._is_control:
                self.ledger.control_bytes += size
            else:
                self.ledger.framing_bytes += size
            head.clear()
            break
        return view

    @property
    def closed(self) -> bool:
        """Whether the close frame has crossed whole; where its length was damaged, frames behind it do not add up."""
        return self._close_passed and not self.inside_frame

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._left or self._head)

    @property
    def inside_message(self) -> bool:
        """Whether a frame has begun and not ended, or the last data frame says that its message goes on in another."""
        return self.inside_frame or self._fragmented

    @property
    def inside_header(self) -> bytes:
        """Bytes of a frame header that is not complete yet; they are counted once it is."""
        return bytes(self._head) if self._upgraded else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The code length of one transmission and its yardsticks. Rates are None where they are undefined (n = 0 or m = 1).

    f_bits: |f|. tokens: n. vocabulary_size: m. nll_bits: Σ −log2 p. dataset_bytes: of D, in canonical form, or of the octets
    that its tokens stand for by a tokenizer. abandoned_bits: of z that crossed and gave Bob nothing, because the models had
    diverged: they are part of what D cost.
    """

    f_bits: int
    tokens: int
    vocabulary_size: int
    nll_bits: float
    dataset_bytes: int
    abandoned_bits: int = 0

    @property
    def code_bits(self) -> float:
        """Σ −log2 p, and what was given up."""
        return self.nll_bits + self.abandoned_bits

    @property
    def uniform_bits(self) -> float:
        """N · log2 m."""
        return self.tokens * math.log2(self.vocabulary_size)

    @property
    def s0_bits(self) -> float:
        """S_0 = |f| + n log2 m."""
        return self.f_bits + self.uniform_bits

    @property
    def sk_bits(self) -> float:
        """S_k = |f| + Σ −log2 p^(k)(x_t | x_<t), and what was given up."""
        return self.f_bits + self.code_bits

    @property
    def compression_rate(self) -> float | None:
        """r_k = 1 − S_k / S_0."""
        return 1 - self.sk_bits / self.s0_bits if self.uniform_bits else None

    @property
    def compression_rate_net_of_f(self) -> float | None:
        """1 − Σ −log2 p / (n log2 m): r_k if both held f already."""
        return 1 - self.code_bits / self.uniform_bits if self.uniform_bits else None

    @property
    def bits_per_token(self) -> float | None:
        """Σ −log2 p / n."""
        return self.code_bits / self.tokens if self.tokens else None

    @property
    def bits_per_byte(self) -> float | None:
        """Σ −log2 p per byte of D."""
        return self.code_bits / self.dataset_bytes if self.dataset_bytes else None

    def as_dict(self) -> dict[str, float | None]:
        """The derived figures, by the names that every interface uses."""
        names = ("s0_bits", "sk_bits", "compression_rate", "compression_rate_net_of_f", "bits_per_token", "bits_per_byte")
        return {name: getattr(self, name) for name in names}
