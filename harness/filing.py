"""`codelength compress | decompress | test | list`: files through the file channel; one that fails stops no other."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

from harness import files, terminal
from harness.commands import spec_of
from harness.files import STANDARD, FileError, Manners, Source
from shared.channel.errors import LimitError
from shared.code.errors import CodelengthError, InputError

if TYPE_CHECKING:
    from shared.code.spec import CodeSpec
    from shared.service.filing import Assets, Stored
    from shared.service.limits import Limits
    from shared.service.tokenizing import Octets, OctetTokenizer

R = TypeVar("R")
Work = Callable[[Source], dict[str, Any]]

_LIST_COLUMNS: Final = ("file", "code", "tokens", "bytes", "file bytes", "saved", "bits/byte", "SHA-256")
_AUTO_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A file as tokens: how to read their canonical bytes from the beginning, how many bytes those are, and what they stand for.

    size: None where it is not known. octets: None where the tokens are the file's octets.
    """

    read: Callable[[int], bytes]
    size: int | None
    octets: "Octets | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How files are to be compressed. code: the preset's name. spec: None where it is chosen for each file."""

    code: str
    spec: "CodeSpec | None"
    tokenizer: "OctetTokenizer | None" = None

    @classmethod
    def chosen(
        cls,
        typed: str,
        code: str | dict[str, Any],
        corpus: Path | None,
        steps: int | None,
        regime: str | None,
        tokenizer: Path | None,
        *,
        as_json: bool,
    ) -> Self:
        """What was typed, and the code that it means; ends the command where that makes no sense.

        Without `steps` the corpus is passed once.
        """
        from shared.service.choosing import AUTO
        from shared.service.errors import slug_of

        die = partial(terminal.fail, terminal.USAGE, as_json=as_json)
        loaded = None
        try:
            if tokenizer is not None:
                from shared.service.tokenizing import OctetTokenizer

                loaded = OctetTokenizer.of(tokenizer)
            if code == AUTO:
                if corpus is not None or regime == "frozen":
                    die("auto chooses among codes that learn online and start from nothing")
                return cls(code=AUTO, spec=None, tokenizer=loaded)
            spec = _over(typed, code, loaded, die, as_json=as_json)
            start = spec.start
            if corpus is not None:
                from harness.curve import segments
                from shared.code.spec import Start
                from shared.service.filing import corpus_identity

                held = corpus_identity(corpus, spec.vocabulary, loaded)
                steps = segments(spec, held.tokens) if steps is None else steps
                start = Start(corpus=held.sha256, steps=steps) if steps else None
        except CodelengthError as error:
            die(f"{corpus if loaded else tokenizer}: {error}", slug=slug_of(error))
        frozen = spec.frozen if regime is None else regime == "frozen"
        spec = spec.with_training(frozen=frozen, start=start)
        return cls(code=code if isinstance(code, str) else "", spec=spec, tokenizer=loaded)

    @contextmanager
    def tokens(self, source: Source) -> Iterator[Tokens]:
        """A file's tokens, those of the tokenizer in a file of their own. Raises `FileError` where it does not give them back."""
        if self.tokenizer is None:
            yield Tokens(read=source.read, size=source.size, octets=None)
            return
        from shared.service.errors import InexactTokenizerError, TooLargeError
        from shared.service.tokenizing import read_octets

        with tempfile.TemporaryFile(prefix="codelength-") as file:
            try:
                found = read_octets(self.tokenizer, source, file)
            except (InexactTokenizerError, TooLargeError) as error:
                raise FileError(str(error), slug=error.slug) from None
            file.seek(0)
            yield Tokens(read=file.read, size=found.read.size, octets=found.octets)

    def of(self, read: Callable[[int], bytes]) -> "tuple[CodeSpec, str, Callable[[int], bytes]]":
        """The spec for tokens, the code's name, and how to read them from their beginning."""
        if self.spec is not None:
            return self.spec, self.code, read
        from shared.code.models import preset
        from shared.code.spec import BytesVocabulary
        from shared.code.vocabulary import to_tokens, token_width
        from shared.service.choosing import PART_TOKENS, candidates, choice_name, choose
        from shared.service.limits import Limits

        vocabulary = BytesVocabulary() if self.tokenizer is None else self.tokenizer.vocabulary
        head = read(PART_TOKENS * token_width(vocabulary))
        part, names = to_tokens(head, vocabulary), candidates(vocabulary, Limits().model_bytes)
        # |f| is no part of a file, so the smallest z is the smallest file, whatever n is.
        chosen, _ = choose(vocabulary, part, len(part), dict.fromkeys(names, 0), _AUTO_SECONDS)

        def again(size: int) -> bytes:
            nonlocal head
            first, head = head[:size], head[size:]
            return first + read(size - len(first)) if len(first) < size else first

        return preset(chosen, vocabulary), choice_name(chosen, len(names)), again


def _over(
    typed: str, code: str | dict[str, Any], tokenizer: "OctetTokenizer | None", die: Callable[..., NoReturn], *, as_json: bool
) -> "CodeSpec":
    """The spec over octets, or over a tokenizer's tokens, also where a spec's file says octets."""
    vocabulary = None if tokenizer is None else tokenizer.vocabulary
    spec = spec_of(code, vocabulary, as_json=as_json)
    if isinstance(code, dict) and vocabulary is not None and spec.vocabulary.kind == "bytes":
        spec = spec_of({**code, "vocabulary": vocabulary.model_dump(mode="json")}, as_json=as_json)
    if tokenizer is None and spec.vocabulary.kind != "bytes":
        way = "" if spec.tokenizer is None else ", or what a --tokenizer makes of them"
        die(f"{typed} is a code for token ids; files are octets{way}")
    if tokenizer is not None and spec.vocabulary != vocabulary:
        die(f"{typed} is a code for other tokens than those of {tokenizer.sha256}, of which m = {tokenizer.size}")
    return spec


@contextmanager
def assets(corpora: list[Path], tokenizers: list[Path], *, again: bool) -> "Iterator[Assets]":
    """The files that codes may need. again: whether a model may be needed more than once."""
    from shared.service.filing import Assets

    with ExitStack() as stack:
        keep = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codelength-"))) if corpora and again else None
        progress = stack.enter_context(terminal.Progress("corpus", "steps"))
        yield Assets(corpora, tokenizers, keep=keep, progress=progress.update)


def each(names: list[str], work: Work, *, as_json: bool) -> tuple[list[dict[str, Any]], int]:
    """Do the work for every file; returns what came of each, and the exit status."""
    results: list[dict[str, Any]] = []
    status = 0
    for name in names or [STANDARD]:
        said = "standard input" if name == STANDARD else name
        try:
            with Source(name) as source:
                results.append(work(source))
            continue
        except FileError as error:
            failure = error
        except BrokenPipeError:
            terminal.quit_closed_pipe()
        except OSError as error:
            failure = files.write_failure(error)
        except CodelengthError as error:
            failure = _told(error)
        status = max(status, failure.status)
        terminal.complain(f"{said}: {failure}")
        results.append({"file": said, "error": terminal.error_fields(failure.status, str(failure), failure.slug)})
    if as_json:
        terminal.emit_json({"files": results})
    return results, status


def _told(error: CodelengthError) -> FileError:
    from shared.service.errors import slug_of

    status = terminal.USAGE if isinstance(error, InputError) else terminal.FAILED
    text = str(error)
    if isinstance(error, LimitError) and error.what == "bytes to be written":
        text = f"it holds at least {error.value:,} bytes, --max-size allows {error.limit:,}"
    elif isinstance(error, LimitError) and error.what.startswith("bytes of memory"):
        text = f"its code needs {error.value:,} bytes of memory, --max-memory allows {error.limit:,}"
    elif isinstance(error, LimitError) and error.what.startswith("tokens to train on"):
        text = f"its code trains on {error.value:,} tokens before the data, --max-training allows {error.limit:,}"
    return FileError(text, status=status, slug=slug_of(error))


def compress(source: Source, *, coding: Coding, assets: "Assets", manners: Manners, quiet: bool) -> dict[str, Any]:
    """Compress one file."""
    from shared.service import filing

    def work(file: IO[bytes], progress: "terminal.Progress") -> "Stored":
        with coding.tokens(source) as tokens:
            spec, code, read = coding.of(tokens.read)

            def show(done: int, _: int) -> None:
                progress.update(done, tokens.size)

            return filing.compress(read, file.write, spec, code, octets=tokens.octets, assets=assets, progress=show)

    target = _target(source, manners, files.compressed_name)
    if target is None and sys.stdout.isatty() and not manners.force:
        raise FileError("compressed data is not written to a terminal; redirect it, or use -f")
    stored = _through(source, target, manners, work, quiet=quiet, verify=assets if manners.remove else None)
    size, original = stored.file_bytes, stored.data_bytes
    if target is not None and not quiet:
        share = f" ({100 * size / original:.2f} %)" if original else ""
        choice = f", {stored.code}" if coding.spec is None else ""
        terminal.say(f"{source.name}: {terminal.octets(original)} to {terminal.octets(size)}{share}{choice}, {target}")
    return _result(source, target, stored)


def decompress(
    source: Source, *, assets: "Assets", manners: Manners, max_bytes: int | None, limits: "Limits", quiet: bool
) -> dict[str, Any]:
    """Decompress one file, which may hold several transmissions."""
    from shared.service import filing

    def work(file: IO[bytes], progress: "terminal.Progress") -> "list[Stored]":
        return filing.decompress(
            source.read_some,
            file.write,
            max_bytes=max_bytes,
            assets=assets,
            progress=lambda _, read: progress.update(read, source.size),
            limits=limits,
        )

    _not_typed(source)
    target = _target(source, manners, files.original_name)
    stored = _through(source, target, manners, work, quiet=quiet)
    if target is not None and not quiet:
        size = sum(one.data_bytes for one in stored)
        terminal.say(f"{source.name}: {terminal.octets(size)}, verified, {target}")
    return _result(source, target, *stored)


def test(source: Source, *, assets: "Assets", limits: "Limits", quiet: bool) -> dict[str, Any]:
    """Decode one file and keep nothing."""
    from shared.service import filing

    _not_typed(source)
    with terminal.Progress(source.name, quiet=quiet) as progress:
        stored = filing.decompress(
            source.read_some,
            len,
            assets=assets,
            progress=lambda _, read: progress.update(read, source.size),
            limits=limits,
        )
    return _result(source, None, *stored)


def scan(source: Source) -> dict[str, Any]:
    """Read what one file says of itself."""
    from shared.service import filing

    _not_typed(source)
    return _result(source, None, *filing.scan(source.read_some))


def data_bytes(stored: dict[str, Any]) -> int:
    """Bytes of what a transmission in a file decodes to."""
    return int(stored["bytes"] if stored["octets"] is None else stored["octets"])


def list_table(results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of `list`: a line for every transmission."""
    listed = [(result["file"], one) for result in results for one in result.get("transmissions", ())]
    started, tokenized = (any(one[what] for _, one in listed) for what in ("corpus", "tokenizer"))
    more = (("regime", "k", "corpus") if started else ()) + (("tokenizer",) if tokenized else ())
    rows: list[tuple[str, ...]] = [_LIST_COLUMNS + more]
    for name, one in listed:
        size = data_bytes(one)
        start = (one["regime"], f"{one['steps']:,}", f"{one['corpus'][:16]}…" if one["corpus"] else "none")
        rows.append(
            (
                name,
                one["code"] or "custom",
                f"{one['tokens']:,}",
                f"{size:,}",
                f"{one['file_bytes']:,}",
                f"{100 * (1 - one['file_bytes'] / size):.2f} %" if size else "–",
                f"{one['z_bits'] / size:.4f}" if size else "–",
                one["sha256"][:16] + "…",
                *(start if started else ()),
                *((f"{one['tokenizer'][:16]}…" if one["tokenizer"] else "none",) if tokenized else ()),
            )
        )
    return rows


def _not_typed(source: Source) -> None:
    if source.path is None and source.file.isatty():
        raise FileError("compressed data is not read from a terminal; name a file, or redirect one")


def _target(source: Source, manners: Manners, name: Callable[[Path], Path]) -> Path | None:
    """Where the output goes, None for standard output, if it may go there."""
    target = manners.output
    if target is None and not manners.to_stdout and source.path is not None:
        if not source.regular:
            raise FileError("is not a regular file; say where its output goes with -o or -c")
        target = name(source.path)
    if target is not None and str(target) == STANDARD:
        target = None
    files.check(source, target, manners)
    return target


def _through(
    source: Source,
    target: Path | None,
    manners: Manners,
    work: Callable[[IO[bytes], "terminal.Progress"], R],
    *,
    quiet: bool,
    verify: "Assets | None" = None,
) -> R:
    with terminal.Progress(source.name, quiet=quiet) as progress:
        if target is None:
            out = sys.stdout.buffer
            result = work(out, progress)
            out.flush()
            return result
        with files.writing(target, source, manners) as file:
            result = work(file, progress)
            if verify is not None:
                _verify(file, result, verify)
        if manners.remove:
            if source.path is None or not source.unchanged():
                raise FileError(f"was changed while it was read; it is kept, and {target} too", status=terminal.FAILED)
            source.path.unlink()
        return result


def _verify(file: IO[bytes], expected: Any, assets: "Assets") -> None:
    """Decode what was just written; its SHA-256 must be the input's."""
    from shared.service import filing
    from shared.service.limits import Limits

    file.flush()
    file.seek(0)
    ours = Limits(model_bytes=sys.maxsize, training_tokens=sys.maxsize)
    if filing.decompress(file.read, len, assets=assets, limits=ours) != [expected]:
        raise FileError("what was written does not decode to the input; the input is kept", status=terminal.FAILED)


def _result(source: Source, target: Path | None, *stored: "Stored") -> dict[str, Any]:
    fields: dict[str, Any] = {"file": source.name}
    if target is not None:
        fields["output"] = str(target)
    return {**fields, "transmissions": [asdict(one) for one in stored]}
