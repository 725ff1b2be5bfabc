"""Alice, the wire and Bob as processes of this machine, on free ports, with a state directory that goes away with them.

They also end with the process that started them, however that ends, and the directory with them: shells that read a pipe of
which we hold the other end see to it once that end is closed.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import httpx

_READY_SECONDS: Final = 600.0  # the first start compiles every kernel, on a crowded machine for minutes
_RETRY_SECONDS: Final = 10.0  # nobody starts these services again, unless a test does
_END: Final = 'read _; kill -TERM "$1"'
_TIDY: Final = 'read _; sleep 15; rm -rf -- "$1"'
PARTS: Final = ("bob", "alice", "wire")


class StartError(Exception):
    """A service did not come up."""


class _Command(NamedTuple):
    """How a process is started. listening: the variable that names its listening sockets, on `ports`."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    listening: str
    ports: tuple[int, ...]


class Cluster:
    """The three processes, as a context manager. URLs are attributes: `alice`, `bob`, `wire` (the counts).

    warm: presets loaded before the services are ready, all if None. environment: of all services. own: further variables of
    one, by its name. console_port: start the console too, its URL is `console`; it listens there, or where it can if that
    port is taken. parts: which of the three are started here; where Bob is not among them, `bob` is his URL. host: the
    address that Bob listens on.
    """

    def __init__(
        self,
        *,
        quiet: bool = True,
        warm: list[str] | None = None,
        environment: dict[str, str] | None = None,
        own: dict[str, dict[str, str]] | None = None,
        console_port: int | None = None,
        parts: tuple[str, ...] = PARTS,
        bob: str = "",
        host: str = "127.0.0.1",
    ) -> None:
        self._quiet = quiet
        self._parts = parts
        self._host = host
        self._environment = ({} if warm is None else {"CODELENGTH_WARM": ",".join(warm)}) | (environment or {})
        self._own = own or {}
        self._console_port = console_port
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, _Command] = {}
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._watchers: dict[str, subprocess.Popen[bytes]] = {}
        self._pipe: tuple[int, int] | None = None
        self._found: dict[int, socket.socket] = {}  # free ports, kept until their process starts for the first time
        self.alice = self.wire = self.console = ""
        self.bob = bob

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="codelength-")
        self._pipe = os.pipe()
        self._watch("directory", _TIDY, self._directory.name)
        hosts = {"alice": "127.0.0.1", "bob": self._host, "relay": "127.0.0.1", "counts": "127.0.0.1"}
        sockets = {name: socket.create_server((host, 0)) for name, host in hosts.items()}
        ports = {name: one.getsockname()[1] for name, one in sockets.items()}
        self._found = {one.getsockname()[1]: one for one in sockets.values()}
        self.alice, self.wire = (f"http://127.0.0.1:{ports[name]}" for name in ("alice", "counts"))
        if "bob" in self._parts:
            self.bob = f"http://{self._host}:{ports['bob']}"
        common = {
            "CODELENGTH_STATE_DIRECTORY": self._directory.name,
            "CODELENGTH_MAX_CONCURRENT": "1",
            "CODELENGTH_BOB_URL": f"ws://127.0.0.1:{ports['relay']}",
            "CODELENGTH_WIRE_UPSTREAM": self.bob.removeprefix("http://"),
            "CODELENGTH_RETRY_SECONDS": str(_RETRY_SECONDS),
            **self._environment,
        }
        commands = {
            "bob": _Command(("-m", "bob"), common, "CODELENGTH_LISTEN_FD", (ports["bob"],)),
            "alice": _Command(("-m", "alice"), common, "CODELENGTH_LISTEN_FD", (ports["alice"],)),
            "wire": _Command(("-m", "harness.wire"), common, "CODELENGTH_WIRE_LISTEN_FDS", (ports["relay"], ports["counts"])),
        }
        self._commands = {name: commands[name] for name in self._parts}
        if self._console_port is not None:
            free = _free(self._console_port)
            port = free.getsockname()[1]
            self._found[port] = free
            self.console = f"http://127.0.0.1:{port}"
            urls = {"CODELENGTH_CONSOLE_ALICE_URL": self.alice, "CODELENGTH_CONSOLE_BOB_URL": self.bob}
            console = _Command(("-m", "harness.console"), {**common, **urls}, "CODELENGTH_CONSOLE_LISTEN_FD", (port,))
            self._commands["console"] = console
        try:
            for name in self._commands:
                self._start(name)
            self._release()
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in list(self._watchers):
            self._unwatch(name)
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._release()
        if self._directory is not None:
            self._directory.cleanup()

    def _release(self) -> None:
        """Ports that no process has taken, since it is not started here, are free again."""
        while self._found:
            self._found.popitem()[1].close()

    @property
    def directory(self) -> Path:
        """Where the services keep their state."""
        assert self._directory is not None
        return Path(self._directory.name)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The process of `alice`, `bob`, `wire` or `console`."""
        return self._processes[name]

    def log(self, name: str) -> str:
        """What a process wrote to standard error."""
        assert self._directory is not None
        return (Path(self._directory.name) / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def start(self, name: str) -> None:
        """Start `alice`, `bob` or `wire` again, on the same port and directory, once its process has ended."""
        self._processes[name].wait(30)
        self._start(name)

    def _start(self, name: str) -> None:
        assert self._directory is not None
        command = self._commands[name]
        with contextlib.ExitStack() as stack:
            log = stack.enter_context((Path(self._directory.name) / f"{name}.log").open("ab"))
            host = self._host if name == "bob" else "127.0.0.1"
            sockets = [stack.enter_context(self._socket(host, port)) for port in command.ports]
            numbers = ",".join(str(one.fileno()) for one in sockets)
            self._processes[name] = subprocess.Popen(
                [sys.executable, *command.arguments],
                env={**os.environ, **command.environment, command.listening: numbers, **self._own.get(name, {})},
                pass_fds=[one.fileno() for one in sockets],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if self._quiet else None,
                start_new_session=True,  # Ctrl-C is for us, who then stop them
            )
            self._watch(name, _END, str(self._processes[name].pid))

    def _watch(self, name: str, script: str, argument: str) -> None:
        assert self._pipe is not None
        self._unwatch(name)
        self._watchers[name] = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", argument],
            stdin=self._pipe[0],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _unwatch(self, name: str) -> None:
        watcher = self._watchers.pop(name, None)
        if watcher is not None:
            watcher.kill()
            watcher.wait()

    def _socket(self, host: str, port: int) -> socket.socket:
        return self._found.pop(port) if port in self._found else socket.create_server((host, port))

    def _wait(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        urls = {"bob": self.bob, "alice": self.alice, "wire": self.wire, "console": self.console}
        for name, url in urls.items():
            if name in self._processes:
                wait_ready(url, deadline, partial(self._check, name))

    def _check(self, name: str) -> None:
        if self._processes[name].poll() is not None:
            raise StartError(f"{name} ended at its start:\n{self.log(name)}")


def _free(port: int) -> socket.socket:
    """A socket that listens on the port, or on another one if it is taken."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return socket.create_server(("127.0.0.1", 0))


def wait_ready(url: str, deadline: float, check: object = None, *, patience: float | None = None) -> None:
    """Ask /readyz until it answers 200. Raises `StartError` at the deadline (of `time.monotonic`).

    patience: seconds that a service may not be there at all; until the deadline where none is given.
    """
    started = time.monotonic()
    while True:
        if callable(check):
            check()
        why = ""
        try:
            answer = httpx.get(f"{url}/readyz", timeout=5, trust_env=False)
            if answer.status_code == 200:
                return
            if answer.status_code != 503:
                raise StartError(f"{url} is no service of codelength: /readyz answered HTTP {answer.status_code}")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise StartError(f"{url!r} is no URL of a service; one looks like http://127.0.0.1:8001") from None
        except httpx.HTTPError as error:
            why = f": {str(error).rpartition('] ')[2] or type(error).__name__}".lower()
            if patience is not None and time.monotonic() - started > patience:
                raise StartError(f"{url} cannot be reached{why}; start it, or check the URL") from None
        if time.monotonic() > deadline:
            raise StartError(f"{url} was not ready in time{why}")
        time.sleep(0.05)
