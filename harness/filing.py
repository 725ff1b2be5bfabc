"""`codelength compress | decompress | test | list`: files through the file channel; one that fails stops no other."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self, TypeVar

from harness import files, terminal
from harness.commands import spec_of
from harness.files import STANDARD, FileError, Manners, Source
from shared.channel.errors import LimitError, describe
from shared.code.errors import CodelengthError, InputError

if TYPE_CHECKING:
    from shared.code.spec import CodeSpec
    from shared.service.filing import Corpora, Stored
    from shared.service.limits import Limits

R = TypeVar("R")
Work = Callable[[Source], dict[str, Any]]

_LIST_COLUMNS: Final = ("file", "code", "tokens", "bytes", "file bytes", "saved", "bits/byte", "SHA-256")
_AUTO_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How files are to be compressed. code: the preset's name. spec: None where it is chosen for each file."""

    code: str
    spec: "CodeSpec | None"

    @classmethod
    def chosen(
        cls, typed: str, code: str | dict[str, Any], corpus: Path | None, steps: int | None, regime: str | None, *, as_json: bool
    ) -> Self:
        """What was typed, and the code that it means; ends the command where that makes no sense.

        Without `steps` the corpus is passed once.
        """
        from shared.service.choosing import AUTO

        if code == AUTO:
            if corpus is not None or regime == "frozen":
                said = "auto chooses among codes that learn online and start from nothing"
                terminal.fail(terminal.USAGE, said, as_json=as_json)
            return cls(code=AUTO, spec=None)
        spec = spec_of(code, as_json=as_json)
        if spec.vocabulary.kind != "bytes":
            terminal.fail(terminal.USAGE, f"{typed} is a code for token ids; files are octets", as_json=as_json)
        start = spec.start
        if corpus is not None:
            from harness.curve import segments
            from shared.code.spec import Start
            from shared.service.filing import corpus_digest

            steps = segments(spec, corpus.stat().st_size) if steps is None else steps
            start = Start(corpus=corpus_digest(corpus, spec.vocabulary), steps=steps) if steps else None
        frozen = spec.frozen if regime is None else regime == "frozen"
        return cls(code=code if isinstance(code, str) else "", spec=spec.with_training(frozen=frozen, start=start))

    def of(self, source: Source) -> "tuple[CodeSpec, str, Callable[[int], bytes]]":
        """The spec for one file, the code's name, and how to read the file from its beginning."""
        if self.spec is not None:
            return self.spec, self.code, source.read
        from shared.code.models import preset
        from shared.code.spec import BytesVocabulary
        from shared.code.vocabulary import to_tokens
        from shared.service.choosing import PART_TOKENS, candidates, choice_name, choose
        from shared.service.limits import Limits

        octets, head = BytesVocabulary(), source.read(PART_TOKENS)
        names = candidates(octets, Limits().model_bytes)
        # |f| is no part of a file, so the smallest z is the smallest file, whatever n is.
        chosen, _ = choose(octets, to_tokens(head, octets), len(head), dict.fromkeys(names, 0), _AUTO_SECONDS)

        def read(size: int) -> bytes:
            nonlocal head
            part, head = head[:size], head[size:]
            return part + source.read(size - len(part)) if len(part) < size else part

        return preset(chosen, octets), choice_name(chosen, len(names)), read


@contextmanager
def corpora(paths: list[Path], *, again: bool) -> "Iterator[Corpora]":
    """The files from which codes may start. again: whether a model may be needed more than once."""
    from shared.service.filing import Corpora

    with ExitStack() as stack:
        keep = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codelength-"))) if paths and again else None
        progress = stack.enter_context(terminal.Progress("corpus", "steps"))
        yield Corpora(paths, keep=keep, progress=progress.update)


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
    status = terminal.USAGE if isinstance(error, InputError) else terminal.FAILED
    text = str(error)
    if isinstance(error, LimitError) and error.what == "bytes to be written":
        text = f"it holds at least {error.value:,} bytes, --max-size allows {error.limit:,}"
    elif isinstance(error, LimitError) and error.what.startswith("bytes of memory"):
        text = f"its code needs {error.value:,} bytes of memory, --max-memory allows {error.limit:,}"
    elif isinstance(error, LimitError) and error.what.startswith("tokens to train on"):
        text = f"its code trains on {error.value:,} tokens before the data, --max-training allows {error.limit:,}"
    return FileError(text, status=status, slug=describe(error).slug)


def compress(source: Source, *, coding: Coding, corpora: "Corpora", manners: Manners, quiet: bool) -> dict[str, Any]:
    """Compress one file."""
    from shared.service import filing

    def work(file: IO[bytes], progress: "terminal.Progress") -> "Stored":
        spec, code, read = coding.of(source)

        def show(done: int, _: int) -> None:
            progress.update(done, source.size)

        return filing.compress(read, file.write, spec, code, corpora=corpora, progress=show)

    target = _target(source, manners, files.compressed_name)
    if target is None and sys.stdout.isatty() and not manners.force:
        raise FileError("compressed data is not written to a terminal; redirect it, or use -f")
    stored = _through(source, target, manners, work, quiet=quiet, verify=corpora if manners.remove else None)
    size, original = stored.file_bytes, stored.bytes
    if target is not None and not quiet:
        share = f" ({100 * size / original:.2f} %)" if original else ""
        choice = f", {stored.code}" if coding.spec is None else ""
        terminal.say(f"{source.name}: {terminal.octets(original)} to {terminal.octets(size)}{share}{choice}, {target}")
    return _result(source, target, stored)


def decompress(
    source: Source, *, corpora: "Corpora", manners: Manners, max_bytes: int | None, limits: "Limits", quiet: bool
) -> dict[str, Any]:
    """Decompress one file, which may hold several transmissions."""
    from shared.service import filing

    def work(file: IO[bytes], progress: "terminal.Progress") -> "list[Stored]":
        return filing.decompress(
            source.read_some,
            file.write,
            max_bytes=max_bytes,
            corpora=corpora,
            progress=lambda _, read: progress.update(read, source.size),
            limits=limits,
        )

    _not_typed(source)
    target = _target(source, manners, files.original_name)
    stored = _through(source, target, manners, work, quiet=quiet)
    if target is not None and not quiet:
        size = sum(one.bytes for one in stored)
        terminal.say(f"{source.name}: {terminal.octets(size)}, verified, {target}")
    return _result(source, target, *stored)


def test(source: Source, *, corpora: "Corpora", limits: "Limits", quiet: bool) -> dict[str, Any]:
    """Decode one file and keep nothing."""
    from shared.service import filing

    _not_typed(source)
    with terminal.Progress(source.name, quiet=quiet) as progress:
        stored = filing.decompress(
            source.read_some,
            len,
            corpora=corpora,
            progress=lambda _, read: progress.update(read, source.size),
            limits=limits,
        )
    return _result(source, None, *stored)


def scan(source: Source) -> dict[str, Any]:
    """Read what one file says of itself."""
    from shared.service import filing

    _not_typed(source)
    return _result(source, None, *filing.scan(source.read_some))


def list_table(results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of `list`: a line for every transmission."""
    listed = [(result["file"], one) for result in results for one in result.get("transmissions", ())]
    started = any(one["corpus"] for _, one in listed)
    rows: list[tuple[str, ...]] = [_LIST_COLUMNS + (("regime", "k", "corpus") if started else ())]
    for name, one in listed:
        size = one["bytes"]
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
    verify: "Corpora | None" = None,
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


def _verify(file: IO[bytes], expected: Any, corpora: "Corpora") -> None:
    """Decode what was just written; its SHA-256 must be the input's."""
    from shared.service import filing
    from shared.service.limits import Limits

    file.flush()
    file.seek(0)
    ours = Limits(model_bytes=sys.maxsize, training_tokens=sys.maxsize)
    if filing.decompress(file.read, len, corpora=corpora, limits=ours) != [expected]:
        raise FileError("what was written does not decode to the input; the input is kept", status=terminal.FAILED)


def _result(source: Source, target: Path | None, *stored: "Stored") -> dict[str, Any]:
    fields: dict[str, Any] = {"file": source.name}
    if target is not None:
        fields["output"] = str(target)
    return {**fields, "transmissions": [asdict(one) for one in stored]}
