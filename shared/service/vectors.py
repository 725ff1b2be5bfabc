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
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shared.service.kernels import prepare_kernel_cache, ready_for

if TYPE_CHECKING:
    from shared.code.models.base import Predictor
    from shared.code.spec import CodeSpec

PATH: Final = Path(__file__).parent / "golden" / "presets.json"
_SIZES: Final = (256, 1000, 1 << 20)
_NETWORK_SIZES: Final = (256, 1000)
_SLOW_TOKENS: Final = 3_000
_CORPUS_TOKENS: Final = 1_500
_STARTED: Final = {
    "frequency m=256 frozen": ("frequency", True, 2),
    "ngram m=256 frozen": ("ngram", True, 2),
    "mixing m=256 frozen": ("mixing", True, 2),
    "recurrent m=256 frozen": ("recurrent", True, 4),
    "recurrent m=256 started": ("recurrent", False, 4),
    "ensemble m=256 frozen": ("ensemble", True, 2),
    "transformer-tables m=256 frozen": ("transformer-tables", True, 7),
}
"""Codes that start from a corpus: preset, whether frozen, and steps, which go past its end."""
_REPLAYED: Final = {
    "recurrent m=256 replay": ("recurrent", None),
    "transformer m=256 replay": ("transformer", None),
    "transformer m=256 replay frozen": ("transformer", 7),
}
"""Codes with replay from fewer tokens than there are: preset, and the steps after which they are frozen."""
_MADE_WITH: Final = "made with"


def compute(only: Collection[str] | None = None) -> dict[str, Any]:
    """Per preset and vocabulary size: the code's SHA-256, bits, cost units, CRC-32 and the state's digest.

    Also of some codes that start from a corpus, or replay. only: keys of the result to be computed; all but those of heavy
    presets if not given.
    """
    from shared.code.models import PRESETS, preset
    from shared.code.spec import NETWORKS, BytesVocabulary, EnsembleModel, IdsVocabulary, Replay

    out: dict[str, Any] = {}
    for name in PRESETS:
        network = isinstance(preset(name).model, NETWORKS)
        slow = network or isinstance(preset(name).model, EnsembleModel)
        for size in (256,) if PRESETS[name].heavy else _NETWORK_SIZES if network else _SIZES:
            if PRESETS[name].heavy if only is None else f"{name} m={size}" not in only:
                continue
            spec = preset(name, BytesVocabulary() if size == 256 else IdsVocabulary(size=size))
            out[f"{name} m={size}"] = _compute(spec, _tokens(size)[: _SLOW_TOKENS if slow else None])
    for key, (name, frozen, steps) in _STARTED.items():
        if only is None or key in only:
            out[key] = _compute_started(preset(name), frozen=frozen, steps=steps)
    for key, (name, frozen_at) in _REPLAYED.items():
        if only is None or key in only:
            spec = preset(name)
            training = spec.training.model_copy(update={"replay": Replay(passes=2, history_bits=10)})
            spec = spec.model_copy(update={"training": training})
            out[key] = (
                _compute(spec, _tokens(256)[:_SLOW_TOKENS])
                if frozen_at is None
                else _compute_started(spec, frozen=True, steps=frozen_at)
            )
    return out


def _compute_started(spec: "CodeSpec", *, frozen: bool, steps: int) -> dict[str, Any]:
    """The vector of a spec that starts from a corpus of `_CORPUS_TOKENS` tokens, which it wraps, over those that follow."""
    from shared.code.codec import prepare
    from shared.code.spec import Start
    from shared.code.vocabulary import dataset_digest, from_tokens

    tokens = _tokens(spec.vocabulary_size)
    corpus, rest = tokens[:_CORPUS_TOKENS], tokens[_CORPUS_TOKENS : 2 * _CORPUS_TOKENS]
    digest = dataset_digest(spec.vocabulary)
    digest.update(from_tokens(corpus, spec.vocabulary))
    spec = spec.with_training(frozen=frozen, start=Start(corpus=digest.hexdigest(), steps=steps))
    ready_for(spec)
    *_, (predictor, _) = prepare(spec, lambda: [corpus])
    return _compute(spec, rest, predictor)


def _compute(spec: "CodeSpec", tokens: Any, predictor: "Predictor | None" = None) -> dict[str, Any]:
    from shared.code.codec import Encoder

    ready_for(spec)
    encoder = Encoder(spec, predictor)
    z = b"".join(encoder.drain() for _ in encoder.encode_block(tokens))
    bits = encoder.finish()
    z += encoder.drain()
    check = encoder.check(with_digest=True)
    assert check.digest is not None
    return {
        "spec_sha256": spec.digest(),
        "z_sha256": hashlib.sha256(z).hexdigest(),
        "z_begins": z[:16].hex(),
        "z_bits": bits,
        "nll_units": encoder.nll_units,
        "crc": check.crc,
        "state_sha256": check.digest.hex(),
    }


def _tokens(size: int) -> Any:
    """20,000 tokens with structure, by integer arithmetic alone: the low tokens often, and repeats."""
    state = 1
    out: list[int] = []
    for index in range(20_000):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        draw = state >> 33
        out.append(out[index - 37] if index > 37 and draw % 3 else (draw >> 8) % (1 + (draw % size)))
    return np.array(out, dtype=np.uint32)


def golden(*, heavy: bool = False) -> tuple[dict[str, Any], dict[str, str]]:
    """The vectors as kept, with those of heavy presets if wanted, and the versions of what made them."""
    from shared.code.models import PRESETS

    found = json.loads(PATH.read_text(encoding="ascii"))
    made_with = found.pop(_MADE_WITH)
    return {name: one for name, one in found.items() if heavy or not PRESETS[name.split()[0]].heavy}, made_with


def check() -> tuple[list[str], bool]:
    """Lines that tell which vectors are computed as they are kept, and whether all are."""
    kept, made_with = golden(heavy=True)
    found = compute(kept)
    lines = [f"{name}: made with {made}, here {version(name)}" for name, made in made_with.items()]
    lines += [f"{'exact  ' if found.get(name) == kept[name] else 'DIFFERS'} {name}" for name in kept]
    return lines, found == kept


if __name__ == "__main__":
    from shared.code.models import PRESETS

    prepare_kernel_cache()
    if "--check" in sys.argv[1:]:
        said, equal = check()
        sys.stdout.write("\n".join(said) + "\n")
        sys.exit(0 if equal else 1)
    made_with = {name: version(name) for name in ("numba", "numpy", "torch")}
    heavy_ones = [f"{name} m=256" for name, one in PRESETS.items() if one.heavy]
    kept = compute() | compute(heavy_ones)
    PATH.write_text(json.dumps({_MADE_WITH: made_with, **kept}, indent=1) + "\n", encoding="ascii")
