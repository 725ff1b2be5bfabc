"""What pictures are drawn from, and the pictures."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from harness.figures.curve import MOST_BINS, Curve, Growing
from harness.figures.pictures import Run, bits_per_byte, cumulative, layer_bars
from harness.figures.raster import png, standalone
from harness.figures.shown import Shown
from harness.figures.steps import name_of, online_charts, regime_of, series_of, step_charts
from harness.figures.svg import Chart, Line, ticks
from harness.figures.text import spans, step

COSTS = np.random.default_rng(0).exponential(2.0, 70_001)


@pytest.mark.parametrize("parts", [[70_001], [1] * 300 + [69_701], [4096] * 17 + [369], [799, 1, 1, 69_200]])
def test_a_curve_is_the_sum_of_all_costs_however_they_come(parts):
    growing, position = Growing(), 0
    for size in parts:
        growing.add(COSTS[position : position + size])
        position += size
        assert growing.tokens == growing.positions()[-1] == position
    positions, bits = growing.positions(), growing.bits()
    assert MOST_BINS / 2 < len(positions) <= 2 * MOST_BINS + 2
    assert np.all(np.diff(positions) > 0)
    assert np.allclose(bits, np.concatenate(([0.0], np.cumsum(COSTS)))[positions])


def test_per_byte_from_the_beginning_and_lately():
    curve = Curve.of_costs(np.concatenate((np.full(30_000, 8.0), np.full(30_000, 2.0))), width=2)
    assert curve.per_byte()[1][-1] == pytest.approx(2.5)
    assert curve.per_byte_lately()[1][-1] == pytest.approx(1.0)
    blocks = [{"first": 30_000 * i, "tokens": 30_000, "nll_bits": bits} for i, bits in enumerate((240_000.0, 60_000.0))]
    assert Curve.of_blocks(blocks, 2).bits.tolist() == [0.0, 240_000.0, 300_000.0]
    assert curve.extended([(5, 1.0), (60_001, 300_002.0)]).bits[-1] == 300_002.0


def drawn(svg):
    root = ET.fromstring(svg)
    lines = {one.get("class"): one.get("points") for one in root.iter("{http://www.w3.org/2000/svg}polyline")}
    ends = {name: [tuple(map(float, point.split(","))) for point in points.split()][-1] for name, points in lines.items()}
    return root, ends


def test_pictures_say_in_words_what_they_show_and_draw_it_to_scale():
    run = Run(name="<ngram>", curve=Curve.of_costs(np.full(1000, 2.0)))
    root, ends = drawn(cumulative([run], tokens=1000, vocabulary_size=256, yardsticks={"gzip -9": 500}).svg())
    assert "<ngram>: 2,000" in root.get("aria-label")
    bottom = 250 - 38
    height = {name: bottom - y for name, (_, y) in ends.items()}
    assert height["line s0"] / height["line uniform"] == pytest.approx(2 / 8, abs=0.01)
    assert height["line other"] / height["line uniform"] == pytest.approx(4 / 8, abs=0.01)
    root, _ = drawn(bits_per_byte([run], tokens=1000, vocabulary_size=256).svg())
    assert "2.000" in root.get("aria-label")
    assert drawn(bits_per_byte([], tokens=0, vocabulary_size=256).svg())[0] is not None


def test_a_bar_adds_up():
    names = ("z_bytes", "payload_bytes", "framing_bytes", "control_bytes", "handshake_bytes", "socket_bytes")
    whole, rest = layer_bars(dict(zip(names, (900, 940, 20, 10, 30, 1000), strict=True)))
    for svg in (whole, rest):
        widths = [float(width) for width in re.findall(r'width="([\d.]+)" height', svg)]
        assert sum(widths) == pytest.approx(460, abs=0.1)
    assert "together 1,000 bytes" in whole
    assert "together 100 bytes" in rest


@pytest.mark.parametrize("top", [1e-3, 0.7, 8, 9.99, 1234, 5e9])
def test_ticks_are_round_and_inside(top):
    found = ticks(top)
    assert found[0] == 0
    assert found[-1] <= top * 1.0001
    assert 3 <= len(found) <= 6


def test_text_is_escaped_and_characters_are_whole():
    data = "<é\n".encode() + b"\xff\x00"
    html = spans([{"first": 10, "provisional": False, "tokens": list(data), "bits": [1.0] * len(data)}], octets=True)
    assert "&lt;" in html
    assert 'data-b="2.00" data-p="11" data-n="2">é<' in html
    assert "<i>FF</i>" in html
    assert "↵\n" in html
    pieces = [{"first": place, "provisional": True, "tokens": [7], "bits": [9.0]} for place in (0, 5)]
    html = spans(pieces, octets=False)
    assert 'data-gap="4"' in html
    assert html.count('class="c7 p"') == 2
    assert [step(bits) for bits in (0, 0.1, 11.9, 12, 99)] == [0, 1, 7, 8, 8]


def test_a_png_needs_no_browser_and_no_fonts_of_the_system():
    svg = cumulative([], tokens=10, vocabulary_size=4, yardsticks={}).svg()
    assert "var(" not in standalone(svg)
    assert png(svg, zoom=1)[:8] == b"\x89PNG\r\n\x1a\n"
    assert png(svg, zoom=1) != png(svg.replace("tokens", ""), zoom=1)  # so letters are drawn


def test_what_goes_on_by_itself_is_not_settled():
    def record(state, **more):
        return {"state": state, "wire": {"final": True}, **more}

    assert Shown("x", {"alice": record("interrupted", resuming=False), "bob": record("interrupted")}).settled
    assert not Shown("x", {"alice": record("interrupted", resuming=True), "bob": record("interrupted")}).settled


def test_values_are_told_where_one_points_and_in_a_table():
    costs = np.random.default_rng(1).exponential(2.0, 5000)
    chart = cumulative([Run(name="a&b", curve=Curve.of_costs(costs))], tokens=9000, vocabulary_size=256, yardsticks={"xz": 700})
    root = ET.fromstring(chart.svg())
    space = {"": "http://www.w3.org/2000/svg"}
    stops = [stop for stop in root.iter(f"{{{space['']}}}g") if stop.get("class") == "stop"]
    assert len(stops) == 24
    for stop in stops:
        place, uniform, _, mine = [text.text for text in stop.iterfind(".//text", space)]
        tokens = int(place.removesuffix(" tokens").replace(",", ""))
        assert uniform == f"uniform: {8 * tokens:,}"
        told = float(mine.removeprefix("a&b: ").replace(",", ""))
        assert told == pytest.approx(costs[:tokens].sum(), abs=20)  # a bin is interpolated
    hits = [stop.find("rect", space) for stop in stops]
    ends = [float(one.get("x")) + float(one.get("width")) for one in hits]
    assert ends[:-1] == pytest.approx([float(one.get("x")) for one in hits[1:]], abs=0.2)  # no gap between them
    table = ET.fromstring(chart.table())
    assert [cell.text for cell in table.iter("th")][:4] == ["tokens", "uniform", "xz", "a&b"]
    last = list(table.iter("tr"))[-1]
    assert [cell.text for cell in last] == ["5,000", "40,000", "5,600", f"{costs.sum():,.0f}"]
    assert cumulative([], tokens=9, vocabulary_size=4, yardsticks={}).table() == ""


def record(code, k, corpus, bits, **more):
    """A frozen transmission as services tell it."""
    start = {"corpus": corpus, "steps": k} if corpus else None
    return {
        "code": {"name": code, "spec": {"training": {"kind": "frozen", "start": start}}},
        "regime": "frozen",
        "state": "verified",
        "corpus": corpus,
        "steps": 0,
        "sk_bits": bits,
        "nll_bits": bits / 2,
        "compression_rate": 1 - bits / 1000,
        **more,
    }


def test_a_step_curve_is_made_of_what_was_verified():
    records = [
        record("ngram", 10, "aa", 1600.0),
        record("ngram", 0, None, 1000.0),
        record("ngram", 3, "aa", 400.0),
        record("ngram", 7, "aa", 1.0, state="running"),
        record("ngram", 9, "aa", 1.0, regime="online"),
        record("uniform", 0, None, 1000.0),
    ]
    ngram, uniform = series_of(records)
    assert (ngram.name, list(ngram.points), list(uniform.points)) == ("ngram", [10, 3, 0], [0])
    assert [one.name for one in series_of([*records, record("ngram", 5, "bb", 9.0)], {"bb": "book.txt"})] == [
        "ngram, aa",
        "ngram, book.txt",
        "uniform",
    ]
    assert [regime_of(one) for one in records[:2]] == ["frozen at k = 10", "frozen at k = 0"]
    assert [name_of(one) for one in records[:2]] == ["ngram, k = 10", "ngram, k = 0"]
    lengths, rates = step_charts([ngram, uniform])
    assert "ngram: 125 at k = 0, 50 at k = 3, 200 at k = 10" in lengths.description
    assert "ngram: 0.00 at k = 0, 60.00 at k = 3, -60.00 at k = 10" in rates.description
    root, ends = drawn(rates.svg())
    places = [
        point.split(",") for one in root.iter("{http://www.w3.org/2000/svg}polyline") for point in one.get("points").split()
    ]
    ys = [float(y) for _, y in places[:3]]
    assert ys[1] < ys[0] < ys[2] == ends["line s0"][1] < 250 - 38  # below the axis, and inside
    assert "60.00 %" in rates.table()
    assert "–" in rates.table()  # uniform has no point at 3
    assert png(step_charts([])[0].svg(), zoom=1)[:4] == b"\x89PNG"


def test_a_line_tells_nothing_between_its_points_nor_beyond_its_end():
    line = Line(label="x", xs=[1.0, 3.0], ys=[2.0, 4.0], kind="s0")
    assert [line.at(x) for x in (0, 1, 2, 3, 4)] == [None, 2.0, 3.0, 4.0, None]
    marked = Line(label="x", xs=[1.0, 3.0], ys=[2.0, 4.0], kind="s0", marked=True)
    assert [marked.at(x) for x in (0, 1, 2, 3, 4)] == [None, 2.0, None, 4.0, None]
    bent = Chart(title="", description="", lines=[marked], x_label="k", x_top=3.0, y_top=5.0, bent=True, x_ticks=[0, 1, 3])
    xs = [float(x) for x in re.findall(r'<circle class="mark s0" cx="([\d.]+)"', bent.svg())[:2]]
    assert (xs[0] - 50) / (xs[1] - 50) == pytest.approx(0.5, abs=0.01)  # log 2 / log 4


def test_the_online_curve():
    one = {
        "label": "ngram",
        "tokens_seen": [64, 128, 1000],
        "bits": [512.0, 640.0, 2384.0],
        "s0_bits": 8100.0,
        "f_bits": {"total": 100},
    }
    near, sums = online_charts([one])
    assert [line.ys for line in near.lines] == [[8.0, 8.0], [8.0, 2.0, 2.0]]
    assert sums.lines[1].ys[-1] == 298.0
    assert "ngram: 2,384 bits" in near.description
