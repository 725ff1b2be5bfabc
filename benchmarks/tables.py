"""Rewrite the generated tables of the documents from docs/results/*.json, which `codelength bench` writes: no figure is typed.

`python -m benchmarks.tables`; `make bench` runs it.
"""

import json
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
    rewrite(MARK, lines)


def rewrite(mark: str, lines: list[str], place: Path = ROOT / "docs" / "results.md") -> None:
    """Replace the table of this mark in a document, or add it at the end."""
    begin = f"<!-- table: {mark} -->"
    before, found, rest = place.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(END)[2] if found else "\n"
    place.write_text(before + "\n".join([begin, *lines, "", END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
