"""Where compiled kernels are kept, which sources f has, and what computes it on this machine.

`prepare_kernel_cache` must run before numba is imported: it points numba at a directory named after the digest of f's
sources, so that a changed source is never run from an old cache, and a read-only installation compiles once.
"""

import hashlib
import json
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import shared.code
from shared.code.ranks import ALONE, Ranks
from shared.code.spec import NETWORKS, CodeSpec, EnsembleModel
from shared.service.errors import RanksError

PACKAGE = "shared.code"


@cache
def code_sources() -> dict[str, bytes]:
    """Module name to source text, for every module of f."""
    root = Path(shared.code.__file__).parent
    out = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join([PACKAGE, *parts]).removesuffix(".__init__")
        out[name] = path.read_bytes()
    return out


@cache
def sources_digest() -> str:
    """SHA-256 over f's sources, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, text in code_sources().items():
        digest.update(f"{name} {len(text)}\n".encode())
        digest.update(text)
    return digest.hexdigest()[:16]


def default_cache_directory() -> Path:
    """`$XDG_CACHE_HOME/codelength`, or its usual place."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "codelength"


def prepare_kernel_cache(directory: Path | None = None) -> Path:
    """Point numba at `directory`/<digest of f's sources>; returns that directory."""
    configured = os.environ.get("CODELENGTH_CACHE_DIRECTORY")
    root = directory or (Path(configured) if configured else default_cache_directory())
    place = root / "numba" / sources_digest()
    place.mkdir(parents=True, exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(place)
    os.environ["NUMBA_DISABLE_INTEL_SVML"] = "1"  # where it is installed, its roots are not IEEE's
    return place


def ready_for(spec: CodeSpec) -> None:
    """Make this process ready to compute a spec: for one with floats in it, threads and the back end of its products.

    Raises `MachineError` where this machine would not be exact.
    """
    if isinstance(spec.model, (*NETWORKS, EnsembleModel)) or spec.numerics == "native":
        from shared.service.backends import prepare

        prepare()


def require_ranks(spec: CodeSpec, ranks: int) -> None:
    """Raise `RanksError` unless so many ranks can compute a spec."""
    shared = isinstance(spec.model, NETWORKS) and spec.numerics == "exact"
    if ranks != 1 and not (shared and spec.streams % ranks == 0):
        raise RanksError(ranks, spec.streams if shared else None)


def ranks_used(spec: CodeSpec, ranks: int) -> tuple[int, list[str]]:
    """How many of so many ranks compute a spec here, all or one, and the sentence that says why one."""
    try:
        require_ranks(spec, ranks)
    except RanksError as error:
        return 1, [f"one process computes it: {error}"]
    return ranks, []


def ranks_for(spec: CodeSpec) -> Ranks:
    """The ranks for a new predictor of a spec, which ends the one before: as many of CODELENGTH_RANKS as can compute it."""
    size, _ = ranks_used(spec, int(os.environ.get("CODELENGTH_RANKS", "1")))
    if size == 1:
        return ALONE
    from shared.service.ranks import leading

    return leading(size).begin(spec)


def package_version() -> str:
    """The version of codelength that runs."""
    try:
        return version("codelength")
    except PackageNotFoundError:
        return "0+source"


@cache
def runtime_fingerprint() -> str:
    """What computes f here, in one line of JSON that two people can compare."""
    parts = {
        "codelength": package_version(),
        "f": sources_digest(),
        "machine": platform.machine(),
        "numba": version("numba"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "threads": os.environ.get("CODELENGTH_WORKER_THREADS", "1"),
        "torch": version("torch"),
        **({"transformers": version("transformers")} if find_spec("transformers") is not None else {}),
        "vectors": os.environ.get("ATEN_CPU_CAPABILITY") or _vector_instructions(),
    }
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))


def _vector_instructions() -> str:
    """The widest instruction set that torch would choose here, as the kernel tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "unknown"
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    return "avx512" if "avx512bw" in flags else "avx2" if "avx2" in flags else "default"


def warning(spec: CodeSpec, ours: str, theirs: str) -> list[str]:
    """What two runtimes' fingerprints say about a transmission under native numerics: nothing, or one sentence."""
    if spec.numerics == "exact" or ours == theirs:
        return []
    one, other = json.loads(ours), _fields(theirs)
    parts = [
        f"{name} {one.get(name)} here, {other.get(name)} there"
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]
    differ = f"native numerics on runtimes that differ ({'; '.join(parts)})"
    return [f"{differ}: the models may diverge; a CHECK would tell, and a safe code go on"]


def _fields(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
