"""What f is, as data: a `CodeSpec`, its canonical bytes and its digest.

Canonical bytes are JSON with sorted keys and no spaces, without every field that holds its default (`format` and
`model.kind` always stand). Equal specs therefore give equal bytes, and a field added later, with a default that means the old
behaviour, changes no digest. There is no float in a spec. A change that alters a coded bit raises `FORMAT`.
This module does not know how models work, only their parameters.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from shared.code.errors import SpecError

FORMAT = 1
MAX_SPEC_BYTES = 64 * 1024
MAX_SEGMENT_ROWS = 1 << 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BytesVocabulary(_Part):
    """Octets: m = 256."""

    kind: Literal["bytes"] = "bytes"

    @property
    def size(self) -> int:
        """The number of possible tokens, m."""
        return 256


class IdsVocabulary(_Part):
    """Token ids 0 … size - 1. tokenizer: the SHA-256 of the tokenizer's file that makes octets of them, charged as an asset."""

    kind: Literal["ids"] = "ids"
    size: int = Field(ge=1, le=1 << 20)
    tokenizer: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


Vocabulary = Annotated[BytesVocabulary | IdsVocabulary, Field(discriminator="kind")]


class UniformModel(_Part):
    """p = 1/m: the baseline S_0."""

    kind: Literal["uniform"] = "uniform"

    def memory_bytes(self, vocabulary_size: int) -> int:
        """Upper bound of the model's tables."""
        del vocabulary_size
        return 64


class FrequencyModel(_Part):
    """Adaptive counts of order 0: the estimator of Krichevsky and Trofimov, (count + 1/2) / (n + m/2)."""

    kind: Literal["frequency"] = "frequency"

    def memory_bytes(self, vocabulary_size: int) -> int:
        """Upper bound of the model's tables."""
        return 8 * vocabulary_size + 64


class NgramModel(_Part):
    """Statistics of the last 0 … order tokens, mixed in the logistic domain, one binary decision at a time."""

    kind: Literal["ngram"] = "ngram"
    order: int = Field(default=5, ge=0, le=5)
    table_bits: int = Field(default=19, ge=10, le=24, description="log2 of the number of 32-byte slots")

    def memory_bytes(self, vocabulary_size: int) -> int:
        """Upper bound of the model's tables."""
        del vocabulary_size
        return (32 << self.table_bits) + (1 << 20)


class _Mixing(_Part):
    contexts: int = Field(default=24, ge=1, le=36, description="how many of the list of contexts are used")
    sets: int = Field(default=6, ge=1, le=12, description="mixers of the first layer")
    table_mebibytes: int = Field(default=224, ge=1, le=2048)
    history_bits: int = Field(default=22, ge=10, le=24, description="log2 of the tokens in which matches are found")
    match_minimum: int = Field(default=5, ge=1, le=32, description="tokens of the shortest match")

    def memory_bytes(self, vocabulary_size: int) -> int:
        """Upper bound of the model's tables."""
        del vocabulary_size
        return (self.table_mebibytes << 20) + (5 << self.history_bits) + (11 << 20)


class MixingModel(_Mixing):
    """Statistics of many contexts and the longest match, mixed by gated linear networks, one binary decision at a time."""

    kind: Literal["mixing"] = "mixing"


class EnsembleModel(_Mixing):
    """The same, with the predictions of a small LSTM over octets, trained online, among what is mixed."""

    kind: Literal["ensemble"] = "ensemble"
    width: int = Field(default=160, ge=8, le=168, multiple_of=8, description="cells of each of the LSTM's two layers")
    seed: int = Field(default=1, ge=0, lt=1 << 20)

    def memory_bytes(self, vocabulary_size: int) -> int:
        """Upper bound of the tables, the LSTM's weights and its activations of a segment."""
        weights = self.width * (9 * self.width + 3600) + 256
        return super().memory_bytes(vocabulary_size) + 10 * weights + 1600 * self.width + (1 << 20)


class Tables(_Part):
    """n-gram logit tables and a match beside a network's logits."""

    bits: int = Field(default=16, ge=8, le=22, description="log2 of the 256-byte rows of each of the tables")

    @property
    def memory_bytes(self) -> int:
        """Of all tables, the history and the match's places."""
        return 7 * (256 << self.bits) + (1 << 25)


class _Network(_Part):
    """What the networks have in common: residual layers of `width`, each mixing positions and then, with `hidden`, widths."""

    layers: int = Field(default=1, ge=1, le=64)
    width: int = Field(default=128, ge=8, le=8192, multiple_of=8)
    hidden: int = Field(default=0, ge=0, le=32_768, multiple_of=8, description="width of the perceptron after each; 0 for none")
    taps: int = Field(default=2, ge=1, le=8, description="positions side by side at each layer's input")
    tables: Tables | None = Tables()
    seed: int = Field(default=1, ge=0, lt=1 << 20)

    def parameters(self, vocabulary_size: int) -> int:
        """The number of trained weights of the network, without tables."""
        mixing = (3 * self.taps + 1) * self.width**2 + self.width
        return 2 * vocabulary_size * self.width + self.layers * (mixing + 2 * self.width * self.hidden)

    def row_bytes(self, vocabulary_size: int) -> int:
        """What a segment's activations, gradients and the products in hand take for each of its rows."""
        kept = self.layers * ((64 + 4 * self.taps) * self.width + 16 * self.hidden)
        in_hand = (128 + 32 * self.taps) * self.width + 40 * self.hidden
        return kept + in_hand + 40 * vocabulary_size

    def memory_bytes(self, vocabulary_size: int, positions: int, streams: int) -> int:
        """Upper bound of weights, moments, rounded copies, activations and tables (tests/unit/test_code.py measures)."""
        tables = self.tables.memory_bytes if self.tables else 0
        rows = positions * streams
        return 64 * self.parameters(vocabulary_size) + rows * self.row_bytes(vocabulary_size) + tables + (1 << 25)


class RecurrentModel(_Network):
    """Gated linear recurrences, trained online."""

    kind: Literal["recurrent"] = "recurrent"


class TransformerModel(_Network):
    """A decoder-only transformer, trained online; each position attends to itself and the `context` before it."""

    kind: Literal["transformer"] = "transformer"
    heads: int = Field(default=4, ge=1, le=64)
    context: int = Field(default=64, ge=0, le=4096)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            msg = f"{self.heads} heads do not divide a width of {self.width}"
            raise ValueError(msg)
        return self

    def memory_bytes(self, vocabulary_size: int, positions: int, streams: int) -> int:
        """Upper bound of weights, moments, rounded copies, activations, keys, values and tables."""
        window = self.context + 1
        weights = (2 * positions * streams + 32) * self.heads * window
        cache = 8 * streams * (self.context + positions) * self.width
        return (
            super().memory_bytes(vocabulary_size, positions, streams) + self.layers * (weights + cache) + 12 * positions * window
        )


class PluginModel(_Part):
    """A predictor of one's own, from a file that each side has: its name there, and the SHA-256 of the file's bytes."""

    kind: Literal["plugin"] = "plugin"
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    source: str = Field(pattern=r"^[0-9a-f]{64}$")
    memory_mebibytes: int = Field(default=64, ge=1, le=65_536, description="what its author says it holds at most")

    def memory_bytes(self, vocabulary_size: int) -> int:
        """Upper bound of what it holds, by its author's word."""
        del vocabulary_size
        return self.memory_mebibytes << 20


class PretrainedModel(_Part):
    """A causal language model from files that each side has: `files` is a SHA-256 over its config.json and its weights.

    It sees at most the last `context` tokens. parameters, layers, width: as the files have it, so that its memory is known
    where they are not read.
    """

    kind: Literal["pretrained"] = "pretrained"
    files: str = Field(pattern=r"^[0-9a-f]{64}$")
    parameters: int = Field(ge=1, le=1 << 40)
    layers: int = Field(ge=1, le=1 << 12)
    width: int = Field(ge=1, le=1 << 20)
    context: int = Field(default=512, ge=1, le=1 << 20)

    def memory_bytes(self, vocabulary_size: int, positions: int, streams: int, *, learns: bool) -> int:
        """Upper bound of weights, keys and values, activations and logits; with gradients and moments if it learns."""
        passed = self.context if learns else max(1, self.context - positions)  # positions in one pass
        rows, in_hand = (positions * streams, self.layers) if learns else (streams, 1)
        weights = (24 if learns else 8) * self.parameters
        cache = 10 * self.layers * self.width * self.context * streams
        activations = in_hand * passed * streams * self.width * (96 + 3 * passed // 8)
        return weights + cache + activations + 32 * vocabulary_size * rows + (1 << 27)


NETWORKS = (RecurrentModel, TransformerModel)
STREAMED = (*NETWORKS, PluginModel, PretrainedModel)
"""What codes several streams at once, and may have native numerics."""

Model = Annotated[
    UniformModel
    | FrequencyModel
    | NgramModel
    | MixingModel
    | EnsembleModel
    | RecurrentModel
    | TransformerModel
    | PluginModel
    | PretrainedModel,
    Field(discriminator="kind"),
]


class Adam(_Part):
    """The networks' optimiser; numbers are in units of 2^-20."""

    rate: int = Field(default=3200, ge=0, le=1 << 20)
    decay: int = Field(default=1049, ge=0, le=1 << 20, description="the rate falls as 1 / √(1 + decay · k)")
    beta1: int = Field(default=838_861, ge=0, lt=1 << 20)
    beta2: int = Field(default=1_038_090, ge=0, lt=1 << 20)


class Start(_Part):
    """Training before D is sent: `steps` segments of a corpus that both sides hold, from its beginning again where it ends.

    corpus: its identity, a SHA-256 as a dataset has it, over the spec's vocabulary. It is part of f, and charged as an asset.
    """

    corpus: str = Field(pattern=r"^[0-9a-f]{64}$")
    steps: int = Field(ge=1, le=1 << 40)


class Replay(_Part):
    """Earlier data that a network is trained on again: after every segment `passes` further updates, each on as many positions.

    Where each begins is drawn from the tokens kept, the last 2^history_bits of them, which both sides hold.
    """

    passes: int = Field(default=1, ge=1, le=64)
    history_bits: int = Field(default=20, ge=1, le=24, description="log2 of the tokens kept")


class _Training(_Part):
    """What both regimes have in common: the optimiser, and the model at the first token, p^(0) or one that has been trained."""

    optimizer: Adam = Adam()
    replay: Replay | None = None
    start: Start | None = None


class OnlineTraining(_Training):
    """k grows while D is sent."""

    kind: Literal["online"] = "online"


class FrozenTraining(_Training):
    """p^(k) is fixed before D is sent; only the context, the tokens before, still moves."""

    kind: Literal["frozen"] = "frozen"


def _regime(value: Any) -> Any:
    return value.get("kind", "online") if isinstance(value, dict) else getattr(value, "kind", None)


Training = Annotated[Annotated[OnlineTraining, Tag("online")] | Annotated[FrozenTraining, Tag("frozen")], Discriminator(_regime)]


class CodeSpec(_Part):
    """The code f: structure, initialisation, training and coding order, in as much as they are parameters.

    block_tokens: tokens between two checks; segment_tokens: positions per training step; streams: B, the number of
    places in a block that advance in lock step. numerics: exact, the same bits on every machine, or native, plain float32.
    """

    format: Literal[1] = 1
    vocabulary: Vocabulary = BytesVocabulary()
    model: Model
    training: Training = OnlineTraining()
    block_tokens: int = Field(default=65_536, ge=1, le=1 << 24)
    segment_tokens: int = Field(default=4_096, ge=1, le=1 << 16)
    streams: int = Field(default=1, ge=1, le=1 << 12)
    numerics: Literal["exact", "native"] = "exact"

    @model_validator(mode="after")
    def _streams_fit(self) -> Self:
        if self.streams > 1 and not isinstance(self.model, STREAMED):
            msg = f"a {self.model.kind} model codes one stream, not {self.streams}"
            raise ValueError(msg)
        if isinstance(self.model, STREAMED) and self.segment_tokens * self.streams > MAX_SEGMENT_ROWS:
            msg = f"a segment of {self.segment_tokens} × {self.streams} positions; at most {MAX_SEGMENT_ROWS} fit"
            raise ValueError(msg)
        if self.numerics == "native" and not isinstance(self.model, STREAMED):
            msg = f"a {self.model.kind} model has no native numerics: it is integers throughout"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _pretrained_fits(self) -> Self:
        if isinstance(self.model, PretrainedModel):
            if self.numerics != "native":
                msg = "a pretrained model is floats throughout: its numerics are native"
                raise ValueError(msg)
            if self.segment_tokens > self.model.context:
                msg = f"a segment of {self.segment_tokens} tokens; the model sees {self.model.context}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _replay_fits(self) -> Self:
        replay = self.training.replay
        if replay is not None and not isinstance(self.model, NETWORKS):
            msg = f"replay is for networks: a {self.model.kind} model learns a token once, as it passes"
            raise ValueError(msg)
        if replay is not None and self.segment_tokens * self.streams > 1 << replay.history_bits:
            msg = f"replay from 2^{replay.history_bits} tokens; a segment has {self.segment_tokens} × {self.streams} positions"
            raise ValueError(msg)
        return self

    @property
    def vocabulary_size(self) -> int:
        """The number of possible tokens, m."""
        return self.vocabulary.size

    @property
    def memory_bytes(self) -> int:
        """Upper bound of what a predictor and a codec of this spec hold, independent of n."""
        if isinstance(self.model, NETWORKS):
            model = self.model.memory_bytes(self.vocabulary_size, self.segment_tokens, self.streams)
        elif isinstance(self.model, PretrainedModel):
            model = self.model.memory_bytes(self.vocabulary_size, self.segment_tokens, self.streams, learns=self.learns)
        else:
            model = self.model.memory_bytes(self.vocabulary_size)
        frozen = self.frozen and not isinstance(self.model, UniformModel | FrequencyModel | NgramModel)
        history = 4 << (self.model.history_bits if isinstance(self.model, _Mixing) else 22)
        replay = self.training.replay
        replayed = 0 if replay is None else 4 << replay.history_bits
        return model + 16 * self.block_tokens + 256 * self.segment_tokens + frozen * history + replayed

    @property
    def frozen(self) -> bool:
        """Whether p^(k) is fixed while D is sent."""
        return isinstance(self.training, FrozenTraining)

    @property
    def tokenizer(self) -> str | None:
        """The SHA-256 of the tokenizer's file, where the tokens stand for octets by one."""
        return self.vocabulary.tokenizer if isinstance(self.vocabulary, IdsVocabulary) else None

    @property
    def learns(self) -> bool:
        """Whether there is a training step at all, before D is sent or while it is."""
        return not self.frozen or self.start is not None

    @property
    def start(self) -> Start | None:
        """The training before D is sent, if there is any."""
        return self.training.start

    def with_training(self, *, frozen: bool, start: Start | None) -> Self:
        """The same code in a regime and with a start."""
        regime = FrozenTraining if frozen else OnlineTraining
        training = regime(optimizer=self.training.optimizer, replay=self.training.replay, start=start)
        return self.model_copy(update={"training": training})

    def canonical_bytes(self) -> bytes:
        """The one serialisation of this spec, ASCII."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        fields["format"] = self.format
        fields["model"] = {**fields.get("model", {}), "kind": self.model.kind}
        if "vocabulary" in fields:
            fields["vocabulary"]["kind"] = self.vocabulary.kind
        if self.frozen:
            fields["training"] = {**fields.get("training", {}), "kind": self.training.kind}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    def digest(self) -> str:
        """SHA-256 of the canonical bytes, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical_bytes()).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a spec from JSON; any spelling is accepted. Raises `SpecError`."""
        if len(data) > MAX_SPEC_BYTES:
            raise SpecError(f"{len(data)} bytes are more than {MAX_SPEC_BYTES}")
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"it is not JSON ({error})") from None
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, fields: Any) -> Self:
        """Read a spec from decoded JSON. Raises `SpecError`."""
        if isinstance(fields, dict) and fields.get("format", FORMAT) != FORMAT:
            raise SpecError(f"format {fields.get('format')!r} is not {FORMAT}, the one spoken here")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the spec"
            raise SpecError(f"{place}: {first['msg']}") from None
