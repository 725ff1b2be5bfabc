"""What a sweep is: a TOML file, datasets × sizes × codes × seeds × k, and the trials that follow from it.

A trial's key is the SHA-256 of all that determines what it measures: D, the spec (the corpus and k are in it), and f's sources.
This module reads files and starts nothing.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from shared.code.errors import InputError
from shared.code.models import PRESETS, spec_of
from shared.code.spec import BytesVocabulary, CodeSpec, Start, Vocabulary
from shared.code.vocabulary import dataset_digest, to_tokens, token_width
from shared.service import forms
from shared.service.errors import ServiceError
from shared.service.kernels import sources_digest
from shared.service.tokenizing import OctetTokenizer, read_octets

_PART_BYTES: Final = 1 << 20
_CANONICAL: Final = ".canonical"
_OCTETS: Final = ".octets"
ONLINE: Final = "online"


class GridError(Exception):
    """A grid that makes no sweep."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Data(_Table):
    """A file of data: its path from the grid's directory, and what it is. tokenizer: that of the one whose tokens are meant."""

    path: str
    form: Literal["octets", "json", "npy", "uint16"] = "octets"
    vocabulary_size: int | None = None
    tokenizer: str | None = None

    @model_validator(mode="after")
    def _tokenizer_is_for_octets(self) -> Self:
        if self.tokenizer is not None and (self.form != "octets" or self.vocabulary_size is not None):
            msg = "a tokenizer is for octets, and says itself what m is"
            raise ValueError(msg)
        return self

    def by(self, tokenizer: str | None) -> Self:
        """The same data by a tokenizer, where they are octets and none has been named."""
        plain = self.form == "octets" and self.vocabulary_size is None and self.tokenizer is None
        return self.model_copy(update={"tokenizer": tokenizer}) if plain else self


def _as_table(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


DataOrPath = Annotated[Data, BeforeValidator(_as_table)]


class Grid(_Table):
    """A sweep as its file says it; README and docs/scale.md describe the fields."""

    datasets: list[DataOrPath] = Field(min_length=1)
    sizes: list[Annotated[int, Field(ge=1)]] = []
    codes: list[str] = Field(min_length=1)
    specs: dict[str, dict[str, Any]] = {}
    seeds: list[Annotated[int, Field(ge=0, lt=1 << 20)]] = []
    steps: list[Literal["online"] | Annotated[int, Field(ge=0, le=1 << 40)]] = Field(default=[ONLINE], min_length=1)
    corpus: DataOrPath | None = None

    def by(self, tokenizer: Path) -> Self:
        """The same grid with this tokenizer for all octets for which it names none."""
        return self.model_copy(update={"datasets": [data.by(str(tokenizer.resolve())) for data in self.datasets]})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a grid. Raises `GridError`."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise GridError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the grid"
            raise GridError(f"{path}: {place}: {first['msg']}") from None
        except ValueError as error:  # TOML, and what is no text
            raise GridError(f"{path}: is no TOML ({error})") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Data ready to be given to a service: a file, its form, and its identity. size: what was asked for, in tokens; 0 for all.

    tokenizer: the file of the one that makes the tokens of octets, if one does.
    """

    name: str
    path: Path
    form: Literal["octets", "npy"]
    vocabulary: Vocabulary
    tokens: int
    sha256: str
    size: int = 0
    tokenizer: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One transmission to be made. k: steps on the corpus, p^(k) then being frozen; None is online."""

    key: str
    dataset: Held
    corpus: Held | None
    code: str
    spec: CodeSpec
    seed: int | None
    k: int | None

    @property
    def title(self) -> str:
        """How it is told of in one line."""
        size = f"[:{self.dataset.size:,}]" if self.dataset.size else ""
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.dataset.name}{size} {self.code}{seed} {ONLINE if self.k is None else f'k = {self.k:,}'}"

    @property
    def request(self) -> tuple[str | dict[str, Any], dict[str, Any]]:
        """The code and the training, as Alice is asked for them: a preset by its name where that says all."""
        training: dict[str, Any] = {"regime": self.spec.training.kind}
        if self.spec.start is not None:
            training |= {"corpus": self.spec.start.corpus, "steps": self.spec.start.steps}
        if self.code in PRESETS:
            plain = spec_of(self.code, self.spec.vocabulary)
            if plain.with_training(frozen=self.spec.frozen, start=self.spec.start) == self.spec:
                return self.code, training
        return self.spec.model_dump(mode="json"), training


def trials(grid: Grid, root: Path, place: Path) -> list[Trial]:
    """All trials of a grid, each once, in the order of its lists; `place` gets the data as services take it.

    root: the directory that paths in the grid start from. Raises `GridError`.
    """
    if grid.corpus is None and any(k not in (ONLINE, 0) for k in grid.steps):
        raise GridError("steps above 0 need a corpus to take them on")
    place.mkdir(parents=True, exist_ok=True)
    files, found = _Files(root, place), dict[str, Trial]()
    for data in grid.datasets:
        corpus = None if grid.corpus is None else files.corpus(grid.corpus.by(data.tokenizer))
        for dataset in files.held(data, grid.sizes):
            for code in grid.codes:
                for trial in _of_code(grid, root, dataset, corpus, code):
                    found.setdefault(trial.key, trial)
    return list(found.values())


def _of_code(grid: Grid, root: Path, dataset: Held, corpus: Held | None, code: str) -> Iterator[Trial]:
    plain = _spec(grid, root, code, dataset.vocabulary)
    for k in grid.steps:
        start = None
        if k == ONLINE:
            spec = plain.with_training(frozen=False, start=None)
        else:
            if corpus is not None and k:
                if corpus.vocabulary != dataset.vocabulary:
                    sizes = f"m = {corpus.vocabulary.size:,} and {dataset.vocabulary.size:,}"
                    raise GridError(f"corpus {corpus.name} and {dataset.name} have different vocabularies, {sizes}")
                start = Start(corpus=corpus.sha256, steps=int(k))
            spec = plain.with_training(frozen=True, start=start)
        for seeded, seed in _seeded(spec, grid.seeds):
            yield Trial(
                key=key_of(dataset.sha256, seeded),
                dataset=dataset,
                corpus=corpus if start is not None else None,
                code=code,
                spec=seeded,
                seed=seed,
                k=None if k == ONLINE else int(k),
            )


def key_of(sha256: str, spec: CodeSpec) -> str:
    """What a trial measures, as a SHA-256: D, the spec with corpus and k, and f's sources."""
    return hashlib.sha256(f"codelength trial 1\n{sha256}\n{spec.digest()}\n{sources_digest()}\n".encode()).hexdigest()


def _seeded(spec: CodeSpec, seeds: list[int]) -> Iterator[tuple[CodeSpec, int | None]]:
    """The spec with each seed of its initial weights; once, as it is, where none is asked for, or nothing is seeded."""
    seed = getattr(spec.model, "seed", None)
    if seed is None or not seeds:
        yield spec, seed
        return
    for one in seeds:
        yield spec.model_copy(update={"model": spec.model.model_copy(update={"seed": one})}), one


def _spec(grid: Grid, root: Path, code: str, vocabulary: Vocabulary) -> CodeSpec:
    """The spec of a preset, of [specs.NAME], or of a JSON file; over the dataset's vocabulary where it names none."""
    fields: Any = code
    if code in grid.specs:
        fields = grid.specs[code]
    elif code.endswith(".json"):
        try:
            fields = json.loads((root / code).read_bytes())
        except OSError as error:
            raise GridError(f"code {code}: {(error.strerror or 'cannot be read').lower()}") from None
        except (ValueError, RecursionError):
            raise GridError(f"code {code}: is not JSON") from None
    if isinstance(fields, dict):
        fields = {"vocabulary": vocabulary.model_dump(mode="json"), **fields}
    try:
        spec = spec_of(fields, vocabulary)
    except InputError as error:
        raise GridError(f"code {code}: {error}") from None
    if spec.vocabulary != vocabulary:
        raise GridError(f"code {code} is for m = {spec.vocabulary_size:,}, a dataset has m = {vocabulary.size:,}")
    return spec


class _Files:
    """The files of a grid, as services take them, in `place`, each named by its identity: of its tokens, or of itself."""

    def __init__(self, root: Path, place: Path) -> None:
        self._root, self._place = root, place
        self._corpora: dict[Data, Held] = {}
        self._tokenizers: dict[str, tuple[OctetTokenizer, Path]] = {}

    def corpus(self, data: Data) -> Held:
        """A corpus, made once. Raises `GridError`."""
        if data not in self._corpora:
            self._corpora[data] = next(self.held(data, []))
        return self._corpora[data]

    def held(self, data: Data, sizes: list[int]) -> Iterator[Held]:
        """The data, or its beginnings of so many tokens where sizes are given. Raises `GridError`."""
        path = self._root / data.path
        try:
            yield from self._plain(data, path, sizes) if data.tokenizer is None else self._tokenized(data.tokenizer, path, sizes)
        except OSError as error:
            raise GridError(f"{error.filename or path}: {(error.strerror or str(error)).lower()}") from None
        except (InputError, ServiceError) as error:
            raise GridError(f"{path}: {error}") from None
        finally:
            for name in (_CANONICAL, _OCTETS):
                (self._place / name).unlink(missing_ok=True)

    def _plain(self, data: Data, path: Path, sizes: list[int]) -> Iterator[Held]:
        with path.open("rb") as source, (self._place / _CANONICAL).open("w+b") as file:
            vocabulary, tokens, _, sha256 = forms.read(data.form, source, file, data.vocabulary_size)
            if not sizes:
                yield _keep(file, path.name, vocabulary, tokens, sha256, 0, self._place)
            for size in sizes:
                part = min(size, tokens)
                yield _keep(file, path.name, vocabulary, part, _identity(file, vocabulary, part), size, self._place)

    def _tokenized(self, named: str, path: Path, sizes: list[int]) -> Iterator[Held]:
        """The octets, by a tokenizer; or those of its first so many tokens, of which it may make a token more or less."""
        tokenizer, kept = self._tokenizer(named)
        name = f"{path.name}@{Path(named).name}"
        if sizes and not tokenizer.byte_level:
            raise GridError(f"{path}: sizes need a byte-level tokenizer, {named} is none")
        with (
            path.open("rb") as source,
            (self._place / _CANONICAL).open("w+b") as ids,
            (self._place / _OCTETS).open("w+b") as file,
        ):
            whole = read_octets(tokenizer, source, ids)
            for size in sizes or [0]:
                read, octets = whole
                if 0 < size < read.tokens:
                    octets_bytes = sum(len(tokenizer.decode(part)) for part in _ids(ids, read.vocabulary, size))
                    _copy(source, file, octets_bytes)
                    file.seek(0)
                    with Path(os.devnull).open("wb") as nowhere:
                        read, octets = read_octets(tokenizer, file, nowhere)
                place = self._place / read.sha256
                with place.open("wb") as target:
                    _copy(source, target, octets.size)
                yield Held(
                    name=name,
                    path=place,
                    form="octets",
                    vocabulary=read.vocabulary,
                    tokens=read.tokens,
                    sha256=read.sha256,
                    size=size,
                    tokenizer=kept,
                )

    def _tokenizer(self, named: str) -> tuple[OctetTokenizer, Path]:
        """A tokenizer, loaded once, and its file in `place`."""
        if named not in self._tokenizers:
            path = self._root / named
            try:
                loaded = OctetTokenizer.of(path)
            except (InputError, ServiceError) as error:
                raise GridError(f"{path}: {error}") from None
            kept = self._place / loaded.sha256
            kept.write_bytes(path.read_bytes())
            self._tokenizers[named] = loaded, kept
        return self._tokenizers[named]


def _ids(file: IO[bytes], vocabulary: Vocabulary, count: int) -> Iterator[list[int]]:
    for part in _parts(file, count * token_width(vocabulary)):
        yield to_tokens(part, vocabulary).tolist()


def _copy(source: IO[bytes], target: IO[bytes], count: int) -> None:
    """The first so many bytes, in place of what the target holds."""
    target.seek(0)
    target.truncate()
    for part in _parts(source, count):
        target.write(part)
    target.flush()


def _identity(file: IO[bytes], vocabulary: Vocabulary, tokens: int) -> str:
    digest = dataset_digest(vocabulary)
    for part in _parts(file, tokens * token_width(vocabulary)):
        digest.update(part)
    return digest.hexdigest()


def _parts(file: IO[bytes], count: int) -> Iterator[bytes]:
    file.seek(0)
    while count and (part := file.read(min(count, _PART_BYTES))):
        count -= len(part)
        yield part


def _keep(file: IO[bytes], name: str, vocabulary: Vocabulary, tokens: int, sha256: str, size: int, place: Path) -> Held:
    octets = isinstance(vocabulary, BytesVocabulary)
    path, partial = place / sha256, place / f"{sha256}.partial"
    if not path.exists():
        with partial.open("wb") as target:
            for part in _parts(file, tokens * token_width(vocabulary)):
                target.write(part)
        if not octets:
            canonical = partial.rename(place / f"{sha256}.canonical")
            with partial.open("wb") as target:
                forms.write("npy", canonical, vocabulary, target)
            canonical.unlink()
        partial.replace(path)
    form: Literal["octets", "npy"] = "octets" if octets else "npy"
    return Held(name=name, path=path, form=form, vocabulary=vocabulary, tokens=tokens, sha256=sha256, size=size)
