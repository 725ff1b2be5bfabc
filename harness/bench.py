"""`codelength bench`: files × codes × peers, real transmissions and real programs in turn, each decoded and compared.

All competitors take turns over one file, `rounds` times, so that what disturbs the machine disturbs them alike; the fastest turn
counts. Every measurement is written down at once, and what is written is not measured again: a long run can be made in pieces.
A code may have a variant, `recurrent:int8`: int8 and float64 name the back end of its products, native is plain float32. With a
tokenizer it is measured over that one's tokens, as `ngram@tokenizer.json`.
"""

import json
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

from harness import peers
from harness.client import Client, RequestError, Urls
from harness.cluster import Cluster
from harness.commands import vocabulary_of
from shared.code.models import preset

VARIANTS: Final = ("int8", "float64", "native")
_LARGEST: Final = 64_000_000


class BenchError(Exception):
    """What cannot be measured, and why."""


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names) or None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("codelength", "numba", "numpy", "torch")},
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None,
        "date": datetime.now(UTC).date().isoformat(),
    }


def files(data: Path, only: Iterable[str] | None) -> list[Path]:
    """The files of a directory and of those in it, by name. Raises `BenchError`."""
    found = {path.name: path for path in sorted(data.rglob("*")) if path.is_file() and 0 < path.stat().st_size < _LARGEST}
    missing = [name for name in only or () if name not in found]
    if missing or not found:
        raise BenchError(f"{data} has no file {', '.join(missing)}" if missing else f"{data} has no file to measure")
    return [found[name] for name in (list(only) if only is not None else found)]


class Bench:
    """One file of results, `place`, and the services that its measurements need. tokenizer: whose tokens codes get, if any."""

    def __init__(self, place: Path, told: Callable[[str], None], tokenizer: Path | None = None) -> None:
        self._place, self._told, self._tokenizer = place, told, tokenizer
        self._made_by = None if tokenizer is None else sha256(tokenizer.read_bytes()).hexdigest()
        self.document: dict[str, Any] = {"results": []}
        if place.exists():
            self.document = json.loads(place.read_text(encoding="utf-8"))
        self._stack = ExitStack()
        self._clients: dict[str, Client] = {}
        self._warm: set[str] = set()
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, found: list[Path], codes: list[str], others: list[peers.Peer], rounds: int, *, again: bool) -> None:
        """Measure what is not there yet. Raises `BenchError`, `PeerError`, or what a transmission raises."""
        host = machine()
        for file in found:
            digest = sha256(file.read_bytes()).hexdigest()
            ours = {code if self._tokenizer is None else f"{code}@{self._tokenizer.name}": code for code in codes}
            names = [*ours, *(peer.name for peer in others)]
            kept = {
                one["name"]
                for one in self.document["results"]
                if one["sha256"] == digest and one.get("tokenizer") in (None, self._made_by)
            }
            wanted = [name for name in names if again or name not in kept]
            best: dict[str, dict[str, Any]] = {}
            for turn in range(rounds):
                for name in wanted:
                    peer = next((one for one in others if one.name == name), None)
                    measured = self._peer(peer, file) if peer else self._code(ours[name], file)
                    seconds = measured["compress"]["seconds"], measured["decompress"]["seconds"]
                    self._told(f"{file.name}  {name}  {measured['size_bytes']:,} bytes  {seconds[0]:.2f} s  {seconds[1]:.2f} s")
                    best[name] = _better(best.get(name), measured)
                    about = {"file": file.name, "sha256": digest, "bytes": file.stat().st_size, "name": name}
                    self._write({**about, "turns": turn + 1, **best[name], "machine": host})

    def _write(self, entry: dict[str, Any]) -> None:
        same = "sha256", "name"
        others = [one for one in self.document["results"] if any(one[key] != entry[key] for key in same)]
        self.document["results"] = sorted([*others, entry], key=lambda one: (one["file"], one["name"]))
        self._place.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._place.with_suffix(".partial")
        temporary.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._place)

    def _peer(self, peer: peers.Peer, file: Path) -> dict[str, Any]:
        return {"kind": "peer", **peers.measure(peer, file, self._scratch)}

    def _code(self, name: str, file: Path) -> dict[str, Any]:
        base, _, variant = name.partition(":")
        client = self._client(variant if variant in ("int8", "float64") else "")
        code: str | dict[str, Any] = base
        try:
            dataset = client.post_file(file, tokenizer=self._made_by)
        except RequestError as error:
            raise BenchError(f"{file.name}: {error}") from None
        if variant == "native":
            code = json.loads(preset(base).canonical_bytes()) | {"numerics": "native", "vocabulary": vocabulary_of(dataset)}
        if name not in self._warm:  # kernels are compiled and loaded
            client.transmit(client.post_octets(file.read_bytes()[:1000], "warm", self._made_by)["id"], code)
            self._warm.add(name)
        result = client.transmit(dataset["id"], code)
        if result["state"] != "verified":
            raise BenchError(f"{file.name} with {name}: {result['state']}: {(result['error'] or {}).get('detail')}")
        memory, seconds = result["peak_memory_bytes"], result["seconds"]
        return {
            "kind": "code",
            "size_bytes": -(-result["z_bits"] // 8),
            "f_bytes": -(-result["f_bits"]["total"] // 8),
            "compress": {"seconds": seconds["encode"], "peak_memory_bytes": memory["alice"]},
            "decompress": {"seconds": seconds["decode"], "peak_memory_bytes": memory["bob"]},
            "total_seconds": seconds["total"],
            "socket_bytes": result["wire"]["alice_to_bob"]["socket_bytes"],
            "z_bits": result["z_bits"],
            "nll_bits": result["nll_bits"],
            **({} if self._made_by is None else {"tokenizer": self._made_by}),
        }

    def _client(self, products: str) -> Client:
        if products not in self._clients:
            cluster = self._stack.enter_context(Cluster(environment={"CODELENGTH_PRODUCTS": products} if products else None))
            urls = Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)
            self._clients[products] = client = self._stack.enter_context(Client(urls))
            if self._tokenizer is not None:
                client.post_tokenizer(self._tokenizer)
        return self._clients[products]


def _better(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """The turn that took less time to decompress; sizes must be equal."""
    if one is None:
        return other
    if one["size_bytes"] != other["size_bytes"]:
        raise BenchError(f"two sizes of one file: {one['size_bytes']} and {other['size_bytes']} bytes")
    return min(one, other, key=lambda turn: float(turn["decompress"]["seconds"]))
