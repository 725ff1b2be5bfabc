"""Golden vectors: what each preset makes of fixed tokens, to the bit. A difference on any machine is a broken law of exactness.

`python -m shared.service.vectors` rewrites the file, which is a breaking change (see CONTRIBUTING).
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.service.kernels import prepare_kernel_cache

PATH: Final = Path(__file__).parent / "golden" / "presets.json"
_SIZES: Final = (256, 1000, 1 << 20)


def compute() -> dict[str, Any]:
    """Per preset and vocabulary size: the code's SHA-256, bits, cost units, CRC-32 and the state's digest."""
    from shared.code.codec import Encoder
    from shared.code.models import PRESETS, preset
    from shared.code.spec import BytesVocabulary, IdsVocabulary

    out: dict[str, Any] = {}
    for name in PRESETS:
        for size in _SIZES:
            spec = preset(name, BytesVocabulary() if size == 256 else IdsVocabulary(size=size))
            tokens = _tokens(size)
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


if __name__ == "__main__":
    prepare_kernel_cache()
    PATH.write_text(json.dumps(compute(), indent=1) + "\n", encoding="ascii")
