"""`codelength doctor`: does this machine compute f exactly? And the report of what computed it, for two people to compare."""

import hashlib
import json
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = ("numpy", "numba", "llvmlite", "torch", "pydantic", "fastapi", "uvicorn", "websockets")
_FEATURES: Final = (
    "sse4_2", "avx", "avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "sve", "sve2",
)  # fmt: skip


def examine() -> dict[str, Any]:
    """Recompute the golden vectors, decode the conformance set, and describe the machine."""
    from shared.channel.messages import VERSION
    from shared.channel.stored import STORED_VERSION
    from shared.code.exact import products
    from shared.code.spec import FORMAT
    from shared.service import conformance, vectors
    from shared.service.backends import prepare
    from shared.service.kernels import package_version, prepare_kernel_cache, sources_digest

    started = time.monotonic()
    golden, made_with = vectors.golden()
    computed = vectors.compute()
    checks = [{"name": name, "exact": computed.get(name) == golden[name]} for name in golden]
    files = [
        {"name": entry.file, "exact": not (fault := conformance.check(entry)), "fault": fault} for entry in conformance.entries()
    ]
    text = json.dumps(computed, sort_keys=True).encode()
    return {
        "exact": all(one["exact"] for one in [*checks, *files]),
        "result": hashlib.sha256(text).hexdigest()[:16],
        "f": {
            "codelength": package_version(),
            "sources": sources_digest(),
            "format": FORMAT,
            "protocol": VERSION,
            "file_format": STORED_VERSION,
        },
        "vectors": checks,
        "vectors_made_with": made_with,
        "files": files,
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "architecture": f"{platform.machine()}, {sys.byteorder} endian",
            "processor": _cpu_field("model name") or platform.processor() or "unknown",
            "cores": os.cpu_count(),
            "features": [name for name in _FEATURES if name in _cpu_flags()],
            "compiled_for": _compiled_for(),
            "kernel_cache": str(prepare_kernel_cache()),
            "tcp_info": sys.platform == "linux",
            "product_seconds": prepare(),
            "products": products.chosen(),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "seconds": round(time.monotonic() - started, 2),
    }


def report(found: dict[str, Any]) -> list[str]:
    """The report as text: first what must be equal on every machine, then what may differ."""
    checks, files = found["vectors"], found["files"]
    good = sum(one["exact"] for one in checks), sum(one["exact"] for one in files)
    f = found["f"]
    out = [
        "Equal on every machine that runs this version:",
        f"  codelength   {f['codelength']}, f {f['sources']}",
        f"  formats      f {f['format']}, protocol {f['protocol']}, files {f['file_format']}",
        f"  computed     {found['result']}",
        f"  vectors      {good[0]} of {len(checks)} exact",
        f"  files        {good[1]} of {len(files)} read as they must be",
    ]
    out += [
        f"  DIFFERS      {one['name']}{': ' + one['fault'] if one.get('fault') else ''}"
        for one in [*checks, *files]
        if not one["exact"]
    ]
    machine = found["machine"]
    out += [
        "",
        "This machine:",
        f"  system       {machine['system']}, {machine['architecture']}, {machine['cores']} cores",
        f"  processor    {machine['processor']}",
        f"  features     {' '.join(machine['features']) or 'none known'}",
        f"  compiled for {machine['compiled_for']}, kernels by numba",
        f"  products     {_backends(machine)}",
        f"  versions     {', '.join(f'{name} {number}' for name, number in found['versions'].items() if number)}",
        f"  TCP_INFO     {'yes' if machine['tcp_info'] else 'no: the kernel cannot be asked what it sent'}",
        "",
        f"{'Exact' if found['exact'] else 'NOT EXACT'}: examined in {found['seconds']} s.",
    ]
    return out


def _backends(machine: dict[str, Any]) -> str:
    timings = machine["product_seconds"]
    parts = [f"{name} {1000 * seconds:.1f} ms a segment" for name, seconds in sorted(timings.items(), key=lambda item: item[1])]
    return f"{machine['products']} ({', '.join(parts)}); all exact"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _compiled_for() -> str:
    import llvmlite.binding

    return os.environ.get("NUMBA_CPU_NAME") or str(llvmlite.binding.get_host_cpu_name())


def _cpu_flags() -> set[str]:
    return set((_cpu_field("flags") or _cpu_field("Features") or "").split())


def _cpu_field(name: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
