"""What commands say and how they end: results to standard output, sentences and progress to standard error, exit statuses.

With --json a failed command also prints one object, {"error": {"type", "title", "detail", "status"}}, so that whoever reads
standard output as JSON always finds JSON there.
"""

import os
import sys
import time
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import typer

FAILED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
LEDGER: Final = 4
INTERRUPTED: Final = 130
CLOSED_PIPE: Final = 141  # as a shell reports a program that SIGPIPE ended
TERMINATED: Final = 143

_TITLES: Final = {
    FAILED: ("failed", "Failed"),
    USAGE: ("invalid-input", "Wrong usage or input"),
    UNAVAILABLE: ("unavailable", "Services unavailable"),
    LEDGER: ("ledger", "The ledger does not hold"),
}


def fail(status: int, text: str, *, as_json: bool = False, slug: str | None = None) -> NoReturn:
    """End the command with a sentence."""
    complain(text)
    if as_json:
        emit_json({"error": error_fields(status, text, slug)})
    raise typer.Exit(status)


def complain(text: str) -> None:
    """What went wrong, on standard error."""
    say(f"codelength: {text}")


def say(text: str) -> None:
    """A line on standard error."""
    typer.echo(text, err=True)


def error_fields(status: int, text: str, slug: str | None = None) -> dict[str, Any]:
    """An error as commands print it with --json; `status` is the exit status."""
    name, title = _TITLES[status]
    return {"type": f"urn:codelength:problem:{slug or name}", "title": title, "detail": text, "status": status}


def emit(text: str) -> None:
    """A line of the result. A reader who has gone away ends the command quietly, as with any filter."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        quit_closed_pipe()
    except OSError as error:
        _drop_output()
        complain(f"standard output cannot be written: {(error.strerror or str(error)).lower()}")
        raise typer.Exit(FAILED) from None


def emit_json(value: Any) -> None:
    """The result as one JSON object."""
    import json

    emit(json.dumps(value, indent=2, ensure_ascii=False))


def quit_closed_pipe() -> NoReturn:
    """End quietly; what is still buffered goes nowhere."""
    _drop_output()
    raise typer.Exit(CLOSED_PIPE)


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def has_desktop() -> bool:
    """Whether somebody sits at a terminal beside a desktop that could show a page. CI=1 says that nobody does."""
    desktop = sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return desktop and sys.stdout.isatty() and os.environ.get("CI", "") in ("", "0", "false")


def octets(count: int) -> str:
    """A number of bytes for people."""
    return f"{count:,} byte{'' if count == 1 else 's'}"


class Progress:
    """One line on standard error, rewritten ten times a second; nothing at all where that is no terminal."""

    def __init__(self, label: str, unit: str = "bytes", *, quiet: bool = False) -> None:
        self._label = label
        self._unit = unit
        self._visible = sys.stderr.isatty() and not quiet
        self._started = time.monotonic()
        self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def note(self, text: str) -> None:
        """Say a line, above the one that is rewritten."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            self._shown = 0.0
        say(text)

    def update(self, done: int, total: int | None, state: str = "") -> None:
        """Show how much is done, at which rate, and how long the rest will take, where the total is known."""
        now = time.monotonic()
        if not self._visible or now - self._shown < 0.1:
            return
        self._shown = now
        rate = done / max(now - self._started, 1e-9)
        parts = [f"{done:,} of {total:,} {self._unit}" if total is not None else f"{done:,} {self._unit}"]
        if state:
            parts.insert(0, state)
        if rate:
            parts.append(f"{rate / 1e6:.2f} M/s")
            if total is not None:
                parts.append(f"{max(total - done, 0) / rate:.0f} s left")
        sys.stderr.write(f"\r\x1b[K{self._label}: {', '.join(parts)}")
        sys.stderr.flush()
