"""What pictures are drawn from, and the pictures."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from harness.figures.curve import MOST_BINS, Curve, Growing
from harness.figures.pictures import Run, bits_per_byte, cumulative, layer_bars
from harness.figures.raster import png, standalone
from harness.figures.shown import Shown
from harness.figures.svg import ticks
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
