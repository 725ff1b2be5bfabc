"""Corpora: data that both sides hold so that codes may start from it. The routes, the same at both services, and their use."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel

from shared.code.errors import CorpusError
from shared.code.size import asset_bits
from shared.code.spec import CodeSpec, Vocabulary
from shared.service.app import PROBLEMS, Held, Services
from shared.service.auth import require_token
from shared.service.coding import read_blocks
from shared.service.errors import ConflictError, NotFoundError, TooLargeError
from shared.service.limits import training_tokens
from shared.service.records import Corpus
from shared.service.starts import Origin
from shared.service.uploads import UPLOAD, FormOrNone, Name, SizeOrNone, uploaded

_EXAMPLE: Final = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
CorpusId = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{64}$", description="the corpus's SHA-256", examples=[_EXAMPLE])]


class CorpusList(BaseModel):
    """Corpora, oldest first."""

    corpora: list[Corpus]


def origin_of(held: Services, spec: CodeSpec) -> tuple[Origin | None, int]:
    """Where a spec starts from at this service, and what |f| is charged for it, in bits; None and 0 where it starts from p^(0).

    Raises `CorpusError` where the corpus is not held, or is of another vocabulary, and `TooLargeError` where it would be trained
    on for longer than is allowed.
    """
    if spec.start is None:
        return None, 0
    tokens, most = training_tokens(spec), held.settings.max_training_tokens
    if tokens > most:
        raise TooLargeError(f"training on {tokens} tokens before the data", most, "CODELENGTH_MAX_TRAINING_TOKENS")
    sha256 = spec.start.corpus
    try:
        corpus = held.store.corpus(sha256)
    except NotFoundError:
        raise CorpusError(sha256, f"{held.name.capitalize()} does not hold it; POST it to /corpora there") from None
    if corpus.as_vocabulary() != spec.vocabulary:
        raise CorpusError(sha256, f"it has m = {corpus.vocabulary_size}, the code m = {spec.vocabulary_size}")
    settings, store = held.settings, held.store
    origin = Origin(corpus=str(store.object(sha256)), snapshots=str(store.snapshots), max_bytes=settings.max_snapshot_bytes)
    return origin, corpus.asset_bits


def _asset_bits(path: Path, vocabulary: Vocabulary) -> int:
    from shared.code.models import preset

    with path.open("rb") as file:
        return asset_bits(read_blocks(file.read, preset("ngram", vocabulary)), vocabulary)


def corpora_routes() -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["corpora"], dependencies=[Depends(require_token)], responses=PROBLEMS)

    @router.post(
        "/corpora",
        status_code=201,
        responses={200: {"model": Corpus, "description": "It was held already"}},
        openapi_extra=UPLOAD,
    )
    async def post_corpus(
        request: Request,
        held: Held,
        response: Response,
        name: Name = "",
        form: FormOrNone = None,
        vocabulary_size: SizeOrNone = None,
    ) -> Corpus:
        """Keep a corpus, in any form that a dataset may have; what f is charged for it is measured, a second for a megabyte."""
        async with uploaded(request, held, name, form, vocabulary_size) as upload:
            with contextlib.suppress(NotFoundError):
                known = held.store.corpus(upload.sha256)
                if held.store.object(upload.sha256).exists():
                    response.status_code = 200
                held.store.adopt(upload.path, upload.sha256)  # what is kept may have been damaged
                return known
            charged = await asyncio.to_thread(_asset_bits, upload.path, upload.vocabulary)
            held.store.adopt(upload.path, upload.sha256)
        corpus = Corpus(**upload.dataset().model_dump(), asset_bits=charged)
        held.store.put_corpus(corpus)
        return corpus

    @router.get("/corpora")
    async def list_corpora(held: Held) -> CorpusList:
        """All corpora held."""
        return CorpusList(corpora=held.store.corpora())

    @router.get("/corpora/{identifier}")
    async def get_corpus(held: Held, identifier: CorpusId) -> Corpus:
        """One corpus's record."""
        return held.store.corpus(identifier)

    @router.delete("/corpora/{identifier}", status_code=204)
    async def delete_corpus(held: Held, identifier: CorpusId) -> None:
        """Forget a corpus; not while a transmission starts from it."""
        if any(item.corpus == identifier and not item.settled for item in held.registry.all()):
            raise ConflictError(f"a transmission starts from the corpus {identifier}; cancel it first")
        held.store.delete_corpus(identifier)

    return router
