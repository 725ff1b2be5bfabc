"""The picture of a sweep: r_k against size, k, or compute. matplotlib is imported here, when a picture is wanted."""

from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure

Row = dict[str, Any]

AXES: Final = {
    "size": ("tokens", "n, tokens of D"),
    "k": ("k", "k, steps on the corpus; p^(k) is fixed (dotted: online)"),
    "compute": ("compute", "seconds of Alice's preparing and coding"),
}
"""What r_k may be drawn against: the figure of a row, and the axis's label."""

_DOTS: Final = 130


def axis_of(rows: list[Row]) -> str:
    """What the rows vary in: k where there are several, else the size of a dataset, else compute."""
    if len({row["k"] for row in rows if row["k"] is not None}) > 1:
        return "k"
    sizes = defaultdict(set)
    for row in rows:
        sizes[row["dataset"]].add(row["tokens"])
    return "size" if any(len(one) > 1 for one in sizes.values()) else "compute"


def draw(rows: list[Row], against: str, path: Path) -> int:
    """Draw verified rows, one line for each code, dataset and whatever else is not the axis; seeds as mean and range.

    Returns how many rows are in the picture. path: its suffix, .png or .svg, says the format. Raises `OSError`.
    """
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axes = figure.subplots()
    name, label = AXES[against]
    lines: dict[tuple[Any, ...], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    level: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    shown = 0
    for row in map(_with_compute, rows):
        if row["state"] != "verified" or row["compression_rate"] is None or (against != "k" and row[name] is None):
            continue
        shown += 1
        rate = 100 * row["compression_rate"]
        if row[name] is None:
            level[_line(row, against)].append(rate)
        else:
            lines[_line(row, against)][float(row[name])].append(rate)
    colours: dict[tuple[Any, ...], Any] = {}
    for key, points in sorted(lines.items(), key=str):
        places = sorted(points)
        means = [sum(points[place]) / len(points[place]) for place in places]
        low = [mean - min(points[place]) for place, mean in zip(places, means, strict=True)]
        high = [max(points[place]) - mean for place, mean in zip(places, means, strict=True)]
        bars = axes.errorbar(places, means, yerr=[low, high], marker="o", capsize=3, label=_named(key, rows))
        colours[key] = bars.lines[0].get_color()
    for key, rates in sorted(level.items(), key=str):
        label_of = "_nolegend_" if key in colours else f"{_named(key, rows)}, online"
        axes.axhline(sum(rates) / len(rates), linestyle=":", color=colours.get(key), label=label_of)
    if against == "k":
        axes.set_xscale("symlog", linthresh=1)
    else:
        axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("r_k in %, |f| and corpus charged")
    axes.grid(alpha=0.3)
    if lines or level:
        axes.legend(fontsize=8)
    with path.open("wb") as file:
        figure.savefig(file, format=path.suffix[1:], dpi=_DOTS)
    return shown


def _with_compute(row: Row) -> Row:
    seconds = [row[f"seconds_{part}"] for part in ("prepare", "encode")]
    return {**row, "compute": sum(one or 0.0 for one in seconds) or None}


def _line(row: Row, against: str) -> tuple[Any, ...]:
    """Which line a row belongs to: code and dataset, and size and k where they are not the axis."""
    size = row["tokens"] if against != "size" else None
    return row["code"], row["dataset"], size if against == "k" else None, row["k"] if against == "size" else None


def _named(key: tuple[Any, ...], rows: list[Row]) -> str:
    code, dataset, size, k = key
    parts = [code]
    if len({row["dataset"] for row in rows}) > 1:
        parts.append(dataset)
    if size is not None and len({row["tokens"] for row in rows if row["dataset"] == dataset}) > 1:
        parts.append(f"n = {size:,}")
    if k is not None:
        parts.append(f"k = {k:,}")
    return ", ".join(parts)
