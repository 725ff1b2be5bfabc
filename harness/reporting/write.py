"""A report as HTML, SVG, PNG, CSV or JSON lines: the console's pictures and parts, in one file."""

import csv
import io
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from markupsafe import Markup

from harness.console import pages
from harness.figures.raster import png, standalone, stylesheet
from harness.figures.shown import Shown
from harness.reporting.gather import Report, to_lines
from harness.versions import package_version

_GAP: Final = 24
_BOX: Final = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')


def html(report: Report) -> bytes:
    """One HTML file: no script, and nothing that would have to be loaded."""
    datasets = []
    for sha256, mine in report.by_dataset().items():
        beside = report.yardsticks.get(sha256, {})
        table = pages.render(
            "parts/table.html",
            runs=[run.record for run in mine],
            here="",
            at="#",
            yardsticks=beside,
            size=mine[0].record["dataset"]["bytes"],
        )
        datasets.append(
            {
                "dataset": mine[0].record["dataset"],
                "pictures": pages.comparison_pictures(mine, mine[0].record["dataset"], beside) if len(mine) > 1 else None,
                "table": Markup(table),  # noqa: S704 - made by a template
                "runs": [(run.record, pages.run_parts(run, beside)) for run in mine],
            }
        )
    console = files("harness.console").joinpath("static", "console.css").read_text(encoding="utf-8")
    page = pages.render(
        "report.html",
        title="codelength: report",
        datasets=datasets,
        scale=pages.scale(),
        style=Markup(stylesheet() + console),  # noqa: S704 - our own
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=package_version(),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )
    return page.encode()


def svg(report: Report) -> bytes:
    """The two pictures of every dataset, one beside the other."""
    return standalone(sheet(report)).encode()


def png_file(report: Report) -> bytes:
    """The same as PNG."""
    return png(sheet(report))


def csv_table(report: Report) -> bytes:
    """A line for each transmission, with all its figures."""
    rows = [_flat(run) for run in report.runs]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def json_lines(report: Report) -> bytes:
    """A JSON object for each transmission, from which the same report can be made again."""
    return "".join(f"{line}\n" for line in to_lines(report)).encode()


WRITERS: Final[dict[str, Callable[[Report], bytes]]] = {
    ".html": html,
    ".svg": svg,
    ".png": png_file,
    ".csv": csv_table,
    ".jsonl": json_lines,
}
"""By the suffix of a file's name."""


def _flat(run: Shown) -> dict[str, Any]:
    record = run.record
    sent, received = ("sent", "received") if "alice" in run.records else ("received", "sent")
    figures = ("s0_bits", "sk_bits", "compression_rate", "compression_rate_net_of_f", "bits_per_token", "bits_per_byte")
    return {
        "transmission": run.id,
        "state": record["state"],
        "dataset": record["dataset"]["name"],
        "sha256": record["dataset"]["sha256"],
        "tokens": record["dataset"]["tokens"],
        "vocabulary_size": record["dataset"]["vocabulary_size"],
        "bytes": record["dataset"]["bytes"],
        "code": record["code"]["name"],
        "code_digest": record["code"]["digest"],
        "steps": record["steps"],
        **{f"f_bits_{name}": value for name, value in record["f_bits"].items()},
        "nll_bits": record["nll_bits"],
        "z_bits": record["z_bits"],
        **{name: record[name] for name in figures},
        "alice_to_bob_socket_bytes": record["wire"][sent]["socket_bytes"],
        "bob_to_alice_socket_bytes": record["wire"][received]["socket_bytes"],
        "encode_seconds": run.records.get("alice", {}).get("seconds", {}).get("encode"),
        "decode_seconds": run.records.get("bob", {}).get("seconds", {}).get("decode"),
        "total_seconds": record["seconds"].get("total"),
    }


def sheet(report: Report) -> str:
    """All pictures in one, two beside each other."""
    placed, y, width = [], 0.0, 0.0
    for sha256, mine in report.by_dataset().items():
        found = pages.comparison_pictures(mine, mine[0].record["dataset"], report.yardsticks.get(sha256, {}))
        x = high = 0.0
        for picture in found.values():
            box = _BOX.search(picture)
            assert box is not None
            wide, tall = float(box[1]), float(box[2])
            placed.append(str(picture).replace("<svg ", f'<svg x="{x}" y="{y}" width="{wide}" height="{tall}" ', 1))
            x, high = x + wide + _GAP, max(high, tall)
        y, width = y + high + _GAP, max(width, x - _GAP)
    height = max(1.0, y - _GAP)
    size = f'viewBox="0 0 {width + 2 * _GAP:g} {height + 2 * _GAP:g}"'
    head = f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="Bits per byte; cumulative bits">'
    return f'{head}<g transform="translate({_GAP} {_GAP})">{"".join(placed)}</g></svg>'
