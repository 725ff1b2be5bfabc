"""The file channel's manners, those of xz and zstd: which file becomes which, what is never overwritten, what is removed when.

An output appears under its name whole, or not at all: it is written beside it, synced, and then given the name. This module
does not know how anything is coded.
"""

import contextlib
import errno
import os
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

from harness.terminal import FAILED, USAGE
from shared.channel.stored import SUFFIX

STANDARD: Final = "-"


class FileError(Exception):
    """One file cannot be used. The text is one sentence without the file's name."""

    def __init__(self, text: str, *, status: int = USAGE, slug: str = "invalid-input") -> None:
        super().__init__(text)
        self.status = status
        self.slug = slug


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """What the options say. output: -o. to_stdout: -c. force: -f. remove: --rm."""

    output: Path | None = None
    to_stdout: bool = False
    force: bool = False
    remove: bool = False


class Source:
    """An input, open. `size` is None where it cannot be known. Use as a context manager."""

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == STANDARD else name
        self.path = None if name == STANDARD else Path(name)
        self.file: IO[bytes] = _open(self.path) if self.path is not None else sys.stdin.buffer
        self.status = os.fstat(self.file.fileno())
        self.regular = stat.S_ISREG(self.status.st_mode)
        self.size = self.status.st_size if self.regular and self.status.st_size else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.path is not None:
            self.file.close()

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end. Raises `FileError`."""
        return _told(self.file.read, size)

    def read_some(self, size: int) -> bytes:
        """What there is, at most `size` bytes, none only at the end. Raises `FileError`."""
        return _told(self.file.read1, size)  # type: ignore[attr-defined]

    def unchanged(self) -> bool:
        """Whether the path still names the file that was read, as it was read."""
        if self.path is None:
            return False
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return all(getattr(found, name) == getattr(self.status, name) for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns"))


def _told(read: Callable[[int], bytes], size: int) -> bytes:
    try:
        return read(size)
    except OSError as error:
        raise FileError(f"cannot be read: {reason(error)}", status=FAILED, slug="io") from None


def _open(path: Path) -> IO[bytes]:
    try:
        file = path.open("rb")
    except IsADirectoryError:
        raise FileError("is a directory; name the files in it, or pack them with tar first") from None
    except FileNotFoundError:
        raise FileError("no such file") from None
    except OSError as error:
        raise FileError(f"cannot be opened: {reason(error)}") from None
    return file


def compressed_name(path: Path) -> Path:
    """Where the compressed form of a file goes. Raises `FileError`."""
    if path.suffix == SUFFIX:
        raise FileError(f"has the suffix {SUFFIX} already; name the output with -o to compress it again")
    return path.with_name(path.name + SUFFIX)


def original_name(path: Path) -> Path:
    """Where the original of a compressed file goes. Raises `FileError`."""
    if path.suffix != SUFFIX or path.name == SUFFIX:
        raise FileError(f"does not end in {SUFFIX}; name the output with -o")
    return path.with_suffix("")


def check(source: Source, target: Path | None, manners: Manners) -> None:
    """Refuse, before any work, what must not be done. target: None for standard output. Raises `FileError`."""
    if manners.remove:
        if target is None:
            raise FileError("--rm needs an output file; what goes to standard output may be lost")
        if source.path is None or not source.regular or source.path.is_symlink():
            raise FileError("--rm removes regular files only")
    if target is None:
        return
    try:
        found = target.stat()
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise FileError(f"{target.parent} is no directory to write to") from None
        return
    except OSError as error:
        raise FileError(f"{target} cannot be written: {reason(error)}") from None
    if stat.S_ISDIR(found.st_mode):
        raise FileError(f"{target} is a directory; name a file with -o")
    if not stat.S_ISREG(found.st_mode):
        raise FileError(f"{target} is not a regular file; write to it with -c and a redirection")
    if (found.st_dev, found.st_ino) == (source.status.st_dev, source.status.st_ino):
        raise FileError(f"{target} is the input itself")
    if not manners.force:
        raise FileError(f"{target} exists already; use -f to overwrite it, or -o to name another file")


@contextlib.contextmanager
def writing(target: Path, source: Source, manners: Manners) -> Iterator[IO[bytes]]:
    """A file that gets the target's name, and the source's mode and times, if all goes well; else nothing is left."""
    temporary = target.with_name(f".codelength-{uuid.uuid4().hex[:12]}.partial")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            if source.regular:
                with contextlib.suppress(OSError):
                    os.fchmod(file.fileno(), stat.S_IMODE(source.status.st_mode) & 0o777)
                    os.utime(file.fileno(), ns=(source.status.st_atime_ns, source.status.st_mtime_ns))
            os.fsync(file.fileno())
        if manners.force:
            temporary.replace(target)
        else:
            _give_name(temporary, target)
        _sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _give_name(temporary: Path, target: Path) -> None:
    """Rename, but never over a file that came meanwhile."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        raise FileError(f"{target} came to exist meanwhile; use -f to overwrite it") from None
    except OSError:  # a file system without links
        temporary.replace(target)


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):
        number = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def reason(error: OSError) -> str:
    """Why the system refused, in its words, and what to do where that is clear."""
    text = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}; make room, or write elsewhere with -o"
    return text


def write_failure(error: OSError) -> FileError:
    """Writing failed half-way; nothing half-made is left."""
    return FileError(f"its output cannot be written: {reason(error)}", status=FAILED, slug="io")
