"""What ranks buy here: `python -m benchmarks.ranks FILE`. One line of JSON a code: Alice's seconds by their number, in turns.

Each number of ranks codes the same tokens; their z must be equal. The leader's head is serial, so a large network gains more.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from shared.service.kernels import prepare_kernel_cache

ROUNDS = 3
CODES = {"recurrent": 131_072, "transformer": 65_536, "transformer-large": 8_192}


def seconds(name: str, tokens: Any, ranks: int) -> tuple[float, int, str]:
    """Of coding the tokens after the first segment, how many these are, and the SHA-256 of z."""
    from shared.code.codec import Encoder
    from shared.code.models import build, preset
    from shared.service.kernels import ranks_for, ready_for

    os.environ["CODELENGTH_RANKS"] = str(ranks)
    spec = preset(name)
    ready_for(spec)
    encoder, z, started, warm = Encoder(spec, build(spec, ranks_for(spec))), [], 0.0, 0
    for start in range(0, len(tokens), spec.block_tokens):
        for _ in encoder.encode_block(tokens[start : start + spec.block_tokens]):
            z.append(encoder.drain())
            if not started:
                started, warm = time.perf_counter(), encoder.position
    total = time.perf_counter() - started
    encoder.finish()
    return total, len(tokens) - warm, hashlib.sha256(b"".join([*z, encoder.drain()])).hexdigest()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--ranks", type=int, default=2, help="beside one; a process can have one such number")
    options = parser.parse_args()
    prepare_kernel_cache()
    counts = (1, options.ranks)
    for name, size in CODES.items():
        tokens = np.frombuffer(options.file.read_bytes()[:size], dtype=np.uint8).astype(np.uint32)
        found: dict[int, list[float]] = {ranks: [] for ranks in counts}
        digests, timed = set(), 0
        for _ in range(ROUNDS):
            for ranks in counts:
                took, timed, digest = seconds(name, tokens, ranks)
                found[ranks].append(took)
                digests.add(digest)
        medians = {ranks: statistics.median(times) for ranks, times in found.items()}
        speedup = round(medians[1] / medians[options.ranks], 2)
        line = {"code": name, "timed bytes": timed, "seconds": medians, "speed-up": speedup, "z equal": len(digests) == 1}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
