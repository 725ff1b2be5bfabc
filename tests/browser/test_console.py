"""The console in a real browser, before real services."""

import itertools
import re

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE

TEXT = (b"It was the best of times, it was the worst of times, it was the age of wisdom. " * 2000)[:120_000]
_seeds = itertools.count(100)


def number(locator) -> float:
    return float(re.sub(r"[^\d.]", "", locator.inner_text()))


@pytest.fixture
def verified(client):
    """A finished transmission of a text."""
    return client.transmit(client.post_octets(TEXT, "times.txt")["id"], "ngram")


def test_upload_transmit_finish_reload(open_page, cluster, shot):
    page = open_page("/")
    page.get_by_label("Drop a file here").set_input_files({"name": "times.txt", "mimeType": "text/plain", "buffer": TEXT})
    shot(page, "home")
    page.get_by_role("button", name="Transmit").click()
    page.wait_for_url("**/runs/*")
    expect(page.locator("[data-part=state] .badge")).to_have_text("verified", timeout=30_000)
    record = httpx.get(f"{cluster.bob}/transmissions/{page.url.rpartition('/')[2]}", trust_env=False).json()
    expect(page.locator(".good")).to_have_text("= D")
    for _ in range(2):  # as it was left, and as it is after a reload
        rates = page.locator(".rates dd")
        assert number(rates.nth(1)) == round(100 * record["compression_rate"], 2)
        assert number(rates.nth(3)) == round(record["bits_per_byte"], 4)
        assert number(page.locator(".sums b").nth(1)) == round(record["sk_bits"])
        layers = page.locator(".layers tbody tr td:nth-child(2)").all()
        assert sum(map(number, layers)) == number(page.locator(".layers tfoot td").first)
        expect(page.locator("[data-part=cumulative] .label.other")).to_have_count(2)
        expect(page.locator("#text")).to_contain_text("It was the best of times", timeout=30_000)
        expect(page.locator("#text .p")).to_have_count(0)
        page.reload()
    shot(page, "run")


def test_what_a_token_cost_by_keys_and_by_pointer(open_page, cluster, verified):
    page = open_page(f"/runs/{verified['transmission']}")
    url = f"{cluster.bob}/transmissions/{verified['transmission']}/decoded"
    costs = httpx.get(url, params={"first": 0, "count": 10}, trust_env=False).json()["pieces"][0]["bits"]
    page.locator("#text").focus()
    for place in range(3):
        page.keyboard.press("ArrowRight")
        expect(page.locator("#readout")).to_contain_text(f"token {place}: {costs[place]:.2f} bits")
    page.locator("#text [data-p='7']").hover()
    expect(page.locator("#readout")).to_contain_text(f"token 7: {costs[7]:.2f} bits")
    page.locator("#from").fill("60000")
    expect(page.locator("#text span").nth(1)).to_have_attribute("data-p", "60000")


def test_the_step_curve_comes_in(open_page, client, shot):
    dataset = client.post_octets(TEXT[:50_000], "half of times.txt")["id"]
    page = open_page(f"/data/{dataset}")
    curve = page.locator("[data-part=curve]")
    expect(curve).to_contain_text("No points yet.")
    page.get_by_text("Draw it").click()
    form = page.locator("#steps")
    form.get_by_label("Train on").select_option("file")
    corpus = {"name": "winter.txt", "mimeType": "text/plain", "buffer": b"it was the winter of despair, " * 900}
    form.get_by_label("the file").set_input_files(corpus)
    form.get_by_label("k =").fill("0,1,4")
    form.get_by_role("button", name="Draw the curve").click()
    expect(curve).to_contain_text("3 points", timeout=30_000)
    expect(curve.locator("svg").first.locator("circle.s0:not(.tip circle):not(.thin)")).to_have_count(3)
    curve.get_by_text("Values").first.click()
    expect(curve.locator("tbody th").first).to_have_text("0")
    page.reload()
    expect(curve).to_contain_text("3 points")
    shot(page, "curve")
    form = page.locator("#steps")
    page.get_by_text("Add points").click()
    form.get_by_label("k =").fill("7")
    form.get_by_label("Train on").select_option("")
    form.get_by_role("button", name="Draw the curve").click()
    open_page.seen.expected.append("422")
    expect(page.get_by_role("alert")).to_contain_text("need a corpus")


def test_bob_draws_and_charts_tell_their_values(open_page, client, verified, shot):
    page = open_page(f"/runs/{verified['transmission']}")
    page.get_by_label("tokens").last.fill("60")
    page.get_by_label("seed").fill("5")
    page.get_by_role("button", name="Draw").click()
    drawn = client.sample(verified["transmission"], 60, 5)
    expect(page.locator("#drawn .rates dd")).to_have_text(["60", f"{drawn['nll_bits']:,.1f}", f"{drawn['flips']:,}"])
    assert page.locator("#drawn .text").inner_text().split() == drawn["text"].split()
    chart = page.locator("[data-part=cumulative] svg")
    tips = chart.locator(".tip:visible")
    expect(tips).to_have_count(0)
    stop = chart.locator(".stop").nth(11)
    stop.locator(".hit").hover()
    expect(tips).to_have_count(1)
    expect(tips).to_contain_text("ngram: ")
    shot(page, "run-sampled")
    summary = page.locator("[data-part=cumulative] summary")
    summary.focus()
    page.keyboard.press("Enter")
    rows = page.locator("[data-part=cumulative] tbody tr")
    expect(rows).to_have_count(12)
    assert number(rows.last.locator("td").last) == round(verified["nll_bits"])


def test_compare_and_sort(open_page, verified, shot):
    page = open_page(f"/data/{verified['dataset']['sha256']}")
    page.locator("#again input[value=ngram]").uncheck()
    page.locator("#again input[value=uniform]").check()
    page.locator("#again input[value=frequency]").check()
    page.get_by_role("button", name="Transmit").click()
    page.wait_for_url("**/data/*")
    rows = page.locator("[data-part=table] tbody tr")
    expect(rows.filter(has_text="uniform").locator(".badge").first).to_have_text("verified", timeout=30_000)
    expect(rows.filter(has_text="frequency").locator(".badge").first).to_have_text("verified", timeout=30_000)
    for name in ("frequency", "ngram", "gzip -9", "xz -9e"):
        expect(page.locator("[data-part=cumulative] .label", has_text=name)).to_have_count(1)
    for clicks, order in ((1, 1), (2, -1)):
        page.get_by_role("button", name="bits/byte").click()
        expect(page.get_by_role("columnheader", name="bits/byte")).to_have_attribute(
            "aria-sort", ["", "ascending", "descending"][clicks]
        )
        found = [number(one) for one in page.locator("[data-part=table] tbody td:nth-child(6)").all()]
        assert len(found) >= 3
        assert found == sorted(found, reverse=order < 0)
    page.reload()
    expect(rows.first.locator(".badge")).to_have_text("verified")
    shot(page, "compare")
    rows.first.get_by_role("link").click()
    page.wait_for_url("**/runs/*")


def test_the_open_block_is_provisional_until_it_is_checked(open_page, cluster, client):
    data = np.random.default_rng(next(_seeds)).integers(0, 90, 1_000_000, dtype=np.uint8).tobytes()
    spec = {"model": {"kind": "ngram"}, "block_tokens": 1 << 20}
    with httpx.Client(base_url=cluster.alice, trust_env=False) as alice:
        begun = alice.post("/transmissions", json={"dataset": client.post_octets(data, "noise")["id"], "code": spec}).json()
        page = open_page(f"/runs/{begun['id']}")
        page.get_by_role("button", name="Pause").click(timeout=10_000)
        expect(page.locator("[data-part=state] .badge")).to_have_text("paused")
        expect(page.locator("#text .p").first).to_be_visible()
        assert page.locator("#text [data-b]:not(.p)").count() == 0
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("[data-part=state] .badge")).to_have_text("verified", timeout=30_000)
        expect(page.locator("#text .p")).to_have_count(0)
        expect(page.locator("#text [data-b]").first).to_be_visible()


def test_errors_are_sentences(open_page, cluster, client):
    page = open_page("/")
    page.get_by_role("button", name="Transmit").click()
    expect(page.get_by_role("alert")).to_have_text("Choose a file, take the sample, or write something first.")
    open_page.seen.expected += ["413", "404", "409"]  # Chromium's own lines about answers that are errors
    big = {"name": "big", "mimeType": "application/octet-stream", "buffer": b"\0" * (5 << 20)}
    page.get_by_label("Drop a file here").set_input_files(big)
    page.get_by_role("button", name="Transmit").click()
    expect(page.get_by_role("alert")).to_contain_text("CODELENGTH_MAX_UPLOAD_BYTES")
    page.goto(f"/runs/{'0' * 32}")
    expect(page.get_by_role("alert")).to_contain_text("No transmission")
    page.goto("/runs/none")
    expect(page.get_by_role("alert")).to_contain_text("address")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_at_phone_width(open_page, verified, shot, scheme):
    """axe's rules on every page; nothing wider than the phone; every control has a name and can be reached."""
    from axe_playwright_python.sync_playwright import Axe

    paths = {"run": f"/runs/{verified['transmission']}"}
    if scheme == "light":
        paths |= {"home": "/", "compare": f"/data/{verified['dataset']['sha256']}"}
    for name, path in paths.items():
        page = open_page(path, color_scheme=scheme, bypass_csp=True, **PHONE)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        if name == "run":
            page.get_by_role("button", name="Draw").click()
            expect(page.locator("#drawn .rates")).to_be_visible()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") == 390, name
        shot(page, f"{name}-phone-{scheme}")


def test_dark_and_light(open_page, verified, shot):
    page = open_page(f"/runs/{verified['transmission']}", color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    shot(page, "run-dark")
    page.get_by_role("button", name="Colours").click()
    assert page.evaluate(ground) != dark
    page.reload()
    assert page.evaluate(ground) != dark
