"""The picture of a curve, as the console draws it."""

from pathlib import Path
from typing import Any

from harness.figures.raster import png, sheet
from harness.figures.steps import online_charts, series_of, step_charts


def draw(document: dict[str, Any], path: Path) -> None:
    """S_k and r_k against k, and, where there are online curves, bits against tokens seen. Raises `OSError`."""
    rows = [step_charts(series_of(document["points"]))] if document["points"] else []
    if document["online"]:
        rows.append(online_charts(document["online"]))
    name = document["dataset"]["name"] or document["dataset"]["sha256"][:12]
    path.write_bytes(png(sheet([[chart.svg() for chart in row] for row in rows], f"S_k and r_k of {name}")))
