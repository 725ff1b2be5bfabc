"""A picture as a file of its own: SVG with its colours inside, and PNG made of that, with fonts that are always there."""

import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(r":root\s*\{([^}]*)\}")
_VARIABLE: Final = re.compile(r"(--[\w-]+)\s*:\s*([^;]+);")
_USE: Final = re.compile(r"var\((--[\w-]+)\)")


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
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    size = f' width="{box[1]}" height="{box[2]}"' if box else ""
    return f'{head}{size}><style>{_plain_style()}</style><rect width="100%" height="100%" fill="#fff"/>{rest}'


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
