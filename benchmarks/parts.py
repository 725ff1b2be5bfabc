"""What each part of `mixing` is worth: `python -m benchmarks.parts FILE...` rewrites the table in docs/mixing.md.

A part is taken out by another spec or, where no parameter does it, by a change of the source: f is copied, edited and measured
in a process of its own. Sizes are Σ −log2 p of the encoder in bytes, nothing is decoded here.
Run it with PYTHONPATH at the repository, and expect a quarter of an hour.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import shared.code
from shared.service.kernels import sources_digest

DOCUMENT = Path(__file__).parent.parent / "docs" / "mixing.md"
BEGIN, END = "<!-- table: python -m benchmarks.parts -->\n", "<!-- /table -->\n"

# What is changed: name, fields of the model, edits of mixing.py (old, new).
PARTS: list[tuple[str, dict[str, int], list[tuple[str, str]]]] = [
    ("`mixing`", {}, []),
    ("orders 1 … 7 only", {"contexts": 7}, []),
    ("… and words (contexts up to 8)", {"contexts": 9}, []),
    ("… and punctuation (9)", {"contexts": 10}, []),
    ("… and kinds of tokens (10)", {"contexts": 11}, []),
    ("… and what followed before (11)", {"contexts": 12}, []),
    ("… and the match's token (12)", {"contexts": 13}, []),
    ("… and sparse ones (13, 14)", {"contexts": 15}, []),
    ("… and records (15 – 17)", {"contexts": 18}, []),
    ("… and three words, order 0 (18, 19)", {"contexts": 20}, []),
    ("all 36 contexts", {"contexts": 36}, []),
    ("1 mixer in layer 1", {"sets": 1}, []),
    ("3 mixers", {"sets": 3}, []),
    ("12 mixers", {"sets": 12}, []),
    ("table of 64 MiB", {"table_mebibytes": 64}, []),
    ("table of 448 MiB", {"table_mebibytes": 448}, []),
    ("without stretch(p)", {}, [("= _STRETCH[np.uint64(p >> 4)]", "= np.int32(0)")]),
    (
        "without the histories",
        {},
        [("= _STRETCH[np.uint64(maps[np.uint64(_HISTORY * i) + history] >> np.uint32(20))]", "= np.int32(0)")],
    ),
    (
        "without p − 1/2",
        {},
        [("= np.int32(np.int32((p - _HALF) * _TRUST[np.uint64(word & _COUNT)]) >> 16)", "= np.int32(0)")],
    ),
    ("p − 1/2 not scaled by the count", {}, [("1200 * n // (n + 25)", "512")]),
    ("without the match's inputs", {}, [("sign = np.int32(2 * ((expected >> below) & 1) - 1)", "sign = np.int32(0)")]),
    ("one mixer in layer 2", {}, [("_FINAL_GATES: Final = (0, 5, 7)", "_FINAL_GATES: Final = (0,)")]),
    ("no learning in layer 2", {}, [("_FINAL_RATE: Final = 60", "_FINAL_RATE: Final = 0")]),
    ("without the probability maps", {}, [("(mixed + p1 + 2 * p2 + 2) >> 2", "mixed")]),
    ("`mixing-large`", {"contexts": 36, "sets": 12, "table_mebibytes": 448, "match_minimum": 6}, []),
]

MEASURE = """
import json, sys, time
from pathlib import Path
import numpy as np
from shared.code.codec import Encoder
from shared.code.spec import CodeSpec
from shared.code.vocabulary import to_tokens
spec = CodeSpec.from_fields({"model": {"kind": "mixing", **json.loads(sys.argv[1])}})
list(Encoder(spec).encode_block(np.zeros(10, dtype=np.uint32)))
out = []
for name in sys.argv[2:]:
    encoder, data, seconds = Encoder(spec), Path(name).read_bytes(), time.process_time()
    for start in range(0, len(data), spec.block_tokens):
        for _ in encoder.encode_block(to_tokens(data[start : start + spec.block_tokens], spec.vocabulary)):
            encoder.drain()
    out.append([-(-encoder.nll_units // (8 << 24)), len(data) / (time.process_time() - seconds)])
print(json.dumps(out))
"""


def measure(fields: dict[str, int], edits: list[tuple[str, str]], names: list[str]) -> list[tuple[int, float]]:
    """Bytes and octets per processor second of each file."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        shutil.copytree(Path(shared.code.__file__).parent, root / "shared" / "code")
        (root / "shared" / "__init__.py").touch()
        source = root / "shared" / "code" / "models" / "mixing.py"
        text = source.read_text(encoding="utf-8")
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        source.write_text(text, encoding="utf-8")
        cache = Path(tempfile.gettempdir()) / f"parts-{sources_digest()}" if not edits else root / "cache"
        environment = {**os.environ, "PYTHONPATH": place, "NUMBA_CACHE_DIR": str(root / "cache" if edits else cache)}
        command = [sys.executable, "-c", MEASURE, json.dumps(fields), *names]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=True)
    return [tuple(one) for one in json.loads(done.stdout)]


def main(names: list[str]) -> None:
    """Measure every part over the files and rewrite the table."""
    names = [str(Path(name).resolve()) for name in names]
    last = Path(names[-1]).name
    head = ["", *(Path(name).name for name in names), f"kB/s of one core, {last}"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(names) + 1)]
    base: list[tuple[int, float]] = []
    for part, fields, edits in PARTS:
        found = measure(fields, edits, names)
        base = base or found
        cells = [
            f"{size:,}" if found is base else f"{size - first:+,} ({100 * (size - first) / first:+.2f} %)"
            for (size, _), (first, _) in zip(found, base, strict=True)
        ]
        lines.append("| " + " | ".join([part, *cells, f"{found[-1][1] / 1000:.0f}"]) + " |")
        print(lines[-1], flush=True)
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    DOCUMENT.write_text(before + BEGIN + "\n".join(["", *lines, ""]) + "\n" + rest[rest.index(END) :], encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
