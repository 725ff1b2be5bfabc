"""A report as HTML, SVG, PNG, CSV or JSON lines: the console's pictures and parts, in one file."""

import csv
import io
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from markupsafe import Markup

from harness.console import pages
from harness.figures import raster
from harness.figures.raster import png, standalone, stylesheet
from harness.figures.shown import Shown
from harness.figures.steps import series_of, step_charts
from harness.reporting.gather import Report, to_lines
from harness.versions import package_version


def html(report: Report) -> bytes:
    """One HTML file: no script, and nothing that would have to be loaded."""
    datasets = []
    for sha256, mine in report.by_dataset().items():
        beside, records = report.yardsticks.get(sha256, {}), [run.record for run in mine]
        table = pages.render(
            "parts/table.html",
            runs=records,
            here="",
            at="#",
            yardsticks=beside,
            size=mine[0].record["dataset"]["bytes"],
        )
        datasets.append(
            {
                "dataset": mine[0].record["dataset"],
                "pictures": pages.comparison_pictures(mine, mine[0].record["dataset"], beside) if len(mine) > 1 else None,
                "curve": pages.curve(records) if any(one["regime"] == "frozen" for one in records) else None,
                "table": Markup(table),  # noqa: S704 - made by a template
                "runs": [(run.record, pages.run_parts(run, beside), run.sample and pages.drawn(run.sample)) for run in mine],
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
    rows: list[list[str]] = []
    for sha256, mine in report.by_dataset().items():
        dataset = mine[0].record["dataset"]
        found = pages.comparison_charts(mine, dataset, report.yardsticks.get(sha256, {}))
        rows.append([chart.svg() for chart in found.values()])
        series = series_of(run.record for run in mine)
        if series:
            rows.append([chart.svg() for chart in step_charts(series)])
    return raster.sheet(rows, "Bits per byte; cumulative bits")
