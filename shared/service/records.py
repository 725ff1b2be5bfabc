"""What the services tell about datasets, codes and transmissions: the JSON of every interface, in one place."""

import base64
import contextlib
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from shared.channel.ledger import DirectionLedger, Measure
from shared.channel.legs import Leg
from shared.code.models import PRESETS, preset
from shared.code.plugins import PLUGINS, require
from shared.code.pretrained import PRETRAINED
from shared.code.size import FBits, archive, compress, source_module
from shared.code.spec import BytesVocabulary, CodeSpec, IdsVocabulary, PretrainedModel, Vocabulary
from shared.code.vocabulary import token_width
from shared.service.kernels import code_sources

State = Literal["queued", "running", "paused", "interrupted", "verified", "failed", "cancelled"]
FINAL_STATES: Final = ("interrupted", "verified", "failed", "cancelled")
"""In `interrupted` nothing runs; `resuming` tells whether this side will go on by itself."""


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


class Dataset(BaseModel):
    """A dataset D. `id` is its identity, the SHA-256; `bytes` the length of its canonical form; m is `vocabulary_size`.

    Where a tokenizer made the ids, `tokenizer` is the SHA-256 of its file, and `octets` and `octets_sha256` are of what it read.
    """

    id: str
    sha256: str
    vocabulary: Literal["bytes", "ids"]
    vocabulary_size: int
    tokens: int | None
    bytes: int | None
    media_type: str
    name: str
    tokenizer: str | None = None
    octets: int | None = None
    octets_sha256: str | None = None
    created_at: datetime = Field(default_factory=now)

    def as_vocabulary(self) -> Vocabulary:
        """The vocabulary, as a spec has it."""
        if self.vocabulary == "bytes":
            return BytesVocabulary()
        return IdsVocabulary(size=self.vocabulary_size, tokenizer=self.tokenizer)


class Corpus(Dataset):
    """Data that both sides hold and codes may start from. `asset_bits` is what |f| is charged for it."""

    asset_bits: int


class Tokenizer(BaseModel):
    """A tokenizer's file that both sides hold, by its SHA-256. `asset_bits` is what |f| is charged for it; m, `vocabulary_size`.

    byte_level: whether data of any length, and octets that are not UTF-8, can be coded.
    """

    id: str
    sha256: str
    vocabulary_size: int
    byte_level: bool
    bytes: int
    name: str
    asset_bits: int
    created_at: datetime = Field(default_factory=now)


class CodeReference(BaseModel):
    """A code f: the preset's name, the digest of the spec's canonical bytes, and the spec."""

    name: str
    digest: str
    spec: dict[str, Any]

    @classmethod
    def of(cls, name: str, spec: CodeSpec) -> "CodeReference":
        """The reference to a spec."""
        return cls(name=name, digest=spec.digest(), spec=spec.model_dump(mode="json"))


class FBitsRecord(BaseModel):
    """|f| in bits, and its parts."""

    spec: int
    source: int
    assets: int
    total: int

    @classmethod
    def of(cls, bits: FBits) -> "FBitsRecord":
        """The record of a measured |f|."""
        return cls(spec=bits.spec, source=bits.source, assets=bits.assets, total=bits.total)

    def plus(self, bits: FBits, times: int = 1) -> "FBitsRecord":
        """With another code's |f| on top: in full, although both share sources."""
        parts = {name: getattr(self, name) + times * getattr(bits, name) for name in ("spec", "source", "assets")}
        return FBitsRecord.of(FBits(**parts))


class Reconstruction(BaseModel):
    """What Bob holds, and whether it is D."""

    sha256: str | None = None
    verified: bool = False


class Transmission(BaseModel):
    """One transmission as one side sees it. Bits are exact sums; rates are null where they are undefined.

    steps: k. regime: whether k grows while D is sent. corpus: what both sides trained on before.
    ranks: processes of this side that share the streams of its network; 1 for any other code, and where they cannot be shared.
    nll_bits: Σ −log2 p. z_bits: length of the code. wire: the ledger, bytes as this side sent and received them.
    queue_position: 1 for the next one, where the state is `queued`.
    resuming: whether this side goes on by itself, without being asked.
    notes: what somebody should know who trusts the result, in sentences. choice: where the code is `auto`, what each
    candidate made of D's first part: `code`, `tokens`, `nll_bits`, `seconds`, and `sk_bits`, S_k if all of D went so, null where
    time ran out. auto_seconds: the time for that.
    rollbacks: how often native models diverged and D went on in another leg. abandoned_bytes: z that crossed and was given up for
    that; S_k and the rates count it, `nll_bits` and `z_bits` do not. leg: the present leg, where it is not the first.
    """

    id: str
    state: State = "queued"
    queue_position: int | None = None
    resuming: bool = False
    sent_z_bytes: int = Field(default=0, description="how far the leg's z was ever sent, or received")
    dataset: Dataset
    code: CodeReference
    regime: Literal["online", "frozen"] = "online"
    corpus: str | None = None
    auto_seconds: float | None = None
    send_f: bool = False
    ranks: int = 1
    steps: int = 0
    tokens_done: int = 0
    f_bits: FBitsRecord
    nll_bits: float = 0.0
    z_bits: int = 0
    rollbacks: int = 0
    abandoned_bytes: int = 0
    leg: dict[str, int | str] | None = None
    s0_bits: float | None = None
    sk_bits: float | None = None
    compression_rate: float | None = None
    compression_rate_net_of_f: float | None = None
    bits_per_token: float | None = None
    bits_per_byte: float | None = None
    wire: dict[str, Any] = Field(default_factory=lambda: wire([], final=False))
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_memory_bytes: int | None = None
    reconstruction: Reconstruction = Field(default_factory=Reconstruction)
    error: dict[str, Any] | None = None
    notes: list[str] = Field(default_factory=list)
    choice: list[dict[str, Any]] | None = None
    created_at: datetime = Field(default_factory=now)
    finished_at: datetime | None = None

    @property
    def settled(self) -> bool:
        """Whether neither state nor ledger will change any more."""
        return self.state in FINAL_STATES and not self.resuming and bool(self.wire["final"])

    def leg_begun(self) -> Leg:
        """The present leg."""
        return Leg(**self.leg) if self.leg else Leg()  # type: ignore[arg-type]

    def measure(self) -> None:
        """Fill in the derived figures, over the tokens coded so far; octets of a tokenizer in proportion until all are."""
        dataset, tokens = self.dataset, self.tokens_done
        size = tokens * token_width(dataset.as_vocabulary())
        if dataset.octets is not None:
            size = dataset.octets if tokens == dataset.tokens else dataset.octets * tokens // max(1, dataset.tokens or 1)
        figures = Measure(
            f_bits=self.f_bits.total,
            tokens=tokens,
            vocabulary_size=dataset.vocabulary_size,
            nll_bits=self.nll_bits,
            abandoned_bits=8 * self.abandoned_bytes,
            dataset_bytes=size,
        )
        for name, value in figures.as_dict().items():
            setattr(self, name, value)


class Code(BaseModel):
    """A preset: its spec over octets, and |f|."""

    name: str
    digest: str
    spec: dict[str, Any]
    f_bits: FBitsRecord
    summary: str


def coded_sources() -> dict[str, tuple[bytes, int]]:
    """By `source_module`, the coded source archives of f, and of f with each plugin that is held here.

    And under `files.SHA-256`, without a code, what is charged for each pretrained model.
    """
    plugins = {f"plugin.{one.model.source}": one for one in PLUGINS.values()}
    sources = code_sources() | {module: one.source for module, one in plugins.items()} if plugins else {}
    coded = {module: compress(archive(preset(one.name), sources)) for module, one in plugins.items()}
    return _own_sources() | coded | {f"files.{digest}": (b"", one.charge()) for digest, one in PRETRAINED.items()}


def _own_sources() -> dict[str, tuple[bytes, int]]:
    """By `source_module`, f's source archive, and the length of its code in bits; kept beside the kernels of the same f."""
    place = os.environ.get("NUMBA_CACHE_DIR")
    if place is None:
        return _compressed_sources()
    kept = Path(place) / "sources.json"
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        fields = json.loads(kept.read_bytes())
        return {module: (base64.b64decode(code, validate=True), int(bits)) for module, (code, bits) in fields.items()}
    found = _compressed_sources()
    written = json.dumps({module: (base64.b64encode(code).decode("ascii"), bits) for module, (code, bits) in found.items()})
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=place) as directory:
        (Path(directory) / kept.name).write_text(written, encoding="ascii")
        (Path(directory) / kept.name).replace(kept)
    return found


def _compressed_sources() -> dict[str, tuple[bytes, int]]:
    found: dict[str, tuple[bytes, int]] = {}
    specs = [preset(name) for name, one in PRESETS.items() if not one.local]
    pretrained = PretrainedModel(files="0" * 64, parameters=1, layers=1, width=1)  # any: the source is the same
    for spec in [
        *specs,
        preset("recurrent").model_copy(update={"numerics": "native"}),
        CodeSpec(model=pretrained, numerics="native", segment_tokens=1),
    ]:
        if source_module(spec) not in found:
            found[source_module(spec)] = compress(archive(spec, code_sources()))
    return found


def measured_f(spec: CodeSpec, sources: dict[str, tuple[bytes, int]], assets: int = 0, choice: int = 0) -> FBits:
    """|f| of a spec whose source archive is coded. assets, choice: bits charged for its corpus, and for having been chosen.

    Raises `PluginError` or `PretrainedError` where what the spec names is not held here.
    """
    require(spec)
    if isinstance(spec.model, PretrainedModel):
        assets += sources[f"files.{spec.model.files}"][1]
    return FBits(spec=8 * len(spec.canonical_bytes()) + choice, source=sources[source_module(spec)][1], assets=assets)


def codes(sources: dict[str, tuple[bytes, int]]) -> list[Code]:
    """All presets."""
    out = []
    for name, entry in PRESETS.items():
        spec = preset(name)
        reference = CodeReference.of(name, spec)
        f_bits = FBitsRecord.of(measured_f(spec, sources))
        out.append(Code(**reference.model_dump(), f_bits=f_bits, summary=entry.summary))
    return out


def wire(connections: list[dict[str, Any]], *, final: bool) -> dict[str, Any]:
    """The ledger of one side: every connection, and their sums."""
    totals = {}
    for direction in ("sent", "received"):
        total = DirectionLedger(tcp_retransmitted_bytes=0, tcp_info_bytes=0)
        for connection in connections:
            total.add(DirectionLedger(**connection[direction]))
        totals[direction] = total.as_dict()
    return {**totals, "connections": connections, "final": final}
