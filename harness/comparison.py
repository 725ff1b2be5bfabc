"""`codelength compare`: one dataset over the ladder of codes, by real transmissions, with gzip and xz beside them."""

import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_PART_BYTES: Final = 1 << 20
_COLUMNS: Final = ("code", "S_k", "r_k", "net of |f|", "bits/byte", "z", ".clz1", "k", "MB/s", "")


def others(file: Path) -> list[dict[str, Any]]:
    """Gzip -9 and xz -9e over the file as it is, smallest first. What unpacks them is not charged."""
    found = [
        {"name": "gzip -9", "bytes": sum(map(len, _gzip(file)))},
        {"name": "xz -9e", "bytes": sum(map(len, _xz(file)))},
    ]
    return sorted(found, key=lambda one: one["bytes"])


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while data := source.read(_PART_BYTES):
            yield data


def _gzip(file: Path) -> Iterator[bytes]:
    packer = zlib.compressobj(9, wbits=31)
    yield from map(packer.compress, _parts(file))
    yield packer.flush()


def _xz(file: Path) -> Iterator[bytes]:
    packer = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
    yield from map(packer.compress, _parts(file))
    yield packer.flush()


def stored_bytes(file: Path, code: str, tokenizer: Path | None = None) -> int:
    """The size of what `codelength compress` makes of the file, or of its tokens by a tokenizer."""
    from harness.files import Source
    from harness.filing import Coding
    from shared.code.models import preset
    from shared.service import filing
    from shared.service.tokenizing import OctetTokenizer

    made_by = None if tokenizer is None else OctetTokenizer.of(tokenizer)
    spec = preset(code, None if made_by is None else made_by.vocabulary)
    coding = Coding(code=code, spec=spec, tokenizer=made_by)
    with Source(str(file)) as source, coding.tokens(source) as tokens:
        return filing.compress(tokens.read, len, spec, code, octets=tokens.octets).file_bytes


def ranked(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By S_k; what was not verified last."""
    return sorted(results, key=lambda one: (one["state"] != "verified", one["sk_bits"] or 0))


def rows(results: list[dict[str, Any]], sizes: dict[str, int], packed: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table. sizes: of the compressed files, where there are any."""
    from harness.report import data_bytes, in_bytes, places, rate

    out: list[tuple[str, ...]] = [_COLUMNS]
    size = 0
    for result in ranked(results):
        seconds, size = result["seconds"]["total"] or 0, data_bytes(result)
        name = result["code"]["name"]
        out.append(
            (
                name,
                in_bytes(result["sk_bits"]),
                rate(result["compression_rate"]),
                rate(result["compression_rate_net_of_f"]),
                places(result["bits_per_byte"]),
                in_bytes(result["z_bits"]),
                f"{sizes[name]:,}" if name in sizes else "–",
                f"{result['steps']:,}",
                f"{size / seconds / 1e6:.2f}" if seconds else "–",
                result["state"],
            )
        )
    for one in packed:
        cost = f"{8 * one['bytes'] / size:.4f}" if size else "–"
        out.append((one["name"], "–", "–", "–", cost, f"{one['bytes']:,}", "–", "–", "–", "|f| not charged"))
    return out


def as_json(results: list[dict[str, Any]], sizes: dict[str, int], packed: list[dict[str, Any]]) -> dict[str, Any]:
    """The table's contents, with every transmission's own object."""
    codes = [{**one, "file_bytes": sizes.get(one["code"]["name"])} for one in ranked(results)]
    return {"codes": codes, "others": [{**one, "f_charged": False} for one in packed]}
