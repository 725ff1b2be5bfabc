"""Charts as SVG text: lines over an axis, and bars that add up. Colours are classes, which figures.css fills for dark and light.

A chart is an image with a label that says in words what it shows. Lines differ in colour, dash and a label at their end.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 460
_HEIGHT: Final = 250
_TOP: Final = 26
_BOTTOM: Final = 38
_LEFT: Final = 50
_LETTER: Final = 7.4  # room for a letter
_LINE_HEIGHT: Final = 14.0

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line: its label, its points, and its class, `s0` … `s7` for data, `uniform` or `other` for yardsticks; `thin` beside."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    kind: str


def short(value: float) -> str:
    """A number in few letters: 12,000 is 12k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def ticks(top: float, wanted: int = 5) -> list[float]:
    """Round numbers from 0 to `top`, about as many as wanted."""
    if top <= 0:
        return [0.0]
    raw = top / wanted
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    return [step * index for index in range(math.floor(top / step + 1e-9) + 1)]


def line_chart(
    title: str,
    description: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    x_top: float,
    y_top: float,
    y_format: Format = short,
    x_format: Format = short,
) -> str:
    """Lines from (0, 0) to (x_top, y_top). What lies above is cut off."""
    right = 14 + _LETTER * max((len(line.label) for line in lines), default=0)
    plot_right, plot_bottom = _WIDTH - right, _HEIGHT - _BOTTOM
    x_top, y_top = max(x_top, 1e-9), max(y_top, 1e-9)

    def x_of(value: float) -> float:
        return _LEFT + (plot_right - _LEFT) * min(value / x_top, 1.0)

    def y_of(value: float) -> float:
        return plot_bottom - (plot_bottom - _TOP) * min(value / y_top, 1.0)

    out = [_open(title, description, _WIDTH, _HEIGHT, "chart")]
    out.append(f'<text class="title" x="0" y="14">{escape(title)}</text>')
    for value in ticks(y_top):
        y = y_of(value)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{plot_right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{y_format(value)}</text>')
    for value in ticks(x_top, 4):
        x = x_of(value)
        out.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{plot_bottom}" y2="{plot_bottom + 4}"/>')
        out.append(f'<text class="tick" x="{x:.1f}" y="{plot_bottom + 16}" text-anchor="middle">{x_format(value)}</text>')
    out.append(f'<line class="axis" x1="{_LEFT}" x2="{plot_right:.1f}" y1="{plot_bottom}" y2="{plot_bottom}"/>')
    out.append(
        f'<text class="tick" x="{(_LEFT + plot_right) / 2:.1f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    ends: list[tuple[float, Line]] = []
    for line in lines:
        if len(line.xs):
            points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(line.xs, line.ys, strict=True))
            out.append(f'<polyline class="line {line.kind}" points="{points}"/>')
            ends.append((y_of(line.ys[-1]), line))
    for y, line in _spread(ends, _TOP, plot_bottom):
        out.append(f'<text class="label {line.kind}" x="{plot_right + 6:.1f}" y="{y + 4:.1f}">{escape(line.label)}</text>')
    return "".join([*out, "</svg>"])


def _spread(ends: list[tuple[float, Line]], top: float, bottom: float) -> list[tuple[float, Line]]:
    """Labels at least a line apart, as near to their lines as that allows."""
    placed: list[tuple[float, Line]] = []
    for y, line in sorted(ends, key=lambda one: one[0]):
        placed.append((max(y, placed[-1][0] + _LINE_HEIGHT) if placed else max(y, top), line))
    limit = bottom
    for index in range(len(placed) - 1, -1, -1):
        y, line = placed[index]
        placed[index] = (min(y, limit), line)
        limit = placed[index][0] - _LINE_HEIGHT
    return placed


def bar(title: str, description: str, parts: Sequence[tuple[str, str, float]], total: float) -> str:
    """A bar of parts: class, label, value. Their sum is the total, which is the bar's whole length."""
    height = 18
    out = [_open(title, description, _WIDTH, height, "bar").replace(" role", ' preserveAspectRatio="none" role', 1)]
    x = 0.0
    for kind, label, value in parts:
        if value > 0:
            width = _WIDTH * value / total
            out.append(f'<rect class="{kind}" x="{x:.2f}" y="0" width="{width:.2f}" height="{height}">')
            out.append(f"<title>{escape(label)}</title></rect>")
            x += width
    return "".join([*out, "</svg>"])


def _open(title: str, description: str, width: int, height: int, kind: str) -> str:
    said = escape(f"{title}. {description}")
    return (
        f'<svg class="{kind}" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{said}">'
    )
