"""Other compressors, run as the programs that they are: command templates, each result decoded and compared.

A template's words may contain {input}, {packed} and {output}; a command without the name of what it makes writes that to standard
output. Commands run in a directory of their own, without a shell, one core each where the program can be told so.
"""

import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final


class PeerError(Exception):
    """A configuration that does not describe peers, or a command that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A compressor. suffix: what its packed files must end in."""

    name: str
    compress: str
    decompress: str
    suffix: str = ""

    @property
    def installed(self) -> bool:
        """Whether both programs are found."""
        return all(shutil.which(command.split()[0]) for command in (self.compress, self.decompress))


PEERS = (
    Peer(name="gzip -9", compress="gzip -9 -c {input}", decompress="gzip -dc {packed}"),
    Peer(name="bzip2 -9", compress="bzip2 -9 -c {input}", decompress="bzip2 -dc {packed}"),
    Peer(name="xz -9e", compress="xz -9e -T1 -c {input}", decompress="xz -dc -T1 {packed}"),
    Peer(name="zstd -22", compress="zstd --ultra -22 --single-thread -q -c {input}", decompress="zstd -dqc {packed}"),
    Peer(name="brotli -q 11", compress="brotli -q 11 -w 24 -c {input}", decompress="brotli -dc {packed}"),
    *(
        Peer(
            name=f"7z PPMd o{order}",
            compress=f"7z a -m0=PPMd:o={order}:mem=256m -mmt=1 -bso0 -bsp0 {{packed}} {{input}}",
            decompress="7z x -so -bsp0 {packed}",
            suffix=".7z",
        )
        for order in (6, 16)
    ),
    Peer(
        name="zpaq -m5",
        compress="zpaq add {packed} {input} -m5 -t1",
        decompress="zpaq extract {packed} {input} -to {output} -t1",
        suffix=".zpaq",
    ),
)


def read(path: Path) -> list[Peer]:
    """Peers of a TOML file: tables [[peer]] with name, compress, decompress and maybe suffix. Raises `PeerError`."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("peer", [])
        return [Peer(**table) for table in tables]
    except OSError as error:
        raise PeerError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise PeerError(f"{path}: [[peer]] has name, compress, decompress and maybe suffix ({error})") from None


def measure(peer: Peer, file: Path, scratch: Path) -> dict[str, Any]:
    """Pack, unpack and compare. Seconds are wall clock; `processor_seconds` are what a busy machine does not stretch."""
    place = scratch / "peer"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copyfile(file, place / "input")
    names = {"input": "input", "packed": f"packed{peer.suffix}", "output": "output"}
    packing = _run(peer.compress, names, "packed", place)
    unpacking = _run(peer.decompress, names, "output", place)
    if _digest(place / "output") != _digest(file):
        raise PeerError(f"{peer.name} gave back another file than {file.name}")
    return {
        "size_bytes": (place / names["packed"]).stat().st_size,
        "compress": packing,
        "decompress": unpacking,
    }


def _digest(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()


def _run(template: str, names: dict[str, str], made: str, place: Path) -> dict[str, Any]:
    words = [word.format(**names) for word in template.split()]
    output = "" if f"{{{made}}}" in template else names[made]
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, output, *words]
    done = subprocess.run(launch, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (place / names[made]).is_file():
        last = done.stderr.strip().rpartition("\n")[2]
        raise PeerError(f"{' '.join(words)}: exit status {done.returncode}: {last}")
    seconds, processor_seconds, peak = map(float, done.stdout.split())
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "processor_seconds": processor_seconds, "peak_memory_bytes": unit * int(peak)}


# A process's peak memory begins with that of the one that started it: so a small one starts the command, and tells.
_LAUNCH: Final = """
import os, sys, time
output, *words = sys.argv[1:]
flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
actions = [(os.POSIX_SPAWN_OPEN, 1, output or os.devnull, flags, 0o600)]
started = time.perf_counter()
_, status, used = os.wait4(os.posix_spawnp(words[0], words, os.environ, file_actions=actions), 0)
seconds = time.perf_counter() - started
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(max(os.waitstatus_to_exitcode(status), 0) or int(status != 0))
"""
