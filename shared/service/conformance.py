"""The conformance set of the file channel: files that every reader must read, and `bad-*` files that every reader must refuse.

They lie in golden/files/ with index.json, which describes each and names the problem (a slug of `shared.channel.errors`) of a
bad one. `python -m shared.service.conformance` writes them anew; that a good file changes is a breaking change.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.channel.errors import describe
from shared.channel.messages import (
    FILE_VERSION,
    Accept,
    Block,
    Cancel,
    Check,
    Code,
    Data,
    End,
    Error,
    Hello,
    Message,
    Prepared,
    Rollback,
    Text,
    encode,
    encode_varint,
)
from shared.channel.stored import MAGIC, StoredReader, StoredWriter
from shared.code.errors import CodelengthError

if TYPE_CHECKING:
    from shared.code.spec import CodeSpec

DIRECTORY: Final = Path(__file__).parent / "golden" / "files"
_INDEX: Final = DIRECTORY / "index.json"
_TEXT: Final = b"It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want. " * 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file. bytes and sha256: of what it decodes to; problem: the slug that it is refused with."""

    file: str
    description: str
    problem: str | None = None
    bytes: int | None = None
    sha256: str | None = None


def entries() -> list[Entry]:
    """The set, as the index lists it."""
    return [Entry(**fields) for fields in json.loads(_INDEX.read_text(encoding="utf-8"))]


def check(entry: Entry) -> str | None:
    """Read one file of the set; what is wrong with the outcome, None if nothing is."""
    from shared.service.filing import decompress

    out = io.BytesIO()
    try:
        decompress(io.BytesIO((DIRECTORY / entry.file).read_bytes()).read, out.write)
    except CodelengthError as error:
        slug = describe(error).slug
        return None if slug == entry.problem else f"expected {entry.problem or 'success'}, got {slug}: {error}"
    if entry.problem is not None:
        return f"expected {entry.problem}, but it was read"
    found = hashlib.sha256(out.getvalue()).hexdigest()
    return None if found == entry.sha256 else "it decodes to something else"


# How the files are made: good ones by the encoder, bad ones from the messages of a good one.


def _spec(kind: str, **fields: Any) -> "CodeSpec":
    from shared.code.spec import CodeSpec

    return CodeSpec.from_fields({"model": {"kind": kind}, **fields})


def _file(data: bytes, spec: "CodeSpec", tokens: int | None = None) -> bytes:
    from shared.service.filing import compress

    out = io.BytesIO()
    compress(io.BytesIO(data).read, out.write, spec, spec.model.kind, tokens=tokens)
    return out.getvalue()


def _good() -> Iterator[tuple[str, str, bytes, bytes]]:
    """Name, description, what it decodes to, and the file."""
    blocks = {"block_tokens": 256, "segment_tokens": 64}
    for kind in ("uniform", "frequency", "ngram"):
        yield f"{kind}-text", f"octets under the preset {kind}", _TEXT, _file(_TEXT, _spec(kind))
    for kind in ("uniform", "ngram"):
        yield f"{kind}-empty", f"no octets under {kind}: a head and END", b"", _file(b"", _spec(kind))
    yield "ngram-one", "one octet", b"x", _file(b"x", _spec("ngram"))
    yield "frequency-blocks", "blocks of 256, the last one shorter", _TEXT, _file(_TEXT, _spec("frequency", **blocks))
    yield (
        "frequency-whole-blocks",
        "blocks of 256, no BLOCK needed",
        _TEXT[:512],
        _file(_TEXT[:512], _spec("frequency", **blocks)),
    )
    yield "frequency-announced", "HELLO announces n", _TEXT, _file(_TEXT, _spec("frequency", **blocks), len(_TEXT))
    zeros = bytes(20_000)
    yield "frequency-zeros", "so predictable that most blocks have no bits", zeros, _file(zeros, _spec("frequency", **blocks))
    small = {"kind": "ngram", "order": 2, "table_bits": 10}
    yield "ngram-small", "ngram of order 2 with a table of 2^10 slots", _TEXT, _file(_TEXT, _spec("ngram", model=small))
    for size in (1, 3, 300, 70_000):
        ids = bytes(400) if size == 1 else bytes(range(3)) * 100 if size == 3 else bytes([44, 1, 0, 0] * 100)
        ids = ids.replace(b"\x2c", b"\x2b") if size == 300 else ids
        spec = _spec("ngram", vocabulary={"kind": "ids", "size": size})
        yield f"ids-{size}", f"token ids, m = {size}", ids, _file(ids, spec)
    joined = _file(_TEXT, _spec("frequency")) + _file(b"", _spec("uniform")) + _file(b"and on", _spec("ngram"))
    yield "joined", "three transmissions one after the other", _TEXT + b"and on", joined


def _head(hello: Message, *, version: int = 1, record: bytes | None = None) -> bytes:
    data = MAGIC + bytes([version]) + (encode(hello, FILE_VERSION) if record is None else record)
    return data + zlib.crc32(data).to_bytes(4, "little")


def _bad() -> Iterator[tuple[str, str, str, bytes]]:
    """Name, problem, description, and the file."""
    spec = _spec("frequency", block_tokens=256, segment_tokens=64)
    good = _file(_TEXT, spec)
    reader = StoredReader()
    reader.feed(good)
    hello, *messages = reader.messages()
    assert isinstance(hello, Hello)
    head = StoredWriter().begin(hello)
    records = [encode(message, FILE_VERSION) for message in messages]

    def whole(begin: bytes, *parts: bytes) -> bytes:
        data = begin + b"".join(parts)
        return data + zlib.crc32(data).to_bytes(4, "little")

    first_data = next(index for index, message in enumerate(messages) if isinstance(message, Data))
    first_check = next(index for index, message in enumerate(messages) if isinstance(message, Check))
    last_check = max(index for index, message in enumerate(messages) if isinstance(message, Check))
    one_check, end = messages[first_check], messages[-1]
    assert isinstance(one_check, Check)
    assert isinstance(end, End)

    def changed(index: int, record: bytes | Message) -> bytes:
        new = encode(record, FILE_VERSION) if isinstance(record, Message) else record
        return whole(head, *records[:index], new, *records[index + 1 :])

    def inserted(index: int, record: bytes | Message) -> bytes:
        new = encode(record, FILE_VERSION) if isinstance(record, Message) else record
        return whole(head, *records[:index], new, *records[index:])

    def offer(**fields: Any) -> bytes:
        return whole(_head(replace(hello, **fields)), *records)

    def raw(*body: int) -> bytes:
        return bytes([len(body), *body])

    not_ours = "not-a-codelength-file"
    yield "empty", not_ours, "no bytes at all", b""
    yield "magic", not_ours, "the magic number of another format", b"\x89PNG\r\n\x1a\n" + good[8:]
    yield "text-mode", not_ours, "a transfer turned CR LF into LF", good.replace(b"\r\n", b"\n")
    yield "version", "file-version", "file format version 2", MAGIC + b"\x02" + good[9:]
    record = encode(hello, FILE_VERSION)
    yield (
        "protocol-version",
        "version-mismatch",
        "HELLO of protocol version 9",
        _head(hello, record=record[:2] + b"\x09" + record[3:]),
    )
    flipped = head.replace(b'"block_tokens":256', b'"block_tokens":257')
    yield (
        "header-crc",
        "damaged-header",
        "a spec changed into another valid one; only the CRC shows it",
        flipped + b"".join(records),
    )
    yield "header-type", "damaged-header", "END stands where HELLO belongs", _head(hello, record=encode(end))
    yield "header-huge", "damaged-header", "HELLO claims 2^40 bytes", MAGIC + b"\x01" + encode_varint(1 << 40) + b"\x01\x01"
    yield (
        "header-unknown",
        "damaged-header",
        "a type that does not exist stands where HELLO belongs",
        MAGIC + b"\x01" + raw(99, 0),
    )
    yield "spec-json", "invalid-spec", "a spec that is no JSON", offer(spec=b"{nonsense")
    yield "spec-format", "invalid-spec", "a spec of format 2", offer(spec=b'{"format":2,"model":{"kind":"uniform"}}')
    yield "spec-model", "invalid-spec", "a model that does not exist", offer(spec=b'{"model":{"kind":"oracle"}}')
    start = {"corpus": hashlib.sha256(_TEXT).hexdigest(), "steps": 2}
    begun = _spec("frequency", block_tokens=256, segment_tokens=64, training={"start": start})
    begins = offer(spec=begun.canonical_bytes())
    yield "corpus", "corpus-unavailable", "the code starts from a corpus, which is not given", begins
    made = _spec("frequency", block_tokens=256, segment_tokens=64, vocabulary={"kind": "ids", "size": 256, "tokenizer": "0" * 64})
    named = offer(spec=made.canonical_bytes())
    yield "tokenizer", "tokenizer-unavailable", "the tokens are of a tokenizer, which is not given", named
    endless = _spec("frequency", training={"start": {**start, "steps": 1 << 40}})
    trains = offer(spec=endless.canonical_bytes())
    yield "spec-training", "limit-exceeded", "a code that trains for 2^40 steps before its data", trains
    yield "prepared", "bad-frame", "PREPARED, of a code that starts from nothing", inserted(0, Prepared(digest=bytes(32)))
    yield "spec-deep", "invalid-spec", "a spec of 5,000 opening brackets", offer(spec=b"[" * 5_000)
    huge = b'{"block_tokens":16777216,"model":{"kind":"ngram","table_bits":24}}'
    yield "spec-memory", "limit-exceeded", "a code that needs 800 MB", offer(spec=huge)
    for name, size in (("magic", 5), ("head", 20), ("data", len(head) + len(records[0]) + 9), ("end", len(good) - 1)):
        yield f"cut-{name}", "truncated", f"ends after {size} bytes", good[:size]
    yield "cut-between", "truncated", "END is missing", good[: -4 - len(records[-1])]
    yield "cut-crc", "truncated", "the CRC after END is missing", good[:-4]
    yield "crc", "damaged-file", "the CRC after END is another", good[:-1] + bytes([good[-1] ^ 1])
    yield "trailing", not_ours, "bytes follow END", good + b"tail"
    yield "joined", "truncated", "a second transmission begins and does not end", good + good[:30]
    yield "n-huge", "bad-frame", "HELLO announces 2^62 tokens, there are fewer", offer(tokens=1 << 62)
    yield "n-small", "bad-frame", "HELLO announces 100 tokens, there are more", offer(tokens=100)
    yield "block-empty", "bad-frame", "a BLOCK of no tokens", inserted(0, Block(index=0, tokens=0))
    yield "block-huge", "bad-frame", "a BLOCK longer than blocks are", inserted(0, Block(index=0, tokens=1 << 62))
    yield "block-index", "bad-frame", "a BLOCK with another's index", inserted(0, Block(index=7, tokens=9))
    yield (
        "block-late",
        "bad-frame",
        "a BLOCK after the first DATA of its block",
        inserted(first_data + 1, Block(index=0, tokens=9)),
    )
    yield "message-unknown", "unknown-message", "message type 99", inserted(1, raw(99, 1, 2, 3))
    yield (
        "message-bob",
        "unexpected-message",
        "ACCEPT, which only Bob says",
        inserted(1, Accept(block=0, records=0, z_bytes=0, runtime="")),
    )
    yield "message-rollback", "unexpected-message", "ROLLBACK, which only Bob says", inserted(1, Rollback(block=0))
    yield "message-code", "bad-frame", "CODE: a file carries no f", inserted(0, Code(name="x", data=b"x"))
    yield (
        "message-text",
        "bad-frame",
        "TEXT, of tokens that no tokenizer made",
        inserted(0, Text(size=1, sha256=bytes(32))),
    )
    yield "message-late-code", "unexpected-message", "CODE after DATA", inserted(first_data + 1, Code(name="x", data=b"x"))
    yield "message-hello", "unexpected-message", "HELLO a second time", inserted(1, hello)
    yield "record-empty", "bad-frame", "a record of no bytes", inserted(1, b"\0")
    yield "record-length", "bad-frame", "a length of ten bytes", inserted(1, b"\xff" * 10)
    yield "record-huge", "limit-exceeded", "DATA that claims 2^30 bytes", inserted(first_data, encode_varint(1 << 30) + b"\x06")
    yield "record-cut", "bad-frame", "a BLOCK that ends inside a field", inserted(0, raw(5, 0))
    yield "record-long", "bad-frame", "a BLOCK with a byte too many", inserted(0, raw(5, 0, 9, 0))
    yield "integer-long", "bad-frame", "an integer not in its shortest form", inserted(0, raw(5, 0x80, 0x00, 9))
    text = raw(11, 2, 0xFF, 0xFE)
    yield "text-utf8", "bad-frame", "a text that is not UTF-8", inserted(1, text)
    data = messages[first_data]
    assert isinstance(data, Data)
    for name, place in (("first", 0), ("middle", len(data.z) // 2)):
        z = bytearray(data.z)
        z[place] ^= 0x10
        yield f"z-{name}", "diverged", f"one bit of z flipped, in its {name} byte", changed(first_data, Data(z=bytes(z)))
    yield "z-short", "bad-frame", "the last byte of z is missing", changed(first_data, Data(z=data.z[:-1]))
    yield "z-long", "bad-frame", "z has a byte too many", changed(first_data, Data(z=data.z + b"\0"))
    position, crc = one_check.position, one_check.crc
    yield (
        "check-crc",
        "diverged",
        "a CHECK with another CRC",
        changed(first_check, Check(position=position, crc=crc ^ 1, digest=None)),
    )
    yield "check-position", "bad-frame", "a CHECK at another token", changed(first_check, Check(position=9, crc=crc, digest=None))
    last = messages[last_check]
    assert isinstance(last, Check)
    other = Check(position=last.position, crc=last.crc, digest=bytes(32))
    yield "check-digest", "diverged", "a CHECK with another digest of the state", changed(last_check, other)
    yield "check-missing", "bad-frame", "the last CHECK is missing", whole(head, *records[:last_check], records[-1])
    size = end.tokens
    yield (
        "end-sha256",
        "digest-mismatch",
        "END with another SHA-256",
        changed(-1 % len(records), End(tokens=size, sha256=bytes(32), z_bits=end.z_bits)),
    )
    yield (
        "end-tokens",
        "digest-mismatch",
        "END with another n",
        changed(-1 % len(records), End(tokens=size + 1, sha256=end.sha256, z_bits=end.z_bits)),
    )
    yield (
        "end-bits",
        "bad-frame",
        "END with another length of z",
        changed(-1 % len(records), End(tokens=size, sha256=end.sha256, z_bits=end.z_bits + 8)),
    )
    yield "cancelled", "cancelled", "the writer gave up", inserted(1, Cancel(reason="no more"))
    yield "error", "peer-failed", "the writer failed", inserted(1, Error(problem="internal", reason="a bug"))


def write_all() -> None:
    """Make the directory anew."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for path in DIRECTORY.iterdir():
        path.unlink()
    index = []
    for name, description, data, content in _good():
        entry = Entry(file=f"{name}.clz1", description=description, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        (DIRECTORY / entry.file).write_bytes(content)
        index.append(asdict(entry))
    for name, problem, description, content in _bad():
        entry = Entry(file=f"bad-{name}.clz1", description=description, problem=problem)
        (DIRECTORY / entry.file).write_bytes(content)
        index.append(asdict(entry))
    lines = ",\n".join(json.dumps({key: value for key, value in fields.items() if value is not None}) for fields in index)
    _INDEX.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    from shared.service.kernels import prepare_kernel_cache

    prepare_kernel_cache()
    write_all()
    for one in entries():
        if fault := check(one):
            print(f"{one.file}: {fault}")  # noqa: T201 - a tool for people
