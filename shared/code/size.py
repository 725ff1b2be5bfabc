"""|f|, measured: the bits that would tell Bob what f is. Spec + source + assets.

The source of a spec is the import closure, at module level and inside `shared.code`, of the codec and of the spec's model: what a
machine with Python, numpy, numba and pydantic must be told to run this code. It is archived as it stands, comments and
all, and coded with the project's own `ngram`. This module reads no files: it is given the sources.
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shared.code.codec import Encoder
from shared.code.models import preset
from shared.code.spec import CodeSpec, PluginModel, PretrainedModel, Vocabulary
from shared.code.vocabulary import Tokens, to_tokens, token_width

_PACKAGE: Final = "shared.code"


@dataclass(frozen=True, slots=True, kw_only=True)
class FBits:
    """The parts of |f|, in bits."""

    spec: int
    source: int
    assets: int

    @property
    def total(self) -> int:
        """|f|."""
        return self.spec + self.source + self.assets


def source_module(spec: CodeSpec) -> str:
    """The module of f that a spec's code begins with, beside the codec; specs that share it share the source of f."""
    if isinstance(spec.model, PluginModel):
        return f"plugin.{spec.model.source}"
    if isinstance(spec.model, PretrainedModel):
        return f"{_PACKAGE}.models.pretrained"
    return f"{_PACKAGE}.models.{'native' if spec.numerics == 'native' else spec.model.kind}"


def required_modules(spec: CodeSpec, sources: Mapping[str, bytes]) -> tuple[str, ...]:
    """Names of the modules that this spec's code needs, sorted.

    sources: module name (`shared.code.codec`; a package under its own name) to source text. Raises `KeyError` if one lacks.
    """
    wanted = [f"{_PACKAGE}.codec", source_module(spec)]
    if isinstance(spec.model, PretrainedModel):
        wanted.append(f"{_PACKAGE}.pretrained")
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        parts = name.split(".")
        packages = (".".join(parts[:end]) for end in range(2, len(parts)))
        wanted += [*packages, *_imports(sources[name], sources)]
    return tuple(sorted(found))


def _imports(source: bytes, known: Mapping[str, bytes]) -> Iterable[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in known)


def archive(spec: CodeSpec, sources: Mapping[str, bytes]) -> bytes:
    """The required sources as one octet string: for each a line `<name> <bytes>`, then its text."""
    return b"".join(b"%s %d\n%s" % (name.encode(), len(sources[name]), sources[name]) for name in required_modules(spec, sources))


def asset_bits(blocks: Iterable[Tokens], vocabulary: Vocabulary) -> int:
    """What an asset is charged: its canonical bytes as they are or under the `ngram` preset, whichever is less. In bits."""
    encoder = Encoder(preset("ngram", vocabulary))
    tokens = 0
    for block in blocks:
        tokens += len(block)
        for _ in encoder.encode_block(block):
            encoder.drain()
    return min(encoder.finish(), 8 * token_width(vocabulary) * tokens)


def compress(data: bytes) -> tuple[bytes, int]:
    """Code octets with the `ngram` preset; returns z and its length in bits."""
    spec = preset("ngram")
    encoder = Encoder(spec)
    parts: list[bytes] = []
    for start in range(0, len(data), spec.block_tokens):
        block = to_tokens(data[start : start + spec.block_tokens], spec.vocabulary)
        parts.extend(encoder.drain() for _ in encoder.encode_block(block))
    bits = encoder.finish()
    return b"".join([*parts, encoder.drain()]), bits


def measure_f(spec: CodeSpec, sources: Mapping[str, bytes], assets: int = 0) -> FBits:
    """|f| of a spec. assets: what its assets are charged, in bits; see `asset_bits`."""
    _, source_bits = compress(archive(spec, sources))
    return FBits(spec=8 * len(spec.canonical_bytes()), source=source_bits, assets=assets)
