"""The picture of a curve. matplotlib is imported here, when a picture is wanted, and nowhere else."""

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INCHES: Final = (11.0, 4.2)
_DOTS: Final = 130


def draw(document: dict[str, Any], path: Path) -> None:
    """S_k and r_k against k, and, where there are online curves, bits against tokens seen. Raises `OSError`."""
    rows = [part for part, kind in ((_frozen, "points"), (_online, "online")) if document[kind]]
    figure = Figure(figsize=(_INCHES[0], _INCHES[1] * max(1, len(rows))), layout="constrained")
    axes = figure.subplots(max(1, len(rows)), 2, squeeze=False)
    for row, part in zip(axes, rows, strict=False):
        part(document, row[0], row[1])
    name = document["dataset"]["name"] or document["dataset"]["sha256"][:12]
    figure.suptitle(f"{name}: {document['dataset']['tokens']:,} tokens, m = {document['dataset']['vocabulary_size']:,}")
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=_DOTS)


def _frozen(document: dict[str, Any], left: Axes, right: Axes) -> None:
    for name in dict.fromkeys(one["label"] for one in document["points"]):
        points = sorted((one for one in document["points"] if one["label"] == name), key=lambda one: one["k"])
        steps = [one["k"] for one in points]
        (line,) = left.plot(steps, [one["sk_bits"] / 8000 for one in points], marker="o", label=name)
        left.plot(steps, [one["nll_bits"] / 8000 for one in points], marker=".", linestyle=":", color=line.get_color())
        right.plot(steps, [_percent(one["compression_rate"]) for one in points], marker="o", label=name)
    for axis in (left, right):
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlabel("k, steps on the corpus; p^(k) is fixed")
        axis.grid(alpha=0.3)
        axis.legend()
    left.set_ylabel("S_k in kB, |f| and corpus charged (dotted: z alone)")
    right.set_ylabel("r_k in %")


def _online(document: dict[str, Any], left: Axes, right: Axes) -> None:
    for one in document["online"]:
        seen, bits = one["tokens_seen"], one["bits"]
        local = [
            (end - start) / (there - here)
            for here, there, start, end in zip([0, *seen[:-1]], seen, [0.0, *bits[:-1]], bits, strict=True)
        ]
        (line,) = left.plot(seen, local, label=one["label"], linewidth=1)
        if one["final_loss"] is not None:
            left.axhline(one["final_loss"], color=line.get_color(), linestyle=":", linewidth=1)
        right.plot(seen, [value / 8000 for value in bits], label=one["label"])
    if document["online"]:
        seen = document["online"][0]["tokens_seen"]
        uniform = (document["online"][0]["s0_bits"] - document["online"][0]["f_bits"]["total"]) / max(seen[-1], 1)
        right.plot(seen, [place * uniform / 8000 for place in seen], color="grey", linestyle="--", label="uniform")
    left.set_xscale("log")
    left.set_ylabel("bits per token (dotted: the last tenth)")
    right.set_ylabel("bits so far, kB: its end is S − |f|")
    for axis in (left, right):
        axis.set_xlabel("tokens seen, online")
        axis.grid(alpha=0.3)
        axis.legend()


def _percent(value: float | None) -> float:
    return float("nan") if value is None else 100 * value
