"""`codelength compress | decompress | test | list`: files through the file channel; one that fails stops no other."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from harness import files, terminal
from harness.files import STANDARD, FileError, Manners, Source
from shared.channel.errors import LimitError, describe
from shared.code.errors import CodelengthError, InputError

if TYPE_CHECKING:
    from shared.code.spec import CodeSpec
    from shared.service.filing import Stored

R = TypeVar("R")
Work = Callable[[Source], dict[str, Any]]

_LIST_COLUMNS: Final = ("file", "code", "tokens", "bytes", "file bytes", "saved", "bits/byte", "SHA-256")


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
    return FileError(text, status=status, slug=describe(error).slug)


def compress(source: Source, *, spec: "CodeSpec", code: str, manners: Manners, quiet: bool) -> dict[str, Any]:
    """Compress one file."""
    from shared.service import filing

    def work(file: IO[bytes], progress: "terminal.Progress") -> "Stored":
        return filing.compress(source.read, file.write, spec, code, progress=lambda done, _: progress.update(done, source.size))

    target = _target(source, manners, files.compressed_name)
    if target is None and sys.stdout.isatty() and not manners.force:
        raise FileError("compressed data is not written to a terminal; redirect it, or use -f")
    stored = _through(source, target, manners, work, quiet=quiet, verify=manners.remove)
    size, original = stored.file_bytes, stored.bytes
    if target is not None and not quiet:
        share = f" ({100 * size / original:.2f} %)" if original else ""
        terminal.say(f"{source.name}: {terminal.octets(original)} to {terminal.octets(size)}{share}, {target}")
    return _result(source, target, stored)


def decompress(source: Source, *, manners: Manners, max_bytes: int | None, max_model_bytes: int, quiet: bool) -> dict[str, Any]:
    """Decompress one file, which may hold several transmissions."""
    from shared.service import filing

    def work(file: IO[bytes], progress: "terminal.Progress") -> "list[Stored]":
        return filing.decompress(
            source.read_some,
            file.write,
            max_bytes=max_bytes,
            max_model_bytes=max_model_bytes,
            progress=lambda _, read: progress.update(read, source.size),
        )

    _not_typed(source)
    target = _target(source, manners, files.original_name)
    stored = _through(source, target, manners, work, quiet=quiet)
    if target is not None and not quiet:
        size = sum(one.bytes for one in stored)
        terminal.say(f"{source.name}: {terminal.octets(size)}, verified, {target}")
    return _result(source, target, *stored)


def test(source: Source, *, max_model_bytes: int, quiet: bool) -> dict[str, Any]:
    """Decode one file and keep nothing."""
    from shared.service import filing

    _not_typed(source)
    with terminal.Progress(source.name, quiet=quiet) as progress:
        stored = filing.decompress(
            source.read_some,
            len,
            max_model_bytes=max_model_bytes,
            progress=lambda _, read: progress.update(read, source.size),
        )
    return _result(source, None, *stored)


def scan(source: Source) -> dict[str, Any]:
    """Read what one file says of itself."""
    from shared.service import filing

    _not_typed(source)
    return _result(source, None, *filing.scan(source.read_some))


def list_table(results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of `list`: a line for every transmission."""
    rows: list[tuple[str, ...]] = [_LIST_COLUMNS]
    for result in results:
        for one in result.get("transmissions", ()):
            size = one["bytes"]
            rows.append(
                (
                    result["file"],
                    one["code"] or "custom",
                    f"{one['tokens']:,}",
                    f"{size:,}",
                    f"{one['file_bytes']:,}",
                    f"{100 * (1 - one['file_bytes'] / size):.2f} %" if size else "–",
                    f"{one['z_bits'] / size:.4f}" if size else "–",
                    one["sha256"][:16] + "…",
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
    verify: bool = False,
) -> R:
    with terminal.Progress(source.name, quiet=quiet) as progress:
        if target is None:
            out = sys.stdout.buffer
            result = work(out, progress)
            out.flush()
            return result
        with files.writing(target, source, manners) as file:
            result = work(file, progress)
            if verify:
                _verify(file, result)
        if manners.remove:
            if source.path is None or not source.unchanged():
                raise FileError(f"was changed while it was read; it is kept, and {target} too", status=terminal.FAILED)
            source.path.unlink()
        return result


def _verify(file: IO[bytes], expected: Any) -> None:
    """Decode what was just written; its SHA-256 must be the input's."""
    from shared.service import filing

    file.flush()
    file.seek(0)
    if filing.decompress(file.read, len) != [expected]:
        raise FileError("what was written does not decode to the input; the input is kept", status=terminal.FAILED)


def _result(source: Source, target: Path | None, *stored: "Stored") -> dict[str, Any]:
    fields: dict[str, Any] = {"file": source.name}
    if target is not None:
        fields["output"] = str(target)
    return {**fields, "transmissions": [asdict(one) for one in stored]}
