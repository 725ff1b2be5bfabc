"""`codelength` for scripts: forked from a process that has imported everything, in 50 ms instead of a second.

`serve(DIRECTORY)` puts an executable of that name there. It hands its open files, arguments, directory and environment to the
process that serves, which forks; the child is then as if it had been started so, but for what importing would read, umask and limits (`PATH=${PATH#*:}` in a script gets the real one).
"""

import atexit
import fcntl
import gc
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
files = [int(one) for one in os.listdir("/proc/self/fd")]
server = socket.socket(socket.AF_UNIX)
files = [one for one in files if os.path.exists(f"/proc/self/fd/{{one}}") and one != server.fileno()]
server.connect({address!r})
head = json.dumps([files, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(head).to_bytes(4, "big")], files)
server.sendall(head)
status = os.waitstatus_to_exitcode(int(server.recv(16) or b"9"))
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def leave(main: Callable[[], None]) -> NoReturn:
    """Run it, and end without taking the interpreter apart, which would take longer than most commands."""
    status: int | str | None = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    if isinstance(status, str):
        print(status, file=sys.stderr)  # noqa: T201
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def serve(directory: Path) -> None:
    """Fork a process for every command, until killed."""
    from shared.service.kernels import prepare_kernel_cache

    prepare_kernel_cache()  # before numba is imported
    import harness.cli
    import harness.filing
    import shared.code.models.mixing
    import shared.code.models.ngram
    import shared.service.choosing  # noqa: F401

    address = directory / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)
    client = directory / "codelength"
    client.write_text(_CLIENT.format(python=os.path.realpath(sys.executable), address=str(address)), encoding="utf-8")
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    gc.freeze()
    print("ready", flush=True)  # noqa: T201
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        length, files, _, _ = socket.recv_fds(connection, 4, 256)
        head = b""
        while len(head) < int.from_bytes(length, "big"):
            head += connection.recv(1 << 16)
        numbers, arguments, place, environment = json.loads(head)
        if child := os.fork():
            for one in (0, 1, 2, *files):
                os.close(one)  # so that readers see the end
            connection.sendall(b"%d" % os.waitpid(child, 0)[1])
            os._exit(0)
        connection.close()
        for number, kept in zip(numbers, [fcntl.fcntl(one, fcntl.F_DUPFD, 200) for one in files], strict=True):
            os.dup2(kept, number)
        os.closerange(200, 456)
        os.chdir(place)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["codelength", *arguments]
        leave(harness.cli.main)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
