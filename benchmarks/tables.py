"""Rewrite the generated tables of the documents from docs/results/*.json, which `codelength bench` writes: no figure is typed.

The targets are those of the design; whether they are met is computed here.

`python -m benchmarks.tables`; `make bench` runs it.
"""

import json
from collections.abc import Callable
from pathlib import Path

from harness import pareto

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
MARK, END = "make bench", "<!-- /table -->"


def main() -> None:
    """Tables and pictures of every set of results; the README's are of `data`."""
    lines: list[str] = []
    for path in sorted(RESULTS.glob("*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        lines += ["", f"### {path.stem}", "", *pareto.document(results, f"results/{path.stem}.svg").splitlines()]
        file = pareto.shown_file(results)
        pareto.draw(results, file, path.with_suffix(".svg"))
        if path.stem == "data":
            picture = f"![{file}: bits per byte against decompression speed](docs/results/{path.stem}.svg)"
            rewrite(MARK, ["", picture, "", *pareto.file_table(results, file)], ROOT / "README.md")
            rewrite("targets", ["", *against_peers(results), "", *targets(results)])
    rewrite(MARK, lines)


def against_peers(results: list[pareto.Entry]) -> list[str]:
    """`mixing` on every file, beside the strongest peers of each kind."""
    sizes = {(one["name"], one["file"]): int(one["size_bytes"]) for one in results}
    lines = ["| | `mixing` | zpaq -m5 | best PPMd | xz -9e | under the best of zpaq and PPMd | under xz |", "|---|" + "--:|" * 6]
    for file in sorted({file for name, file in sizes if name == "mixing"}):
        if not all((name, file) in sizes for name in ("zpaq -m5", "7z PPMd o6", "7z PPMd o16", "xz -9e")):
            continue
        ours, zpaq, xz = (sizes[name, file] for name in ("mixing", "zpaq -m5", "xz -9e"))
        ppmd = min(sizes["7z PPMd o6", file], sizes["7z PPMd o16", file])
        under = [f"{100 * (1 - ours / other):.1f} %" for other in (min(zpaq, ppmd), xz)]
        lines.append(f"| {file} | {ours:,} | {zpaq:,} | {ppmd:,} | {xz:,} | {' | '.join(under)} |")
    return lines


def targets(results: list[pareto.Entry]) -> list[str]:
    """Every target that these results can judge: what was asked, what came out, and whether that is enough."""
    held = {(one["name"], one["file"]): one for one in results}
    lines = ["| | asked | measured | |", "|---|---|--:|---|"]

    def row(who: str, asked: str, found: float, shown: str, enough: Callable[[float], bool]) -> None:
        lines.append(f"| {who} | {asked} | {shown.format(found)} | {'met' if enough(found) else '**missed**'} |")

    def size(code: str, file: str) -> float:
        return float(held[code, file]["size_bytes"])

    def speed(code: str, file: str) -> float:
        one = held[code, file]
        return one["bytes"] / one["decompress"]["seconds"] / 1e3

    for code, file, most in (
        ("mixing", "enwik6", 219_000),
        ("mixing", "alice29.txt", 36_400),
        ("mixing-large", "enwik6", 212_000),
        ("mixing-large", "alice29.txt", 35_400),
        ("recurrent", "enwik6", 250_000),
        ("recurrent", "alice29.txt", 42_000),
        ("transformer", "enwik6", 338_107),
    ):
        row(f"`{code}`, {file}", f"≤ {most:,} bytes", size(code, file), "{:,.0f}", lambda found, most=most: found <= most)
    ratio = 100 * (size("transformer-tables", "enwik6") / size("recurrent", "enwik6") - 1)
    row("`transformer-tables` over `recurrent`, enwik6", "≤ 2 %", ratio, "{:.1f} %", lambda found: found <= 2)
    for code, file, least in (
        ("mixing", "enwik6", 150),
        ("mixing", "enwik7", 150),
        ("mixing-large", "enwik6", 50),
        ("ensemble", "enwik6", 10),
        ("recurrent", "enwik6", 12),
        ("transformer", "enwik6", 5.8),
        ("transformer-tables", "enwik6", 6),
        ("ngram", "enwik7", 1000),
        ("frequency", "enwik7", 3000),
    ):
        row(f"`{code}`, {file}", f"≥ {least:,} kB/s", speed(code, file), "{:,.1f}", lambda found, least=least: found >= least)
    for code, least in (("mixing", 0.29), ("mixing-large", 0.097)):
        found = speed(code, "enwik6") / speed("zpaq -m5", "enwik6")
        row(f"`{code}`, enwik6", f"≥ {least} × zpaq -m5", found, "{:.2f}", lambda found, least=least: found >= least)
    texts = [file for name, file in held if name == "mixing" and (file.endswith(".txt") or file.startswith("enwik"))]
    peers = ("zpaq -m5", "7z PPMd o6", "7z PPMd o16")
    under = {file: 100 * (1 - size("mixing", file) / min(size(peer, file) for peer in peers)) for file in texts}
    worst = min(under, key=lambda file: under[file])
    row(f"`mixing` under zpaq -m5 and PPMd, worst text: {worst}", "≥ 3 %", under[worst], "{:.1f} %", lambda found: found >= 3)
    large = [file for (name, file), one in held.items() if name == "ensemble" and one["bytes"] > 100_000]
    gains = {file: 100 * (1 - size("ensemble", file) / size("mixing-large", file)) for file in large}
    worst = min(gains, key=lambda file: gains[file])
    row(
        f"`ensemble` under `mixing-large`, worst of {len(large)}: {worst}",
        "> 0 %",
        gains[worst],
        "{:.1f} %",
        lambda found: found > 0,
    )
    return lines


def rewrite(mark: str, lines: list[str], place: Path = ROOT / "docs" / "results.md") -> None:
    """Replace the table of this mark in a document, or add it at the end."""
    begin = f"<!-- table: {mark} -->"
    before, found, rest = place.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(END)[2] if found else "\n"
    place.write_text(before + "\n".join([begin, *lines, "", END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
