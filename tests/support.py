"""What several tests need: codecs end to end, an in-memory pair of peers, and test predictors."""

import hashlib

import numpy as np

from shared.channel.protocol import Channel
from shared.channel.states import Role
from shared.code.arithmetic import U8, U64, code_bit, starved
from shared.code.codec import Decoder, Encoder
from shared.code.compiled import kernel
from shared.code.models import PRESETS
from shared.code.models.base import Predictor
from shared.code.spec import NETWORKS, CodeSpec
from shared.code.vocabulary import dataset_digest, from_tokens

STATISTICAL = tuple(name for name, one in PRESETS.items() if not isinstance(one.model, NETWORKS))
"""Presets cheap enough for heavy fuzzing; networks are fuzzed small, see `SMALL_NETWORKS`."""
NETWORK_PRESETS = tuple(name for name, one in PRESETS.items() if name not in STATISTICAL and not one.heavy)
LIGHT = tuple(name for name, one in PRESETS.items() if not one.heavy)
HEAVY = tuple(name for name, one in PRESETS.items() if one.heavy)
"""Presets that cost half a minute here: long tests."""

SMALL_NETWORKS = {
    "recurrent": {"kind": "recurrent", "layers": 2, "width": 16, "hidden": 24, "tables": {"bits": 8}},
    "transformer": {
        "kind": "transformer",
        "layers": 2,
        "width": 16,
        "hidden": 24,
        "taps": 3,
        "heads": 2,
        "context": 7,
        "tables": None,
    },
    "transformer-tables": {"kind": "transformer", "width": 16, "taps": 1, "heads": 4, "context": 0, "tables": {"bits": 8}},
}
"""Network models that cost milliseconds: every kind of layer, with tables and without."""


REPLAY = {"replay": {"passes": 2, "history_bits": 6}}
"""The training of a small network with replay, of fewer tokens than tests have."""


def small(name, m=256, **fields) -> CodeSpec:
    """A spec of a small network over m tokens (256: octets)."""
    vocabulary = {"kind": "bytes"} if m == 256 else {"kind": "ids", "size": m}
    sizes = {"block_tokens": 100, "segment_tokens": 5, "streams": 3}
    return CodeSpec.from_fields({"vocabulary": vocabulary, "model": SMALL_NETWORKS[name], **sizes, **fields})


def small_model(name):
    """The fields of a preset's model, with tables small enough to be made a thousand times."""
    fields = PRESETS[name].model.model_dump()
    return fields | {"table_mebibytes": 1, "history_bits": 10} if "table_mebibytes" in fields else fields


def encode(spec, tokens, predictor=None):
    """z, its bits, Σ −log2 p in units, and the checks."""
    encoder, out, checks = Encoder(spec, predictor), [], []
    for start in range(0, len(tokens), spec.block_tokens):
        for _ in encoder.encode_block(tokens[start : start + spec.block_tokens]):
            out.append(encoder.drain())
        checks.append(encoder.check(with_digest=True))
    bits = encoder.finish()
    return b"".join([*out, encoder.drain()]), bits, encoder.nll_units, checks


def decode(spec, z, bits, count, chunk, predictor=None):
    """The tokens and the checks, from z in parts of `chunk` bytes."""
    decoder, out, checks, position = Decoder(spec, predictor), [], [], 0
    for start in range(0, count, spec.block_tokens):
        decoder.begin_block(min(spec.block_tokens, count - start))
        while not decoder.block_done:
            if decoder.decode() == 0 and not decoder.block_done:
                if position >= len(z):
                    decoder.close(bits)
                else:
                    decoder.feed(z[position : position + chunk])
                    position += chunk
        out.append(decoder.take_block()[0])
        checks.append(decoder.check(with_digest=True))
    return np.concatenate(out) if out else np.zeros(0, np.uint32), checks


def identity(vocabulary, tokens) -> str:
    """D's SHA-256."""
    digest = dataset_digest(vocabulary)
    digest.update(from_tokens(tokens, vocabulary))
    return digest.hexdigest()


def carry(sender: Channel, receiver: Channel, cut) -> list:
    """Move all that is queued, cut by `cut(bytes) -> parts`; the events of it."""
    data, out = sender.data_to_send(), []
    for part in cut(data):
        receiver.receive_data(part)
        out.extend(receiver.events())
    return out


def pair() -> tuple[Channel, Channel]:
    """Two sides of one conversation."""
    return Channel(Role.ALICE), Channel(Role.BOB)


def byte_level_tokenizer(text: str, size: int):
    """A byte-level BPE of at most `size` tokens, trained on a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator([text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    return inner


def sha(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


@kernel
def _code_bits(tokens, start: int, state: U64, buffer: U8, costs, ones) -> int:
    for row in range(start, tokens.shape[0]):
        if starved(state, np.uint64(8 * tokens.shape[1])):
            return row
        for stream in range(tokens.shape[1]):
            node, cost = np.uint64(1), np.uint64(0)
            for level in range(8):
                wanted = (np.uint64(tokens[row, stream]) >> np.uint64(7 - level)) & np.uint64(1)
                bit, units = code_bit(state, buffer, wanted, np.uint64(ones[node]), np.uint64(1 << 16))
                cost += units
                if bit:
                    ones[node] += (np.uint64(65000) - np.uint64(ones[node])) >> np.uint64(5)
                else:
                    ones[node] -= (np.uint64(ones[node]) - np.uint64(500)) >> np.uint64(5)
                node = (node << np.uint64(1)) | bit
            tokens[row, stream] = np.uint32(node & np.uint64(255))
            costs[row, stream] = np.uint32(cost)
    return tokens.shape[0]


class EightDecisions(Predictor):
    """Codes a byte as eight adaptive binary decisions down a tree: shows that the interface carries them."""

    max_decisions = 8

    def __init__(self) -> None:
        self.ones = np.full(256, 1 << 15, dtype=np.uint32)

    def _code(self, tokens, lengths, start, coder, costs):
        return int(_code_bits(tokens, start, coder.state, coder.buffer, costs, self.ones))

    def _arrays(self):
        return {"ones": self.ones}
