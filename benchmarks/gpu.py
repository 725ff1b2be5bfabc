"""Measure a network on a device: `python -m benchmarks.gpu FILE --code transformer-large --device cuda`. One JSON line.

Alice codes the first BYTES of FILE there; Bob decodes the first DECODE of them, on a device of his own, and both digests of the
model are compared. With --out the line is appended to a file; `--table FILE` writes that file's lines into docs/results.md.
"""

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import rewrite
from shared.service.kernels import prepare_kernel_cache

MARK = "benchmarks.gpu"
MARK_BYTES = 250_000


def place(device: str, products_name: str) -> None:
    """Have networks built from now on run there. Raises `MachineError` where they cannot."""
    from shared.code.exact import kernels
    from shared.service.backends import prepare

    os.environ["CODELENGTH_DEVICE"], os.environ["CODELENGTH_PRODUCTS"] = device, products_name
    if device == "cpu":
        kernels.choose("fused")
    prepare()


def blocks(tokens: Any, size: int) -> list[Any]:
    """Tokens in blocks."""
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def alice(spec: Any, tokens: Any, limit_s: float) -> tuple[bytes, int, list[Any], dict[str, Any]]:
    """The code, its bits, the checks of whole blocks, and figures. Nothing is coded that would begin after `limit_s` seconds."""
    from shared.code.codec import Encoder
    from shared.service.coding import DIGEST_EVERY_BLOCKS

    encoder, z, checks, seconds = Encoder(spec), [], [], []
    started = time.perf_counter()
    for block in blocks(tokens, spec.block_tokens):
        end = encoder.position + len(block)
        for _ in encoder.encode_block(block):
            z.append(encoder.drain())
            seconds.append((time.perf_counter() - started, encoder.position, encoder.nll_units))
            if seconds[-1][0] > limit_s:
                break
        if encoder.position < end:
            break
        ends = encoder.position == len(tokens)
        checks.append(encoder.check(with_digest=ends or len(checks) % DIGEST_EVERY_BLOCKS == DIGEST_EVERY_BLOCKS - 1))
    total = time.perf_counter() - started
    bits = encoder.finish()
    z.append(encoder.drain())
    marks = [one[1:] for before, one in itertools.pairwise(seconds) if one[1] // MARK_BYTES > before[1] // MARK_BYTES]
    return (
        b"".join(z),
        bits,
        checks,
        {
            "bytes": encoder.position,
            "code_bytes": -(-bits // 8),
            "bits_per_byte": encoder.nll_units / 2**24 / encoder.position,
            "seconds": total,
            "bytes_per_second": encoder.position / total,
            "curve": [[position, units / 2**24 / position] for position, units in marks],
            "notes": encoder.notes,
        },
    )


def bob(spec: Any, tokens: Any, z: bytes, bits: int, checks: list[Any], device: str) -> dict[str, Any]:
    """Decode blocks that hold these tokens; figures, and whether tokens and digests are Alice's."""
    from shared.code.codec import Decoder

    decoder, equal, count = Decoder(spec), True, 0
    decoder.feed(z)
    decoder.close(bits)
    started = time.perf_counter()
    for block, check in zip(blocks(tokens, spec.block_tokens), checks, strict=False):
        decoder.begin_block(len(block))
        while not decoder.block_done:
            decoder.decode()
        equal = equal and bool(np.array_equal(decoder.take_block()[0], block))
        equal = equal and decoder.check(with_digest=check.digest is not None) == check
        count += len(block)
    total = time.perf_counter() - started
    return {"bob": device, "bob_bytes": count, "bob_bytes_per_second": count / total, "equal": equal and count > 0}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    import torch

    from harness.bench import machine
    from shared.code.exact import products
    from shared.code.models import spec_of
    from shared.code.spec import NETWORKS

    os.environ["CODELENGTH_WORKER_THREADS"] = str(options.threads)
    text = options.code if not options.code.startswith("{") else json.loads(options.code)
    spec = spec_of(text)
    assert isinstance(spec.model, NETWORKS)
    tokens = np.frombuffer(options.file.read_bytes()[: options.bytes], dtype=np.uint8).astype(np.uint32)
    found: dict[str, Any] = {"name": options.name or options.code, "file": options.file.name, "device": options.device}
    place(options.device, options.products)
    found["products"], found["parameters"] = products.chosen(), spec.model.parameters(spec.vocabulary_size)
    z, bits, checks, figures = alice(spec, tokens, options.limit)
    found |= figures
    if options.device != "cpu":
        found["gpu"], found["gpu_bytes"] = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated()
    if options.decode:
        part = tokens[: options.decode]
        if len(part) < figures["bytes"]:  # a code of its own, so that Bob's ends where it does
            z, bits, checks, _ = alice(spec, part, options.limit)
        place(options.bob, options.products)
        found |= bob(spec, part, z, bits, checks, options.bob)
    return {**found, "machine": machine()}


def main() -> None:
    """Measure or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--code", default="transformer-large", help="a preset, or a spec as JSON")
    parser.add_argument("--name", help="what the row is called; the code if not given")
    parser.add_argument("--bytes", type=int, help="of the file; all if not given")
    parser.add_argument("--decode", type=int, default=0, help="bytes that Bob decodes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bob", default="cpu", help="his device")
    parser.add_argument(
        "--products", default="auto", choices=("auto", "float64", "int8"), help="back end; the faster one if not given"
    )
    parser.add_argument("--threads", type=int, default=1, help="of a CPU's products")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no further segment is coded")
    parser.add_argument("--out", type=Path, help="a file of lines to append to")
    parser.add_argument("--table", action="store_true", help="FILE holds such lines: write docs/results.md's table")
    options = parser.parse_args()
    if options.table:
        rewrite(MARK, table([json.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines()]))
        return
    prepare_kernel_cache()
    line = json.dumps(measure(options))
    sys.stdout.write(line + "\n")
    if options.out:
        with options.out.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as a table, and what they were measured on."""
    lines = [
        "",
        "| | device, products | bytes | bits/byte | Alice, kB/s | tensors, GB | Bob's device | decoded | Bob, kB/s | digests |",
        "|---|---|--:|--:|--:|--:|---|--:|--:|---|",
    ]
    for row in rows:
        memory = f"{row['gpu_bytes'] / 1e9:.1f}" if "gpu_bytes" in row else "–"
        cells = [row["name"], f"{row['device']}, {row['products']}", f"{row['bytes']:,}", f"{row['bits_per_byte']:.3f}"]
        cells += [f"{row['bytes_per_second'] / 1000:.1f}", memory]
        if "bob" in row:
            equal = "equal" if row["equal"] else "**differ**"
            cells += [row["bob"], f"{row['bob_bytes']:,}", f"{row['bob_bytes_per_second'] / 1000:.1f}", equal]
        lines.append(f"| {' | '.join(cells + ['–'] * (10 - len(cells)))} |")
    for row in {(row.get("gpu"), row["machine"]["commit"]): row for row in rows}.values():
        host = row["machine"]
        versions = ", ".join(f"{name} {host['versions'][name]}" for name in ("torch", "numpy", "numba"))
        place = f"{row.get('gpu', 'no GPU')}; {host['processor']}, {host['cores']} cores, Python {host['python']}, {versions}"
        lines += ["", f"{place}; {host['date']}, commit {host['commit']}."]
    return lines


if __name__ == "__main__":
    main()
