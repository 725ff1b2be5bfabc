"""The step curve: S_k and r_k against k, from transmissions that were frozen after k steps on a corpus; and the online curve."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from harness.figures.pictures import COLOURS
from harness.figures.svg import Chart, Line, short

_LONGEST: Final = 20
_MOST_WITH_Z: Final = 3


@dataclass(slots=True)
class Series:
    """The points of one code on one corpus, by k: records, or results of `transmit --json`."""

    name: str
    colour: int
    points: dict[int, dict[str, Any]] = field(default_factory=dict)

    def line(self, figure: str, factor: float, *, label: str = "", kind: str = "") -> Line:
        """One figure of every point that has it."""
        known = [(k, point[figure]) for k, point in sorted(self.points.items()) if point[figure] is not None]
        return Line(
            label=label or self.name,
            xs=[float(k) for k, _ in known],
            ys=[factor * value for _, value in known],
            kind=f"s{self.colour % COLOURS}{kind}",
            marked=True,
        )


def steps_of(record: Mapping[str, Any]) -> int:
    """The steps on the corpus, also of a transmission that has not got there yet."""
    if "spec" not in record["code"]:
        return int(record["steps"])
    start = record["code"]["spec"].get("training", {}).get("start")
    return int(start["steps"]) if start else 0


def regime_of(record: Mapping[str, Any]) -> str:
    """How a code was trained, in words; none where it learned online from nothing."""
    if record["regime"] == "frozen":
        return f"frozen at k = {steps_of(record):,}"
    return f"online after {steps_of(record):,} steps on a corpus" if record["corpus"] else ""


def name_of(record: Mapping[str, Any]) -> str:
    """A code's name beside a curve, where others of that name may be trained otherwise."""
    name, steps = record["code"]["name"], steps_of(record)
    if record["regime"] == "frozen":
        return f"{name}, k = {steps:,}"
    return f"{name} after {steps:,}" if record["corpus"] else str(name)


def series_of(records: Iterable[Mapping[str, Any]], corpora: Mapping[str, str] | None = None) -> list[Series]:
    """What was verified of frozen transmissions of one dataset, by code and corpus. corpora: names by SHA-256.

    k = 0 needs no corpus: that point belongs to every corpus of its code.
    """
    frozen = [one for one in records if one["regime"] == "frozen" and one["state"] == "verified"]
    several = len({one["corpus"] for one in frozen if one["corpus"]}) > 1
    found: dict[tuple[str, str | None], Series] = {}
    for one in frozen:
        code, corpus = one.get("label") or one["code"]["name"], one["corpus"]
        if corpus is None:
            continue
        if (code, corpus) not in found:
            beside = (corpora or {}).get(corpus) or corpus[:8]
            name = _cut(f"{code}, {beside}" if several else code)
            found[code, corpus] = Series(name=name, colour=len(found))
        found[code, corpus].points[steps_of(one)] = dict(one)
    for one in frozen:
        if one["corpus"] is None:
            code = one.get("label") or one["code"]["name"]
            mine = [series for (name, _), series in found.items() if name == code]
            if not mine:
                mine = [found.setdefault((code, None), Series(name=_cut(code), colour=len(found)))]
            for series in mine:
                series.points[0] = dict(one)
    return list(found.values())


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def step_charts(series: Sequence[Series]) -> tuple[Chart, Chart]:
    """S_k in bytes, with what of it is z beside, and r_k, against k."""
    ks = sorted({k for one in series for k in one.points})
    lengths = [one.line("sk_bits", 1 / 8) for one in series]
    if len(series) <= _MOST_WITH_Z:
        lengths += [one.line("nll_bits", 1 / 8, label=f"{one.name}: z", kind=" thin") for one in series]
    rates = [one.line("compression_rate", 100.0) for one in series]
    top = max((y for line in lengths for y in line.ys), default=1.0)
    low = min((y for line in rates for y in line.ys), default=0.0)
    high = max((y for line in rates for y in line.ys), default=1.0)
    low, high = min(0.0, 1.08 * low), max(1.0, 1.08 * high)
    said = [_said(one) for one in series]
    axis: dict[str, Any] = {
        "x_label": "steps k, with p^(k) fixed",
        "x_top": float(max(ks, default=1) or 1),
        "x_ticks": [float(k) for k in ks],
        "bent": True,
    }
    return (
        Chart(
            title="S_k against k, bytes",
            description=f"S_k in bytes, |f| and the corpus charged. {'; '.join(one for one, _ in said) or 'Nothing yet'}.",
            lines=lengths,
            y_top=1.05 * top,
            **axis,
        ),
        Chart(
            title="r_k against k, %",
            description=f"r_k in percent. {'; '.join(one for _, one in said) or 'Nothing yet'}.",
            lines=rates,
            y_low=low,
            y_top=high,
            y_format=short,
            y_exact=lambda value: f"{value:.2f} %",
            **axis,
        ),
    )


def _said(series: Series) -> tuple[str, str]:
    points = sorted(series.points.items())
    lengths = ", ".join(f"{point['sk_bits'] / 8:,.0f} at k = {k:,}" for k, point in points)
    rates = ", ".join(
        f"{100 * point['compression_rate']:.2f} at k = {k:,}" for k, point in points if point["compression_rate"] is not None
    )
    return f"{series.name}: {lengths}", f"{series.name}: {rates}"


def online_charts(online: Sequence[Mapping[str, Any]]) -> tuple[Chart, Chart]:
    """Bits per token against the tokens seen, and their sum in bytes. online: what `curve --online` makes, one for each code."""
    near, sums, top = [], [], 0.0
    for index, one in enumerate(online):
        kind = f"s{index % COLOURS}"
        seen, bits = one["tokens_seen"], one["bits"]
        local = [
            (end - start) / (there - here)
            for here, there, start, end in zip([0, *seen[:-1]], seen, [0.0, *bits[:-1]], bits, strict=True)
            if there > here
        ]
        near.append(Line(label=one["label"], xs=seen[-len(local) :] if local else [], ys=local, kind=kind))
        sums.append(Line(label=one["label"], xs=[0.0, *seen], ys=[0.0, *(value / 8 for value in bits)], kind=kind))
        top = max([top, *local])
    end = max((float(one["tokens_seen"][-1]) for one in online), default=1.0)
    if online:
        uniform = (online[0]["s0_bits"] - online[0]["f_bits"]["total"]) / max(end, 1.0)
        near.insert(0, Line(label="uniform", xs=[1.0, end], ys=[uniform, uniform], kind="uniform"))
        sums.insert(0, Line(label="uniform", xs=[0.0, end], ys=[0.0, uniform * end / 8], kind="uniform"))
        top = max(top, uniform)
    first = min((float(one["tokens_seen"][0]) for one in online), default=1.0)
    decades = [10.0**power for power in range(1, 13) if first <= 10.0**power <= end]
    said = "; ".join(f"{one['label']}: {one['bits'][-1]:,.0f} bits" for one in online)
    return (
        Chart(
            title="Online: bits per token",
            description=f"Bits per token as they are learned from. {said}.",
            lines=near,
            x_label="tokens seen",
            x_low=first,
            x_top=end,
            x_ticks=decades,
            bent=True,
            y_top=1.05 * top,
            y_exact=lambda value: f"{value:.3f}",
        ),
        Chart(
            title="Online: bytes so far",
            description=f"Their sum in bytes, which ends at S less |f|. {said}.",
            lines=sums,
            x_label="tokens seen",
            x_top=end,
            y_top=1.05 * max(y for line in sums for y in line.ys) if online else 1.0,
        ),
    )
