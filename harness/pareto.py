"""What `codelength bench` shows of its results: tables in Markdown, and the picture of size against decoding speed."""

from collections import Counter
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


def shown_file(results: list[Entry]) -> str:
    """The file whose competitors are compared in full: the one with most of them, the smallest of several above 500 kB."""
    counts: Counter[str] = Counter(one["file"] for one in results)
    size = {one["file"]: one["bytes"] for one in results}
    return min(counts, key=lambda name: (-counts[name], size[name] < 500_000, size[name], name))


def sizes_table(results: list[Entry]) -> list[str]:
    """Bytes of every competitor over every file, the smallest of each file in bold."""
    names = sorted({one["file"] for one in results})
    size = {one["file"]: one["bytes"] for one in results}
    cells = {(one["name"], one["file"]): one["size_bytes"] for one in results}
    least = {name: min(value for (_, file), value in cells.items() if file == name) for name in names}
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    lines.append("| *as it is* | " + " | ".join(f"{size[name]:,}" for name in names) + " |")
    for who in sorted({one["name"] for one in results}, key=lambda who: _rank(results, who)):
        row = [(cells.get((who, name)), name) for name in names]
        marked = ["–" if v is None else f"**{v:,}**" if v == least[name] else f"{v:,}" for v, name in row]
        lines.append(f"| {_shown(who, results)} | " + " | ".join(marked) + " |")
    return lines


def file_table(results: list[Entry], file: str) -> list[str]:
    """All that was measured of one file, smallest first."""
    rows = sorted((one for one in results if one["file"] == file), key=lambda one: int(one["size_bytes"]))
    lines = [
        "| | bytes | bits/byte | with \\|f\\| | compress, kB/s | decompress, kB/s | memory, MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in rows:
        charged = f"{one['size_bytes'] + one['f_bytes']:,}" if "f_bytes" in one else "not charged"
        memory = max(one[side]["peak_memory_bytes"] or 0 for side in ("compress", "decompress")) / 1e6
        speeds = " | ".join(f"{one['bytes'] / one[side]['seconds'] / 1e3:,.0f}" for side in ("compress", "decompress"))
        bits = 8 * one["size_bytes"] / one["bytes"]
        who = _shown(one["name"], results)
        lines.append(f"| {who} | {one['size_bytes']:,} | {bits:.3f} | {charged} | {speeds} | {memory:,.0f} |")
    return lines


def described(results: list[Entry]) -> str:
    """The machines, versions, commits and dates that these figures belong to."""
    hosts = [one["machine"] for one in results]
    models = sorted({f"{host['processor']}, {host['cores']} cores, Python {host['python']}" for host in hosts})
    commits = sorted({str(host["commit"]) for host in hosts})
    dates = sorted({host["date"] for host in hosts})
    return f"{'; '.join(models)}; commit {', '.join(commits)}; {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."


def _shown(who: str, results: list[Entry]) -> str:
    return f"`{who}`" if any(one["kind"] == "code" for one in results if one["name"] == who) else who


def _rank(results: list[Entry], who: str) -> tuple[bool, float]:
    mine = [one for one in results if one["name"] == who]
    return mine[0]["kind"] == "peer", -sum(one["size_bytes"] / one["bytes"] for one in mine) / len(mine)


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (speed, size) those that no other beats in both, by speed."""
    out: list[tuple[float, float]] = []
    for speed, size in sorted(points, key=lambda point: (-point[0], point[1])):
        if not out or size < out[-1][1]:
            out.append((speed, size))
    return out[::-1]


def draw(results: list[Entry], file: str, place: Path) -> None:
    """Bits per byte against decoding speed, as SVG or PNG by the name of `place`."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "codelength", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    rows = [one for one in results if one["file"] == file]
    least = min(one["size_bytes"] for one in rows)
    rows = [one for one in rows if one["size_bytes"] < 2 * least]  # uniform and frequency would flatten the rest
    figure, axes = plt.subplots(figsize=(9, 5.5))
    points = []
    for one in rows:
        point = one["bytes"] / one["decompress"]["seconds"] / 1e3, 8 * one["size_bytes"] / one["bytes"]
        points.append(point)
        ours = one["kind"] == "code"
        axes.scatter(*point, s=42, color="#1f6f8b" if ours else "#b5651d", marker="o" if ours else "s", zorder=3)
    axes.step(*zip(*frontier(points), strict=True), where="pre", color="#999999", linewidth=1, zorder=1)
    axes.set_xscale("log")
    axes.set_xlabel("decompression, kB/s (end to end for codes: circles)")
    axes.set_ylabel("bits per byte, |f| and decompressors not charged")
    axes.set_title(f"{file}, {rows[0]['bytes']:,} bytes: below and to the right is better")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.margins(x=0.09, y=0.06)
    figure.tight_layout()
    _label(figure, axes, [one["name"] for one in rows], points)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, metadata={"Date": None} if place.suffix == ".svg" else None)
    plt.close(figure)


def _label(figure: Any, axes: Any, names: list[str], points: list[tuple[float, float]]) -> None:
    """Write each name beside its point, at the first place around it that is free."""
    from matplotlib.transforms import Bbox

    centres = axes.transData.transform(points)
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    places = [(side, above) for above in (5, -12, 17, -24, 29, -36, 41) for side in ("left", "right", "center")]
    for name, point in sorted(zip(names, points, strict=True), key=lambda one: one[1]):
        for side, above in places:
            shift = {"left": 6, "right": -6, "center": 0}[side]
            text = axes.annotate(name, point, xytext=(shift, above), textcoords="offset points", fontsize=8.5, ha=side)
            box = text.get_window_extent(figure.canvas.get_renderer())
            if not any(box.overlaps(other) for other in taken) and axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1):
                break
            text.remove()
        else:
            text = axes.annotate(name, point, xytext=(6, 5), textcoords="offset points", fontsize=8.5)
            box = text.get_window_extent(figure.canvas.get_renderer())
        taken.append(box)


def document(results: list[Entry], picture: str) -> str:
    """The whole report in Markdown; picture: where it lies, relative to the report."""
    file = shown_file(results)
    parts = [
        described(results),
        f"\n![{file}: bits per byte against decompression speed]({picture})\n",
        f"**{file}**\n",
        *file_table(results, file),
        "\n**Bytes of all files**\n",
        *sizes_table(results),
    ]
    return "\n".join(parts) + "\n"
