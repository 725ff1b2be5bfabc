"""What f is, as data: a `CodeSpec`, its canonical bytes and its digest.

Canonical bytes are JSON with sorted keys and no spaces, without every field that holds its default (`format` and
`model.kind` always stand). Equal specs therefore give equal bytes, and a field added later, with a default that means the old
behaviour, changes no digest. There is no float in a spec. A change that alters a coded bit raises `FORMAT`.
This module does not know how models work, only their parameters.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.code.errors import SpecError

FORMAT = 1
MAX_SPEC_BYTES = 64 * 1024


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
    """Token ids 0 … size - 1."""

    kind: Literal["ids"] = "ids"
    size: int = Field(ge=1, le=1 << 20)


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


class MixingModel(_Part):
    """Statistics of many contexts and the longest match, mixed by gated linear networks, one binary decision at a time."""

    kind: Literal["mixing"] = "mixing"
    contexts: int = Field(default=24, ge=1, le=36, description="how many of the list of contexts are used")
    sets: int = Field(default=6, ge=1, le=12, description="mixers of the first layer")
    table_mebibytes: int = Field(default=224, ge=1, le=2048)
    history_bits: int = Field(default=22, ge=10, le=24, description="log2 of the tokens in which matches are found")
    match_minimum: int = Field(default=5, ge=1, le=32, description="tokens of the shortest match")

    def memory_bytes(self, vocabulary_size: int) -> int:
        """Upper bound of the model's tables."""
        del vocabulary_size
        return (self.table_mebibytes << 20) + (5 << self.history_bits) + (11 << 20)


Model = Annotated[UniformModel | FrequencyModel | NgramModel | MixingModel, Field(discriminator="kind")]


class OnlineTraining(_Part):
    """k grows while D is sent."""

    kind: Literal["online"] = "online"


class CodeSpec(_Part):
    """The code f: structure, initialisation, training and coding order, in as much as they are parameters.

    block_tokens: tokens between two checks; segment_tokens: positions per training step; streams: B, the number of
    places in a block that advance in lock step.
    """

    format: Literal[1] = 1
    vocabulary: Vocabulary = BytesVocabulary()
    model: Model
    training: OnlineTraining = OnlineTraining()
    block_tokens: int = Field(default=65_536, ge=1, le=1 << 24)
    segment_tokens: int = Field(default=4_096, ge=1, le=1 << 16)
    streams: int = Field(default=1, ge=1, le=1 << 12)

    @model_validator(mode="after")
    def _streams_fit(self) -> Self:
        if self.streams > 1:
            msg = f"a {self.model.kind} model codes one stream, not {self.streams}"
            raise ValueError(msg)
        return self

    @property
    def vocabulary_size(self) -> int:
        """The number of possible tokens, m."""
        return self.vocabulary.size

    @property
    def memory_bytes(self) -> int:
        """Upper bound of what a predictor and a codec of this spec hold, independent of n."""
        return self.model.memory_bytes(self.vocabulary_size) + 16 * self.block_tokens + 256 * self.segment_tokens

    def canonical_bytes(self) -> bytes:
        """The one serialisation of this spec, ASCII."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        fields["format"] = self.format
        fields["model"] = {**fields.get("model", {}), "kind": self.model.kind}
        if "vocabulary" in fields:
            fields["vocabulary"]["kind"] = self.vocabulary.kind
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
