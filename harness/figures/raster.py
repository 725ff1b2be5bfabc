"""A picture as a file of its own: SVG with its colours inside, and PNG made of that, with fonts that are always there."""

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(r":root\s*\{([^}]*)\}")
_VARIABLE: Final = re.compile(r"(--[\w-]+)\s*:\s*([^;]+);")
_USE: Final = re.compile(r"var\((--[\w-]+)\)")
_BOX: Final = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
_GAP: Final = 24


@cache
def stylesheet() -> str:
    """The style of all pictures, as the console serves it."""
    return files("harness.figures").joinpath("figures.css").read_text(encoding="utf-8")


@cache
def _plain_style() -> str:
    """The light colours written out, for readers that know no variables."""
    style = stylesheet()
    first = _BLOCK.search(style)
    values = dict(_VARIABLE.findall(first[1])) if first else {}
    rules = style.partition("/* pictures */")[2]
    return _USE.sub(lambda use: values[use[1]], rules)


def standalone(svg: str) -> str:
    """An SVG document that needs nothing else, in light colours on white."""
    head, _, rest = svg.partition(">")
    box = _BOX.search(head)
    size = f' width="{box[1]}" height="{box[2]}"' if box else ""
    return f'{head}{size}><style>{_plain_style()}</style><rect width="100%" height="100%" fill="#fff"/>{rest}'


def sheet(rows: Sequence[Sequence[str]], title: str) -> str:
    """Pictures as one, in rows."""
    placed, y, width = [], 0.0, 0.0
    for row in rows:
        x = high = 0.0
        for picture in row:
            box = _BOX.search(picture)
            assert box is not None
            wide, tall = float(box[1]), float(box[2])
            placed.append(picture.replace("<svg ", f'<svg x="{x}" y="{y}" width="{wide}" height="{tall}" ', 1))
            x, high = x + wide + _GAP, max(high, tall)
        y, width = y + high + _GAP, max(width, x - _GAP)
    height = max(1.0, y - _GAP)
    size = f'viewBox="0 0 {width + 2 * _GAP:g} {height + 2 * _GAP:g}"'
    head = f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    return f'{head}<g transform="translate({_GAP} {_GAP})">{"".join(placed)}</g></svg>'


def png(svg: str, *, zoom: float = 2.0) -> bytes:
    """The picture as PNG."""
    import matplotlib as mpl
    import resvg_py

    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=standalone(svg).replace("system-ui, ", ""),
            zoom=zoom,
            skip_system_fonts=True,
            font_files=[str(fonts / "DejaVuSans.ttf"), str(fonts / "DejaVuSans-Bold.ttf")],
            font_family="DejaVu Sans",
            sans_serif_family="DejaVu Sans",
        )
    )
