"""HTML of what is known: whole pages, and the parts of them that are replaced while something runs."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import jinja2
from markupsafe import Markup

from harness.figures import text
from harness.figures.pictures import LAYERS, Run, bits_per_byte, cumulative, layer_bars, layers, sample_bar
from harness.figures.shown import FINAL_STATES, SHOWN_TOKENS, Shown, ended, token_bytes
from harness.figures.steps import name_of, regime_of, series_of, step_charts
from harness.figures.svg import Chart

STATES: Final = {
    "queued": "waiting for its turn",
    "running": "running",
    "paused": "paused",
    "interrupted": "interrupted",
    "verified": "verified",
    "failed": "failed",
    "cancelled": "cancelled",
}


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands separated; – where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def size(count: float | None) -> str:
    """Bytes in a unit that people read."""
    if count is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def percent(value: float | None) -> str:
    """A rate."""
    return "–" if value is None else f"{100 * value:.2f} %".replace("-", "−")


def seconds(value: float | None) -> str:
    """A time."""
    return "–" if value is None else f"{value:,.1f} s"


def speed(bits: float | None) -> str:
    """Bits per second in a unit that people read."""
    if bits is None:
        return "–"
    for unit, factor in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits >= factor:
            return f"{bits / factor:.3g} {unit}"
    return f"{bits:.0f} bit/s"


@cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.console"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters.update(
        width=token_bytes, number=number, size=size, percent=percent, seconds=seconds, speed=speed, regime=regime_of
    )
    found.globals.update(states=STATES, ended=FINAL_STATES, layer_words={kind: words for kind, _, words in LAYERS})
    return found


def render(template: str, **values: Any) -> str:
    """A template of this package."""
    return _templates().get_template(template).render(**values)


def run_parts(watch: Shown, yardsticks: dict[str, int], *, only: tuple[str, ...] | None = None) -> dict[str, Markup]:
    """A transmission's parts by name: HTML to be put on its page."""

    def chart(name: str) -> str:
        return _charts([watch], watch.record["dataset"], yardsticks)[name].html()

    makers: dict[str, Callable[[], str]] = {
        "state": lambda: render("parts/state.html", **_facts(watch)),
        "actors": lambda: render("parts/actors.html", **_facts(watch)),
        "formula": lambda: render("parts/formula.html", **_facts(watch)),
        "falling": lambda: chart("falling"),
        "cumulative": lambda: chart("cumulative"),
        "ledger": lambda: ledger(watch),
        "text": lambda: decoded(watch),
        "news": lambda: news(watch),
    }
    return {name: Markup(make()) for name, make in makers.items() if only is None or name in only}  # noqa: S704 - made by templates


def _facts(watch: Shown) -> dict[str, Any]:
    """What templates need to know of a transmission."""
    record, alice, bob = watch.record, watch.records.get("alice"), watch.records.get("bob")
    tokens = record["dataset"]["tokens"]
    done = (bob or record)["tokens_done"]
    return {
        "run": record,
        "alice": alice,
        "bob": bob,
        "figures": bob if bob and bob["tokens_done"] else record,
        "tokens": tokens,
        "done": done,
        "sent": (alice or record)["tokens_done"],
        "share": done / tokens if tokens else (1.0 if record["state"] == "verified" else 0.0),
        "uniform_bits": f"{math.log2(record['dataset']['vocabulary_size']):.6g}",
        "rate": watch.socket_bits_per_second,
        "socket_bytes": watch.socket_bytes,
        "checked": watch.text["checked"] if watch.text else None,
        "problems": list(watch.problems.values()),
    }


def news(watch: Shown) -> str:
    """One sentence for those who listen; it changes seldom."""
    facts = _facts(watch)
    state = facts["run"]["state"]
    if state in FINAL_STATES:
        cost = facts["figures"]["bits_per_byte"]
        return f"The transmission is {state}{'' if cost is None else f' at {cost:.3f} bits per byte'}."
    return f"{STATES[state].capitalize()}: {10 * int(10 * facts['share'])} percent decoded."


def ledger(watch: Shown) -> str:
    """The wire's layers, as bars and as numbers that add up."""
    alice, bob = watch.records.get("alice"), watch.records.get("bob")
    forth = alice["wire"]["sent"] if alice else bob["wire"]["received"] if bob else {}
    back = alice["wire"]["received"] if alice else bob["wire"]["sent"] if bob else {}
    whole, rest = layer_bars(forth)
    rows = [(kind, name, there, here) for (kind, name, there), (_, _, here) in zip(layers(forth), layers(back), strict=True)]
    return render(
        "parts/ledger.html",
        whole=Markup(whole),  # noqa: S704 - made by the pictures
        rest=Markup(rest),  # noqa: S704
        rows=rows,
        forth=forth,
        back=back,
        kernel={"alice": forth.get("tcp_info_bytes"), "bob": bob["wire"]["received"]["tcp_info_bytes"] if bob else None},
        final=bool(alice and bob and alice["wire"]["final"] and bob["wire"]["final"]),
        agree=bool(alice and bob and forth["socket_bytes"] == bob["wire"]["received"]["socket_bytes"]),
    )


def decoded(watch: Shown, part: dict[str, Any] | None = None) -> str:
    """Bob's text, or a part of it."""
    found = part if part is not None else watch.text
    if not found or not found["pieces"]:
        return '<span class="quiet">Nothing has been decoded yet.</span>'
    octets = watch.record["dataset"]["vocabulary"] == "bytes"
    first = found["pieces"][0]["first"]
    lead = f'<span class="gap" title="{first:,} tokens before">⋯</span>' if first else ""
    last = found["pieces"][-1]
    more = (watch.record["dataset"]["tokens"] or 0) - last["first"] - len(last["tokens"])
    tail = f'<span class="gap" title="{more:,} tokens after">⋯</span>' if more > 0 else ""
    return lead + text.spans(found["pieces"], octets=octets) + tail


def run_page(watch: Shown, yardsticks: dict[str, int], table: str) -> str:
    """The page of one transmission."""
    facts = _facts(watch)
    return render(
        "run.html",
        title=f"{facts['run']['code']['name']} · {facts['run']['dataset']['name'] or 'dataset'}",
        parts=run_parts(watch, yardsticks),
        table=Markup(table),  # noqa: S704 - made by a template
        scale=scale(),
        shown_tokens=SHOWN_TOKENS,
        **facts,
    )


def scale() -> list[tuple[int, float | None, float | None]]:
    """The colours of costs: which, from and below how many bits."""
    return [(index, *_limits(index)) for index in range(len(text.STEPS) + 1)]


def _limits(index: int) -> tuple[float | None, float | None]:
    steps = (0.0, *text.STEPS, None)
    return steps[index], steps[index + 1]


def comparison_charts(watches: Sequence[Shown], dataset: dict[str, Any], yardsticks: dict[str, int]) -> dict[str, Chart]:
    """All transmissions of one dataset in the same two pictures; those frozen at some k only where there are no others."""
    learning = [watch for watch in watches if watch.record["regime"] != "frozen"] or watches
    return _charts([watch for watch in learning if len(watch.curve.positions) > 1], dataset, yardsticks)


def comparison_pictures(watches: Sequence[Shown], dataset: dict[str, Any], yardsticks: dict[str, int]) -> dict[str, Markup]:
    """The same with their values, as HTML."""
    found = comparison_charts(watches, dataset, yardsticks)
    return {name: Markup(chart.html()) for name, chart in found.items()}  # noqa: S704 - made by the pictures


def _charts(watches: Sequence[Shown], dataset: dict[str, Any], yardsticks: dict[str, int]) -> dict[str, Chart]:
    named = [Run(name=name_of(watch.record), curve=watch.curve, colour=index) for index, watch in enumerate(watches)]
    tokens, size_m = dataset["tokens"], dataset["vocabulary_size"]
    return {
        "falling": bits_per_byte(named, tokens=tokens, vocabulary_size=size_m),
        "cumulative": cumulative(named, tokens=tokens, vocabulary_size=size_m, yardsticks=yardsticks),
    }


def curve(records: Sequence[dict[str, Any]], corpora: dict[str, str] | None = None) -> Markup:
    """The step curve of one dataset, as far as its points are there."""
    frozen = [one for one in records if one["regime"] == "frozen"]
    pictures = [chart.html() for chart in step_charts(series_of(frozen, corpora))]
    return Markup(  # noqa: S704 - made by a template
        render(
            "parts/curve.html",
            pictures=[Markup(one) for one in pictures],  # noqa: S704 - made by the pictures
            made=sum(one["state"] == "verified" for one in frozen),
            waiting=sum(not ended(one) for one in frozen),
            lost=[one for one in frozen if ended(one) and one["state"] != "verified"],
        )
    )


def drawn(found: dict[str, Any]) -> Markup:
    """A sample that Bob has drawn."""
    bar = Markup(sample_bar(found))  # noqa: S704 - made by the pictures
    return Markup(render("parts/sample.html", drawn=found, bar=bar))  # noqa: S704 - made by a template
