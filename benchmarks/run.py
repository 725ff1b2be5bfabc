"""Measure end to end: `python -m benchmarks.run [--data DIR] [--codes a,b] [--label NAME]`.

Writes docs/results/<label>.json and rewrites the marked tables.

One run transmits every file with every preset through a private Alice, wire and Bob. The numbers of other machines and
data stay: each label has its own file, and the tables are made of all files.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.client import Client, Urls
from harness.cluster import Cluster
from harness.sample import sample_text

ROOT = Path(__file__).parents[1]
MARK, END = "make bench", "<!-- /table -->"


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names) or None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numba", "numpy", "torch", "websockets", "uvicorn")},
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None,
        "date": datetime.now(UTC).date().isoformat(),
    }


def files(data: Path | None, scratch: Path) -> list[Path]:
    """The files to send, smaller than 64 MB."""
    if data is None:
        (scratch / "sample").write_bytes(sample_text())
        return [scratch / "sample"]
    return sorted(p for p in data.iterdir() if p.is_file() and p.stat().st_size < 64_000_000)


def memory(data: bytes) -> dict[str, int]:
    """Peak memory of both sides for this dataset, in a cluster of its own."""
    with Cluster() as cluster, Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as client:
        client.transmit(client.post_octets(data[:100_000], "warm")["id"], "ngram")
        result = client.transmit(client.post_octets(data, "memory")["id"], "ngram")
        found: dict[str, int] = result["peak_memory_bytes"]
        return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--codes", help="presets, separated by commas; all if not given")
    parser.add_argument("--label", help="name of the results; the directory's if not given")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        found = files(options.data, Path(scratch))
        with Cluster() as cluster, Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as client:
            for path in found:
                dataset = client.post_file(path)["id"]
                for code in options.codes.split(",") if options.codes else [code["name"] for code in client.codes()]:
                    result = client.transmit(dataset, code)
                    print(path.name, code, result["state"], result["seconds"]["total"], file=sys.stderr)
                    results.append({"file": path.name, **result})
        text = max(found, key=lambda path: path.stat().st_size).read_bytes()
        text = (text * (10_000_000 // len(text) + 1))[:10_000_000]
        small, large = memory(text[:1_000_000]), memory(text)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "harness.cli", "--help"], capture_output=True, check=True)
    document = {
        "machine": machine(),
        "help_seconds": round(time.perf_counter() - started, 3),
        "memory_growth_bytes": {side: large[side] - small[side] for side in ("alice", "bob")},
        "results": results,
    }
    label = options.label or (options.data.resolve().name if options.data else "sample")
    place = ROOT / "docs" / "results" / f"{label}.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    tables()


def tables() -> None:
    """Rewrite the marked part of docs/results.md from all of docs/results/*.json."""
    lines = []
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        host = document["machine"]
        growth = document["memory_growth_bytes"]
        lines += [
            "",
            f"### {path.stem}",
            "",
            (
                f"{host['processor']}, {host['cores']} cores, Python {host['python']}, numba {host['versions']['numba']}, "
                f"commit {host['commit']}, {host['date']}. `--help`: {document['help_seconds']:.2f} s. "
                f"Peak memory, 10 MB over 1 MB: Alice {growth['alice'] / 1e6:+.1f} MB, Bob {growth['bob'] / 1e6:+.1f} MB."
            ),
            "",
            "| file | bytes | code | z bytes | bits/byte | r_k | socket A→B over z | coder over Σ −log2 p, bits | MB/s |",
            "|---|--:|---|--:|--:|--:|--:|--:|--:|",
        ]
        for one in document["results"]:
            size, z = one["dataset"]["bytes"], -(-one["z_bits"] // 8)
            wire = one["wire"]["alice_to_bob"]["socket_bytes"]
            rate = "" if one["compression_rate"] is None else f"{100 * one['compression_rate']:.2f} %"
            per_byte = "" if one["bits_per_byte"] is None else f"{one['bits_per_byte']:.4f}"
            speed = size / one["seconds"]["total"] / 1e6
            lines.append(
                f"| {one['file']} | {size:,} | {one['code']['name']} | {z:,} | {per_byte} | {rate} | {wire - z:+,} "
                f"| {one['z_bits'] - one['nll_bits']:+.1f} | {speed:.2f} |"
            )
    rewrite(MARK, lines)


def rewrite(mark: str, lines: list[str]) -> None:
    """Replace the table of this mark in docs/results.md, or add it at the end."""
    begin = f"<!-- table: {mark} -->"
    place = ROOT / "docs" / "results.md"
    before, found, rest = place.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(END)[2] if found else "\n"
    place.write_text(before + "\n".join([begin, *lines, "", END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
