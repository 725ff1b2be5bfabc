"""Examples for the interface's documentation, one for each thing that a service answers with. Tests hold them to the models."""

from typing import Any, Final

_SHA256: Final = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
_TIME: Final = "2026-01-01T12:00:00Z"
_F_BITS: Final = {"spec": 296, "source": 102_416, "assets": 0, "total": 102_712}

DATASET: Final[dict[str, Any]] = {
    "id": _SHA256,
    "sha256": _SHA256,
    "vocabulary": "bytes",
    "vocabulary_size": 256,
    "tokens": 11,
    "bytes": 11,
    "media_type": "application/octet-stream",
    "name": "hello.txt",
    "tokenizer": None,
    "octets": None,
    "octets_sha256": None,
    "created_at": _TIME,
}
CORPUS: Final[dict[str, Any]] = {**DATASET, "name": "shakespeare.txt", "asset_bits": 88}
TOKENIZER: Final[dict[str, Any]] = {
    "id": _SHA256,
    "sha256": _SHA256,
    "vocabulary_size": 50_257,
    "byte_level": True,
    "bytes": 1_355_256,
    "name": "tokenizer.json",
    "asset_bits": 3_000_000,
    "created_at": _TIME,
}
CODE: Final[dict[str, Any]] = {
    "name": "ngram",
    "digest": "920cfbe56b797f9c79417c10caf2d7059178c10e3070e488d81c2d6b6c8b94f1",
    "spec": {"format": 1, "model": {"kind": "ngram"}},
}
_DIRECTION: Final = {
    "payload_bytes": 180,
    "z_bytes": 11,
    "framing_bytes": 20,
    "control_bytes": 8,
    "handshake_bytes": 282,
    "socket_bytes": 490,
    "tls_bytes": None,
    "retransmitted_bytes": 0,
    "tcp_retransmitted_bytes": 0,
    "tcp_info_bytes": 490,
}
TRANSMISSION: Final[dict[str, Any]] = {
    "id": "3f2a0c2d9c8e4b0fae2b7c4d5e6f7081",
    "state": "verified",
    "queue_position": None,
    "resuming": False,
    "sent_z_bytes": 11,
    "dataset": DATASET,
    "code": CODE,
    "regime": "online",
    "corpus": None,
    "auto_seconds": None,
    "send_f": False,
    "ranks": 1,
    "notes": [],
    "choice": None,
    "steps": 1,
    "tokens_done": 11,
    "f_bits": _F_BITS,
    "nll_bits": 80.6,
    "z_bits": 81,
    "rollbacks": 0,
    "abandoned_bytes": 0,
    "leg": None,
    "s0_bits": 102_800.0,
    "sk_bits": 102_792.6,
    "compression_rate": 0.0000719,
    "compression_rate_net_of_f": 0.0841,
    "bits_per_token": 7.327,
    "bits_per_byte": 7.327,
    "wire": {"sent": _DIRECTION, "received": _DIRECTION, "connections": [], "final": True},
    "seconds": {"encode": 0.01, "total": 0.02},
    "peak_memory_bytes": 180_000_000,
    "reconstruction": {"sha256": _SHA256, "verified": True},
    "error": None,
    "created_at": _TIME,
    "finished_at": _TIME,
}
PROBLEM: Final[dict[str, Any]] = {
    "type": "urn:codelength:problem:not-found",
    "title": "Not Found",
    "status": 404,
    "detail": f"no dataset '{_SHA256}' is held here",
}
_PIECE: Final = {"first": 0, "provisional": True, "tokens": [104, 101], "bits": [8.0, 7.41]}

EXAMPLES: Final[dict[str, Any]] = {
    "Dataset": DATASET,
    "DatasetList": {"datasets": [DATASET]},
    "Corpus": CORPUS,
    "CorpusList": {"corpora": [CORPUS]},
    "Tokenizer": TOKENIZER,
    "TokenizerList": {"tokenizers": [TOKENIZER]},
    "Code": {**CODE, "f_bits": _F_BITS, "summary": "contexts of 0 to 5 tokens, hashed, mixed and learned online"},
    "CodeList": {"codes": [{**CODE, "f_bits": _F_BITS, "summary": "contexts of 0 to 5 tokens"}]},
    "Transmission": TRANSMISSION,
    "TransmissionList": {"transmissions": [TRANSMISSION]},
    "Bits": {
        **TRANSMISSION,
        "every": None,
        "per_token": None,
        "per_block": [{"block": 0, "first": 0, "tokens": 11, "nll_bits": 80.6}],
        "per_class": None,
    },
    "SampleAnswer": {
        "transmission": TRANSMISSION["id"],
        "steps": 1,
        "seed": 1,
        "position": 11,
        "tokens": [104, 101],
        "text": "he",
        "nll_bits": 14.2,
        "flips": 80,
    },
    "Decoded": {"checked": 0, "decoded": 2, "pieces": [_PIECE]},
    "DecodedPiece": _PIECE,
    "Problem": PROBLEM,
    "Status": {"status": "ok"},
    "Version": {
        "service": "alice",
        "version": "0.1.0",
        "protocol": 2,
        "f": "19c7dc13e7c96658",
        "runtime": '{"codelength":"0.1.0","machine":"x86_64","numba":"0.68.1"}',
    },
}
"""By the name of the model in the OpenAPI document."""
EVENT: Final = 'event: transmission\ndata: {"id": "3f2a0c2d9c8e4b0fae2b7c4d5e6f7081", "state": "running"}\n\n'
METRICS: Final = "# TYPE codelength_transmissions_total counter\n"
"""The beginning of what Prometheus reads."""
