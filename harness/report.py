"""What people see of results: tables."""

import io
import os
import sys
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from harness.terminal import emit

_COLUMNS: Final = ("code", "S_0", "S_k", "r_k", "net of |f|", "bits/byte", "z", "socket A→B", "socket B→A", "k", "MB/s", "")


def ledger_table(results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of the ledger; sizes in bytes, rounded up from bits."""
    charged = any(result["f_bits"]["assets"] for result in results)
    tokens = any(result["dataset"]["tokenizer"] for result in results)
    per_token = ("bits/token",) if tokens else ()
    rows: list[tuple[str, ...]] = [_COLUMNS[:1] + (("assets",) if charged else ()) + _COLUMNS[1:5] + per_token + _COLUMNS[5:]]
    for result in results:
        seconds = result["seconds"]["total"] or 0
        size = data_bytes(result)
        rows.append(
            (
                code_label(result),
                *((in_bytes(result["f_bits"]["assets"]),) if charged else ()),
                in_bytes(result["s0_bits"]),
                in_bytes(result["sk_bits"]),
                rate(result["compression_rate"]),
                rate(result["compression_rate_net_of_f"]),
                *((places(result["bits_per_token"]),) if tokens else ()),
                places(result["bits_per_byte"]),
                f"{-(-result['z_bits'] // 8):,}",
                f"{result['wire']['alice_to_bob']['socket_bytes']:,}",
                f"{result['wire']['bob_to_alice']['socket_bytes']:,}",
                f"{result['steps']:,}",
                f"{size / seconds / 1e6:.2f}" if seconds else "–",
                result["state"],
            )
        )
    return rows


def code_label(result: dict[str, Any]) -> str:
    """The code's name, and whether it was frozen."""
    return str(result["code"]["name"]) + (" frozen" if result["regime"] == "frozen" else "")


def data_bytes(result: dict[str, Any]) -> int:
    """Bytes of what was sent: of the octets that a tokenizer read, else of D in its canonical form; 0 where not known."""
    return int(result["dataset"]["octets"] or result["dataset"]["bytes"] or 0)


def places(value: float | None) -> str:
    """Bits per token or byte."""
    return "–" if value is None else f"{value:.4f}"


def in_bytes(bits: float | None) -> str:
    """Bits as whole bytes."""
    return "–" if bits is None else f"{-int(-bits // 8):,}"


def rate(value: float | None) -> str:
    """A rate in percent."""
    return "–" if value is None else f"{100 * value:.2f} %"


def print_table(rows: list[tuple[str, ...]]) -> None:
    """A table on standard output, wide enough never to be cut."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if index in (0, len(rows[0]) - 1) else "right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    width = sum(2 + max(len(row[index]) for row in rows) for index in range(len(rows[0])))
    text = io.StringIO()
    plain = bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    Console(file=text, width=width, no_color=plain, force_terminal=not plain, highlight=False).print(table)
    emit(text.getvalue().rstrip("\n"))


def explain_table() -> str:
    """What the columns mean."""
    return """
S_0   = |f| + n log2 m: the dataset spelled out, in bytes
S_k   = |f| + sum of -log2 p(x_t | x_<t), the model learning as it codes, in bytes
r_k   = 1 - S_k / S_0; "net of |f|" is the same if both held the code f already
z     = the arithmetic code that crossed, socket = every byte of the connection, as Alice, Bob, both kernels
        and the witness between them counted alike; "verified": Bob's SHA-256 is that of the dataset
"""


def local_codes() -> list[dict[str, Any]]:
    """The presets with |f| measured here."""
    from shared.service.records import coded_sources, codes

    return [code.model_dump(mode="json") for code in codes(coded_sources())]
