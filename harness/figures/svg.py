"""Charts as SVG text: lines over an axis, and bars that add up. Colours are classes, which figures.css fills for dark and light.

A chart is an image with a label that says in words what it shows; pointing at it shows its values, without a script, and a table
has them for those who do not point. Lines differ in colour, dash and a label at their end.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Final

import numpy as np

_WIDTH: Final = 460
_HEIGHT: Final = 250
_TOP: Final = 26
_BOTTOM: Final = 38
_LEFT: Final = 50
_LETTER: Final = 7.4  # room for a letter
_TIP_LETTER: Final = 6.4
_LINE_HEIGHT: Final = 14.0
_STOPS: Final = 24
_ROWS: Final = 12
_TICK_ROOM: Final = 30.0

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line: its label, its points, and its class, `s0` … `s7` for data, `uniform` or `other` for yardsticks; `thin` beside.

    marked: whether each point is one that was measured, with nothing known between them.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    kind: str
    marked: bool = False

    def at(self, x: float) -> float | None:
        """The value there; None where there is none."""
        if not len(self.xs) or not self.xs[0] <= x <= self.xs[-1]:
            return None
        if self.marked:
            return next((y for place, y in zip(self.xs, self.ys, strict=True) if place == x), None)
        return float(np.interp(x, self.xs, self.ys))


def short(value: float) -> str:
    """A number in few letters: 12,000 is 12k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def whole(value: float) -> str:
    """A number with thousands separated."""
    return f"{value:,.0f}"


def ticks(top: float, wanted: int = 5) -> list[float]:
    """Round numbers from 0 to `top`, about as many as wanted."""
    if top <= 0:
        return [0.0]
    step = _round_step(top, wanted)
    return [step * index for index in range(math.floor(top / step + 1e-9) + 1)]


def _round_step(span: float, wanted: int) -> float:
    raw = span / wanted
    size = 10.0 ** math.floor(math.log10(raw))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines over (x_low, y_low) to (x_top, y_top). What lies above is cut off.

    y_format is for the axis, y_exact for values that are pointed at. x_ticks: places of the axis, where round numbers would not
    do. bent: whether x is drawn by its logarithm, log(1 + x).
    """

    title: str
    description: str
    lines: Sequence[Line]
    x_label: str
    x_top: float
    y_top: float
    x_low: float = 0.0
    y_low: float = 0.0
    x_ticks: Sequence[float] | None = None
    bent: bool = False
    y_format: Format = short
    y_exact: Format = whole
    x_format: Format = short
    _right: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        room = 14 + _LETTER * max((len(line.label) for line in self.lines), default=0)
        object.__setattr__(self, "_right", _WIDTH - room)

    def _x(self, value: float) -> float:
        bend = math.log1p if self.bent else float
        low, top = bend(self.x_low), bend(max(self.x_top, self.x_low + 1e-9))
        return _LEFT + (self._right - _LEFT) * min(max((bend(value) - low) / (top - low), 0.0), 1.0)

    def _y(self, value: float) -> float:
        bottom, span = _HEIGHT - _BOTTOM, max(self.y_top - self.y_low, 1e-9)
        return bottom - (bottom - _TOP) * min((value - self.y_low) / span, 1.0)

    def svg(self) -> str:
        """The picture."""
        out = [_open(self.title, self.description, _WIDTH, _HEIGHT, "chart")]
        out.append(f'<text class="title" x="0" y="14">{escape(self.title)}</text>')
        out += [*self._y_axis(), *self._x_axis()]
        ends: list[tuple[float, Line]] = []
        for line in self.lines:
            if len(line.xs):
                places = [(self._x(x), self._y(y)) for x, y in zip(line.xs, line.ys, strict=True)]
                points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
                out.append(f'<polyline class="line {line.kind}" points="{points}"/>')
                if not line.marked and line.xs[-1] < self.x_top:
                    x, y = places[-1]
                    out.append(f'<circle class="mark {line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
                elif line.marked:
                    out += [f'<circle class="mark {line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
                ends.append((self._y(line.ys[-1]), line))
        for y, line in _spread(ends, _TOP, _HEIGHT - _BOTTOM):
            out.append(f'<text class="label {line.kind}" x="{self._right + 6:.1f}" y="{y + 4:.1f}">{escape(line.label)}</text>')
        return "".join([*out, *self._tips(), "</svg>"])

    def html(self) -> str:
        """The picture with its values as a table below."""
        return self.svg() + self.table()

    def _y_axis(self) -> Iterator[str]:
        span = max(self.y_top - self.y_low, 1e-9)
        step = _round_step(span, 5)
        first = math.ceil(self.y_low / step - 1e-9)
        for index in range(first, math.floor((self.y_low + span) / step + 1e-9) + 1):
            y = self._y(step * index)
            kind = "axis" if index == 0 and self.y_low < 0 else "grid"
            yield f'<line class="{kind}" x1="{_LEFT}" x2="{self._right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{self.y_format(step * index)}</text>'

    def _x_axis(self) -> Iterator[str]:
        bottom, last = _HEIGHT - _BOTTOM, -math.inf
        for value in ticks(self.x_top, 4) if self.x_ticks is None else self.x_ticks:
            x = self._x(value)
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            if x - last >= _TICK_ROOM or self.x_ticks is None:
                last = x
                yield f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{self.x_format(value)}</text>'
        yield f'<line class="axis" x1="{_LEFT}" x2="{self._right:.1f}" y1="{bottom}" y2="{bottom}"/>'
        middle = (_LEFT + self._right) / 2
        yield f'<text class="tick" x="{middle:.1f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(self.x_label)}</text>'

    def _stops(self, most: int) -> list[tuple[float, list[tuple[Line, float]]]]:
        """Places with the values there: those of points that were measured, else about evenly spread."""
        marked = sorted({x for line in self.lines if line.marked for x in line.xs})
        drawn = [line for line in self.lines if line.kind not in ("uniform", "other") and len(line.xs)]
        if not marked:
            end = max((line.xs[-1] for line in drawn), default=self.x_low)
            marked = np.linspace(self.x_low, end, most + 1)[1:].round().tolist() if end > self.x_low and drawn else []
            marked = sorted(set(marked))
        found = []
        for x in marked:
            values = [(line, value) for line in self.lines if (value := line.at(x)) is not None]
            if values:
                found.append((x, values))
        return found

    def _tips(self) -> Iterator[str]:
        """A rule, a dot on every line and the values in a box, at every stop; figures.css shows the one that is pointed at."""
        stops = self._stops(_STOPS)
        places = [self._x(x) for x, _ in stops]
        between = [(one + other) / 2 for one, other in pairwise(places)]
        bottom = _HEIGHT - _BOTTOM
        edges = [float(_LEFT), *between, max(self._right, *places)] if places else []
        for (value, values), x, left, right in zip(stops, places, edges, edges[1:], strict=False):
            rows = [("", f"{whole(value)} {self.x_label.partition(',')[0]}")]
            rows += [(line.kind, f"{line.label}: {self.y_exact(y)}") for line, y in values]
            wide = 10 + _TIP_LETTER * max(len(text) for _, text in rows)
            at = x + 8 if x + 8 + wide <= _WIDTH else max(0.0, x - 8 - wide)
            yield f'<g class="stop"><rect class="hit" x="{left:.1f}" y="{_TOP}" width="{max(right - left, 0):.1f}" '
            yield f'height="{bottom - _TOP}"/><g class="tip">'
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            for line, y in values:
                yield f'<circle class="mark {line.kind}" cx="{x:.1f}" cy="{self._y(y):.1f}" r="3"/>'
            tall = 6 + _LINE_HEIGHT * len(rows)
            yield f'<rect class="box" x="{at:.1f}" y="{_TOP}" width="{wide:.0f}" height="{tall:.0f}" rx="4"/>'
            for index, (kind, text) in enumerate(rows):
                y = _TOP + _LINE_HEIGHT * (index + 1) - 1
                yield f'<text class="said {kind}" x="{at + 5:.1f}" y="{y:.0f}">{escape(text)}</text>'
            yield "</g></g>"

    def table(self) -> str:
        """The values as a table, folded."""
        stops = self._stops(_ROWS)
        if not stops:
            return ""
        heads = "".join(f'<th scope="col" class="n">{escape(line.label)}</th>' for line in self.lines)
        rows = []
        for x, values in stops:
            known = {id(line): y for line, y in values}
            cells = "".join(
                f'<td class="n">{self.y_exact(known[id(line)]) if id(line) in known else "–"}</td>' for line in self.lines
            )
            rows.append(f'<tr><th scope="row" class="n">{whole(x)}</th>{cells}</tr>')
        return (
            '<details class="values"><summary>Values</summary>'
            f'<div class="scroll" role="region" aria-label="{escape(self.title)}, values" tabindex="0"><table><thead><tr>'
            f'<th scope="col" class="n">{escape(self.x_label.partition(",")[0])}</th>{heads}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div></details>"
        )


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
