"""Which pictures a transmission has: bits per byte as they fall, cumulative bits beside yardsticks, and the ledger's layers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.figures.curve import Curve
from harness.figures.svg import Chart, Line, bar

COLOURS: Final = 8
LAYERS: Final = (
    ("z", "z", "the arithmetic code"),
    ("messages", "messages", "what wraps z: lengths, checks, HELLO and the like"),
    ("framing", "framing", "websocket frame headers"),
    ("control", "control", "ping, pong and close"),
    ("handshake", "handshake", "the HTTP upgrade"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One transmission as a picture needs it: the code's name and its curve. colour: which of the palette."""

    name: str
    curve: Curve
    colour: int = 0

    @property
    def kind(self) -> str:
        """The class of its lines."""
        return f"s{self.colour % COLOURS}"


def _final(run: Run) -> float:
    return float(run.curve.per_byte()[1][-1]) if len(run.curve.positions) > 1 else math.nan


def bits_per_byte(runs: Sequence[Run], *, tokens: int | None, vocabulary_size: int) -> Chart:
    """Bits per byte against the position. Of one run also over the last thirtieth of the data alone."""
    lines, top = [], 0.0
    uniform = math.log2(vocabulary_size) / (runs[0].curve.width if runs else 1)
    for run in runs:
        xs, ys = run.curve.per_byte()
        if len(runs) == 1 and len(xs) > 2:
            lately_xs, lately = run.curve.per_byte_lately()
            lines.append(Line(label="lately", xs=lately_xs.tolist(), ys=lately.tolist(), kind=f"{run.kind} thin"))
        if len(xs):
            top = max(top, float(np.quantile(ys, 0.98)))
        lines.append(
            Line(label="so far" if len(runs) == 1 else run.name, xs=xs.tolist(), ys=ys.tolist(), kind=run.kind),
        )
    end = _end(runs, tokens)
    lines.insert(0, Line(label="uniform", xs=[0.0, float(end)], ys=[uniform, uniform], kind="uniform"))
    said = "; ".join(f"{run.name}: {_final(run):.3f}" for run in runs if len(run.curve.positions) > 1)
    return Chart(
        title="Bits per byte",
        description=f"Bits per byte after {end:,} tokens, {said or 'nothing yet'}. Uniform: {uniform:.3f}.",
        lines=lines,
        x_label="tokens",
        x_top=float(end),
        y_top=max(uniform, min(top, 2 * uniform)) * 1.05,
        y_format=lambda value: f"{value:.3g}",
        y_exact=lambda value: f"{value:.3f}",
    )


def cumulative(runs: Sequence[Run], *, tokens: int | None, vocabulary_size: int, yardsticks: Mapping[str, int]) -> Chart:
    """Σ −log2 p against the position. yardsticks: bytes of other programs' output, by their name."""
    end = _end(runs, tokens)
    uniform = end * math.log2(vocabulary_size)
    lines = [Line(label="uniform", xs=[0.0, float(end)], ys=[0.0, uniform], kind="uniform")]
    for name, size in yardsticks.items():
        lines.append(Line(label=name, xs=[0.0, float(end)], ys=[8.0 * size, 8.0 * size], kind="other"))
    top = uniform
    for run in runs:
        bits = run.curve.bits
        top = max(top, float(bits[-1]))
        lines.append(Line(label=run.name, xs=run.curve.positions.tolist(), ys=bits.tolist(), kind=run.kind))
    said = "; ".join(f"{run.name}: {run.curve.bits[-1]:,.0f}" for run in runs)
    beside = "; ".join(f"{name} of the whole: {8 * size:,}" for name, size in yardsticks.items())
    return Chart(
        title="Cumulative bits",
        description=f"Bits after the tokens sent so far, |f| not among them. Uniform, all {end:,} tokens: {uniform:,.0f}; "
        + "; ".join(part for part in (said, beside) if part),
        lines=lines,
        x_label="tokens",
        x_top=float(end),
        y_top=top * 1.03,
    )


def _end(runs: Sequence[Run], tokens: int | None) -> int:
    return max(1, tokens or max((int(run.curve.positions[-1]) for run in runs), default=0))


def layers(direction: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """One direction of the wire in parts that add up to its socket bytes: class, name, bytes."""
    sizes = {
        "z": direction["z_bytes"],
        "messages": direction["payload_bytes"] - direction["z_bytes"],
        "framing": direction["framing_bytes"],
        "control": direction["control_bytes"],
        "handshake": direction["handshake_bytes"],
    }
    return [(kind, name, sizes[kind]) for kind, name, _ in LAYERS]


def layer_bars(direction: Mapping[str, Any]) -> tuple[str, str]:
    """The layers as a bar, and all but z again, magnified."""
    parts = layers(direction)
    named = [(kind, f"{name}: {size:,} bytes", float(size)) for kind, name, size in parts]
    said = ", ".join(f"{name} {size:,}" for _, name, size in parts)
    whole, rest = sum(one[2] for one in named), sum(one[2] for one in named[1:])
    first = bar("Bytes on the socket by layer", f"{said}; together {whole:,.0f} bytes", named, max(whole, 1))
    second = bar("All but z, magnified", f"together {rest:,.0f} bytes", named[1:], max(rest, 1))
    return first, second


def sample_bar(drawn: Mapping[str, Any]) -> str:
    """The coin flips of a sample: as many as -log2 of its interval, and those that the decoder has read ahead."""
    spent, flips = float(drawn["nll_bits"]), float(drawn["flips"])
    ahead = ("messages", f"read ahead: {flips - spent:,.1f}", flips - spent)
    parts = [("z", f"-log2 of the interval: {spent:,.1f} bits", spent), ahead]
    said = f"-log2 of the interval {spent:,.1f}, read ahead {flips - spent:,.1f}; together {flips:,.0f}"
    return bar("Coin flips", said, parts, max(flips, 1.0))
