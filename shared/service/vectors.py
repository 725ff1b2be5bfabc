"""Golden vectors: what each preset makes of fixed tokens, to the bit. A difference on any machine is a broken law of exactness.

`python -m shared.service.vectors` rewrites the file, which is a breaking change (see CONTRIBUTING); with `--check` it says
which vectors this machine and these versions compute to the bit.
"""

import hashlib
import json
import sys
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.service.kernels import prepare_kernel_cache, ready_for

PATH: Final = Path(__file__).parent / "golden" / "presets.json"
_SIZES: Final = (256, 1000, 1 << 20)
_NETWORK_SIZES: Final = (256, 1000)
_SLOW_TOKENS: Final = 3_000
_MADE_WITH: Final = "made with"


def compute(only: Collection[str] | None = None) -> dict[str, Any]:
    """Per preset and vocabulary size: the code's SHA-256, bits, cost units, CRC-32 and the state's digest.

    only: keys of the result to be computed; all if not given.
    """
    from shared.code.codec import Encoder
    from shared.code.models import PRESETS, preset
    from shared.code.spec import NETWORKS, BytesVocabulary, EnsembleModel, IdsVocabulary

    out: dict[str, Any] = {}
    for name in PRESETS:
        network = isinstance(preset(name).model, NETWORKS)
        slow = network or isinstance(preset(name).model, EnsembleModel)
        for size in _NETWORK_SIZES if network else _SIZES:
            if only is not None and f"{name} m={size}" not in only:
                continue
            spec = preset(name, BytesVocabulary() if size == 256 else IdsVocabulary(size=size))
            ready_for(spec)
            tokens = _tokens(size)[: _SLOW_TOKENS if slow else None]
            encoder = Encoder(spec)
            z = b"".join(encoder.drain() for _ in encoder.encode_block(tokens))
            bits = encoder.finish()
            z += encoder.drain()
            check = encoder.check(with_digest=True)
            assert check.digest is not None
            out[f"{name} m={size}"] = {
                "spec_sha256": spec.digest(),
                "z_sha256": hashlib.sha256(z).hexdigest(),
                "z_begins": z[:16].hex(),
                "z_bits": bits,
                "nll_units": encoder.nll_units,
                "crc": check.crc,
                "state_sha256": check.digest.hex(),
            }
    return out


def _tokens(size: int) -> Any:
    """20,000 tokens with structure, by integer arithmetic alone: the low tokens often, and repeats."""
    state = 1
    out: list[int] = []
    for index in range(20_000):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        draw = state >> 33
        out.append(out[index - 37] if index > 37 and draw % 3 else (draw >> 8) % (1 + (draw % size)))
    return np.array(out, dtype=np.uint32)


def golden() -> tuple[dict[str, Any], dict[str, str]]:
    """The vectors as kept, and the versions of what made them."""
    found = json.loads(PATH.read_text(encoding="ascii"))
    return found, found.pop(_MADE_WITH)


def check() -> tuple[list[str], bool]:
    """Lines that tell which vectors are computed as they are kept, and whether all are."""
    kept, made_with = golden()
    found = compute()
    lines = [f"{name}: made with {made}, here {version(name)}" for name, made in made_with.items()]
    lines += [f"{'exact  ' if found.get(name) == kept[name] else 'DIFFERS'} {name}" for name in kept]
    return lines, found == kept


if __name__ == "__main__":
    prepare_kernel_cache()
    if "--check" in sys.argv[1:]:
        said, equal = check()
        sys.stdout.write("\n".join(said) + "\n")
        sys.exit(0 if equal else 1)
    made_with = {name: version(name) for name in ("numba", "numpy", "torch")}
    PATH.write_text(json.dumps({_MADE_WITH: made_with, **compute()}, indent=1) + "\n", encoding="ascii")
