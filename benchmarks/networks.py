"""Measure the networks: `python -m benchmarks.networks [--data FILE]`. Writes docs/results/networks/<label>.json and its tables.

All figures of a row come from one process that takes turns between the variants, so that ratios survive a noisy machine. A
training step is a batched forward pass, the backward pass and the update of one segment, without the head, which all share.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import ROOT, rewrite
from harness.bench import machine
from harness.sample import sample_text
from shared.service.kernels import prepare_kernel_cache

NAMES = ("recurrent", "transformer", "transformer-tables")
ROUNDS = 15
MARK = "benchmarks.networks"


def tokens_of(data: Path | None, size: int) -> Any:
    """The first tokens of the file, or of the sample."""
    text = data.read_bytes() if data else sample_text()
    return np.frombuffer(text[:size], dtype=np.uint8).astype(np.uint32)


def training_step(name: str, tokens: Any) -> dict[str, float]:
    """Median seconds of one training step: exact with each back end, and native."""
    from shared.code.codec import Encoder
    from shared.code.exact import products
    from shared.code.models import build, preset

    spec = preset(name)
    rows, streams = spec.segment_tokens, spec.streams
    grid = np.ascontiguousarray(tokens[: rows * streams].reshape(streams, rows).T)
    steps: dict[str, Callable[[], None]] = {}
    for backend in products.available():
        products.choose(backend)
        exact: Any = build(spec)
        exact._gradient[:] = np.random.default_rng(1).normal(size=exact._gradient.shape) / 50

        def step(exact: Any = exact, backend: str = backend) -> None:
            products.choose(backend)
            exact._forward(grid, 0, rows)
            exact._train(rows)

        steps[backend] = step
    native: Any = Encoder(spec.model_copy(update={"numerics": "native"}))._predictor
    native._gradient[:] = np.random.default_rng(1).normal(size=native._gradient.shape) / 50
    steps["native"] = lambda: native._train(grid.astype(np.int64))
    found: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(ROUNDS):
        for kind, run in steps.items():
            started = time.perf_counter()
            run()
            found[kind].append(time.perf_counter() - started)
    return {kind: statistics.median(times) for kind, times in found.items()}


def both_ends(name: str, tokens: Any) -> dict[str, float]:
    """Seconds of Alice's and of Bob's coding and training over the same tokens, block by block in turn."""
    from shared.code.codec import Decoder, Encoder
    from shared.code.models import preset

    spec = preset(name).model_copy(update={"block_tokens": 8192})
    encoder, decoder = Encoder(spec), Decoder(spec)
    seconds = {"alice": 0.0, "bob": 0.0}
    starts = range(0, len(tokens), spec.block_tokens)
    for start in starts:
        block = tokens[start : start + spec.block_tokens]
        began = time.perf_counter()
        z = b"".join(encoder.drain() for _ in encoder.encode_block(block))
        if start == starts[-1]:
            encoder.finish()
            z += encoder.drain()
        coded = time.perf_counter()
        decoder.feed(z)
        if start == starts[-1]:
            decoder.close(encoder.z_bits)
        if not decoder.in_block:
            decoder.begin_block(len(block))
        before = decoder.position
        while decoder.decode():
            pass
        if decoder.block_done:
            decoder.take_block()
        if start:  # the first block warms
            seconds["alice"] += (coded - began) / len(block)
            seconds["bob"] += (time.perf_counter() - coded) / max(decoder.position - before, 1)
    return {side: total / (len(starts) - 1) for side, total in seconds.items()}


def frequencies_cost(size: int) -> float:
    """Expected excess of the integer frequencies over softmax in float64, relative to the entropy, on made-up logits."""
    from shared.code.models.head import _softmax

    rng = np.random.default_rng(size)
    excess = entropy = 0.0
    for _ in range(200):
        z = np.rint((rng.normal(size=size) * 2 - 3.0 * np.log(1 + rng.permutation(size))) * 65536).astype(np.int64)
        f = np.zeros(size, dtype=np.int64)
        total = _softmax(f, np.zeros(size, dtype=np.float32), z)
        logits = (z - z.max()) / 65536.0
        p = np.exp(logits) / np.exp(logits).sum()
        used = f.astype(np.float64) / float(total)
        excess += float((p * np.log2(np.maximum(p, 1e-300) / used)).sum())
        entropy -= float((p * np.log2(np.maximum(p, 1e-300))).sum())
    return excess / entropy


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    prepare_kernel_cache()
    from shared.service import backends

    timings = backends.prepare()
    tokens = tokens_of(options.data, 120_000)
    results = {}
    for name in NAMES:
        steps = training_step(name, tokens)
        backends.prepare()
        results[name] = {"training_step_seconds": steps, "seconds_per_token": both_ends(name, tokens)}
        print(name, results[name], flush=True)
    document = {
        "machine": machine(),
        "product_seconds": timings,
        "results": results,
        "frequencies_excess": {str(size): frequencies_cost(size) for size in (256, 65_536)},
    }
    place = ROOT / "docs" / "results" / "networks"
    place.mkdir(exist_ok=True, parents=True)
    label = options.data.name if options.data else "sample"
    (place / f"{label}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    rewrite(MARK, table(place))


def table(place: Path) -> list[str]:
    """The tables of all files, one a label."""
    lines = []
    for path in sorted(place.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        host, excess = document["machine"], document["frequencies_excess"]
        lines += [
            "",
            f"### Networks on {path.stem}",
            "",
            f"{host['processor']}, {host['cores']} cores, Python {host['python']}, torch {host['versions']['torch']}, "
            f"commit {host['commit']}, {host['date']}. Frequencies over softmax: "
            + ", ".join(f"{100 * value:.4f} % at m = {int(size):,}" for size, value in excess.items())
            + ".",
            "",
            "| code | native step, ms | float64 / native | int8 / native | Bob's step / Alice's |",
            "|---|--:|--:|--:|--:|",
        ]
        for name, one in document["results"].items():
            steps, token = one["training_step_seconds"], one["seconds_per_token"]
            ratios = [f"{steps[kind] / steps['native']:.2f}" if kind in steps else "–" for kind in ("float64", "int8")]
            lines.append(
                f"| {name} | {1000 * steps['native']:.2f} | {' | '.join(ratios)} | {token['bob'] / token['alice']:.2f} |"
            )
    return lines


if __name__ == "__main__":
    main()
