"""Assets that both sides hold, by SHA-256: corpora that codes start from, and tokenizers. Routes, the same at both, and use."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel

from shared.code.errors import CorpusError, TokenizerError
from shared.code.size import asset_bits
from shared.code.spec import CodeSpec, Vocabulary
from shared.service.app import PROBLEMS, Held, Services
from shared.service.auth import require_token
from shared.service.coding import read_blocks
from shared.service.errors import ConflictError, NotFoundError, TooLargeError
from shared.service.limits import training_tokens
from shared.service.records import Corpus, Tokenizer
from shared.service.starts import Origin
from shared.service.store import A
from shared.service.tokenizing import MAX_FILE_BYTES, OctetTokenizer
from shared.service.uploads import FILE_UPLOAD, UPLOAD, Asked, Name, Upload, Wanted, tokenizer_path, uploaded

_EXAMPLE: Final = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
AssetId = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{64}$", description="its SHA-256", examples=[_EXAMPLE])]


class CorpusList(BaseModel):
    """Corpora, oldest first."""

    corpora: list[Corpus]


class TokenizerList(BaseModel):
    """Tokenizers, oldest first."""

    tokenizers: list[Tokenizer]


def origin_of(held: Services, spec: CodeSpec) -> tuple[Origin | None, int]:
    """Where a spec starts from at this service, None for p^(0), and what |f| is charged for all its assets, in bits.

    Raises `CorpusError` or `TokenizerError` where one is not held, or is of another vocabulary, and `TooLargeError` where it
    would be trained on for longer than is allowed.
    """
    origin, charged = None, 0
    if spec.tokenizer is not None:
        charged += _tokenizer_bits(held, spec.tokenizer, spec.vocabulary_size)
    if spec.start is None:
        return origin, charged
    tokens, most = training_tokens(spec), held.settings.max_training_tokens
    if tokens > most:
        raise TooLargeError(f"training on {tokens} tokens before the data", most, "CODELENGTH_MAX_TRAINING_TOKENS")
    sha256 = spec.start.corpus
    try:
        corpus = held.store.asset(Corpus, sha256)
    except NotFoundError:
        raise CorpusError(sha256, f"{held.name.capitalize()} does not hold it; POST it to /corpora there") from None
    if corpus.as_vocabulary() != spec.vocabulary:
        told = f"it has m = {corpus.vocabulary_size}, the code m = {spec.vocabulary_size}"
        if corpus.vocabulary_size == spec.vocabulary_size:
            told = f"it is of the tokenizer {corpus.tokenizer}, the code of {spec.tokenizer}"
        raise CorpusError(sha256, told)
    settings, store = held.settings, held.store
    origin = Origin(corpus=str(store.object(sha256)), snapshots=str(store.snapshots), max_bytes=settings.max_snapshot_bytes)
    return origin, charged + corpus.asset_bits


def _tokenizer_bits(held: Services, sha256: str, vocabulary_size: int) -> int:
    tokenizer_path(held, sha256)
    tokenizer = held.store.asset(Tokenizer, sha256)
    if tokenizer.vocabulary_size != vocabulary_size:
        raise TokenizerError(sha256, f"it has m = {tokenizer.vocabulary_size}, the code m = {vocabulary_size}")
    return tokenizer.asset_bits


def _asset_bits(path: Path, vocabulary: Vocabulary) -> int:
    from shared.code.models import preset

    with path.open("rb") as file:
        return asset_bits(read_blocks(file.read, preset("ngram", vocabulary)), vocabulary)


def asset_routes() -> APIRouter:
    """The routes."""
    router = APIRouter(dependencies=[Depends(require_token)], responses=PROBLEMS)

    @router.post(
        "/corpora",
        status_code=201,
        tags=["corpora"],
        responses={200: {"model": Corpus, "description": "It was held already"}},
        openapi_extra=UPLOAD,
    )
    async def post_corpus(request: Request, held: Held, response: Response, asked: Asked) -> Corpus:
        """Keep a corpus, in any form that a dataset may have; what f is charged for it is measured, a second for a megabyte."""
        async with uploaded(request, held, asked) as upload:

            def make() -> Corpus:
                return Corpus(**upload.dataset().model_dump(), asset_bits=_asset_bits(upload.path, upload.vocabulary))

            return await _keep(held, Corpus, upload, response, make)

    @router.post(
        "/tokenizers",
        status_code=201,
        tags=["tokenizers"],
        responses={200: {"model": Tokenizer, "description": "It was held already"}},
        openapi_extra=FILE_UPLOAD,
    )
    async def post_tokenizer(request: Request, held: Held, response: Response, name: Name = "") -> Tokenizer:
        """Keep a tokenizer, the JSON of the package `tokenizers`; it is loaded once, and what f is charged for it is measured."""
        async with uploaded(request, held, Wanted(name=name, form="octets", vocabulary_size=None, tokenizer=None)) as upload:
            if upload.size > MAX_FILE_BYTES:
                raise TooLargeError(f"a tokenizer of {upload.size} bytes", MAX_FILE_BYTES, "of this version")

            def make() -> Tokenizer:
                found = OctetTokenizer(upload.path, upload.sha256)
                return Tokenizer(
                    id=upload.sha256,
                    sha256=upload.sha256,
                    vocabulary_size=found.size,
                    byte_level=found.byte_level,
                    bytes=upload.size,
                    name=upload.name,
                    asset_bits=_asset_bits(upload.path, upload.vocabulary),
                )

            return await _keep(held, Tokenizer, upload, response, make)

    @router.get("/corpora", tags=["corpora"])
    async def list_corpora(held: Held) -> CorpusList:
        """All corpora held."""
        return CorpusList(corpora=held.store.assets(Corpus))

    @router.get("/tokenizers", tags=["tokenizers"])
    async def list_tokenizers(held: Held) -> TokenizerList:
        """All tokenizers held."""
        return TokenizerList(tokenizers=held.store.assets(Tokenizer))

    @router.get("/corpora/{identifier}", tags=["corpora"])
    async def get_corpus(held: Held, identifier: AssetId) -> Corpus:
        """One corpus's record."""
        return held.store.asset(Corpus, identifier)

    @router.get("/tokenizers/{identifier}", tags=["tokenizers"])
    async def get_tokenizer(held: Held, identifier: AssetId) -> Tokenizer:
        """One tokenizer's record."""
        return held.store.asset(Tokenizer, identifier)

    @router.delete("/corpora/{identifier}", status_code=204, tags=["corpora"])
    async def delete_corpus(held: Held, identifier: AssetId) -> None:
        """Forget a corpus; not while a transmission starts from it."""
        if any(item.corpus == identifier and not item.settled for item in held.registry.all()):
            raise ConflictError(f"a transmission starts from the corpus {identifier}; cancel it first")
        held.store.delete_asset(Corpus, identifier)

    @router.delete("/tokenizers/{identifier}", status_code=204, tags=["tokenizers"])
    async def delete_tokenizer(held: Held, identifier: AssetId) -> None:
        """Forget a tokenizer; not while a transmission needs it."""
        if any(item.dataset.tokenizer == identifier and not item.settled for item in held.registry.all()):
            raise ConflictError(f"a transmission needs the tokenizer {identifier}; cancel it first")
        held.store.delete_asset(Tokenizer, identifier)

    return router


async def _keep(held: Services, kind: type[A], upload: Upload, response: Response, make: Callable[[], A]) -> A:
    """Keep what was uploaded, its record made by `make` in a thread; if it was held already, in place of what is kept."""
    with contextlib.suppress(NotFoundError):
        known = held.store.asset(kind, upload.sha256)
        if held.store.object(upload.sha256).exists():
            response.status_code = 200
        held.store.adopt(upload.path, upload.sha256)  # what is kept may have been damaged
        return known
    record = await asyncio.to_thread(make)
    held.store.adopt(upload.path, upload.sha256)
    held.store.put_asset(record)
    return record
