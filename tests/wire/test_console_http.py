"""The console without a browser: who may call it, what Bob tells it, and what it says where the services are not there."""

import asyncio
import json
import re

import httpx
import numpy as np
import pytest

from bob.app import create_app as create_bob
from harness.console import app as console_app
from harness.console.app import create_app
from harness.console.settings import ConsoleSettings
from harness.console.watching import Watch
from shared.code.models import preset
from shared.code.size import FBits
from shared.service.records import CodeReference, Dataset, FBitsRecord, Transmission
from shared.service.settings import Settings

TEXT = (b"It was the best of times, it was the worst of times. " * 3000)[:100_000]


@pytest.fixture
async def console(cluster):
    """The console's application over ASGITransport."""
    async for one in serve(ConsoleSettings(alice_url=cluster.alice, bob_url=cluster.bob)):
        yield one


async def serve(settings):
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000", timeout=30) as http,
    ):
        yield http


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Host": "evil.example"}, 400),  # a name of somebody else's that points at us
        ("POST", {"Origin": "https://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Origin": "http://127.0.0.1:8000"}, 200),
        ("POST", {}, 200),
    ],
)
async def test_other_sites_may_not_use_it(console, method, headers, status):
    path = "/" if method == "GET" else "/datasets?name=x"
    answer = await console.request(method, path, headers=headers, content=b"abc" if method == "POST" else None)
    assert answer.status_code == status


async def test_pages_load_nothing_from_elsewhere(console):
    page = await console.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    for name in ("console.css", "figures.css", "console.js", "theme.js", "icon.svg"):
        one = await console.get(f"/static/{name}")
        assert one.status_code == 200
        assert "http://" not in one.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in one.text


async def test_services_that_are_not_there_are_named_in_a_sentence():
    async for console in serve(ConsoleSettings(alice_url="http://127.0.0.1:9", bob_url="http://127.0.0.1:9")):
        page = await console.get("/")
        assert page.status_code == 200
        assert "Alice does not answer at http://127.0.0.1:9" in page.text
        answer = await console.get(f"/runs/{'0' * 32}")
        assert (answer.status_code, "does not answer" in answer.json()["detail"]) == (502, True)
        assert (await console.get("/readyz")).json()["alice"] == "not there"


def test_bob_tells_what_he_has_decoded(cluster, client):
    result = client.transmit(client.post_octets(TEXT, "x")["id"], "frequency")
    url = f"{cluster.bob}/transmissions/{result['transmission']}/decoded"
    with httpx.Client(trust_env=False) as http:
        found = http.get(url, params={"first": 70_000, "count": 500}).json()
        newest = http.get(url, params={"count": 10}).json()
        costs = http.get(url.replace("decoded", "bits"), params={"per": "token"}).json()["per_token"]
        assert http.get(url, params={"first": 1 << 40}).json()["pieces"] == []
    (piece,) = found["pieces"]
    assert (found["checked"], found["decoded"], piece["provisional"]) == (len(TEXT), len(TEXT), False)
    assert bytes(piece["tokens"]) == TEXT[70_000:70_500]
    assert np.allclose(piece["bits"], costs[70_000:70_500], atol=1e-4)
    assert (newest["pieces"][0]["first"], bytes(newest["pieces"][0]["tokens"])) == (len(TEXT) - 10, TEXT[-10:])


async def test_what_bob_has_only_heard_of_is_an_empty_text(tmp_path):
    """His record is there before the first token: a page opened in that moment must not say that nothing is held."""
    app, identifier, spec = create_bob(Settings(state_directory=tmp_path, warm="")), "0" * 32, preset("ngram")
    dataset = Dataset(
        id="", sha256="", vocabulary="bytes", vocabulary_size=256, tokens=9, bytes=None, media_type="text/plain", name="x"
    )
    record = Transmission(
        id=identifier,
        dataset=dataset,
        code=CodeReference.of("ngram", spec),
        f_bits=FBitsRecord.of(FBits(spec=1, source=1, assets=0)),
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bob", timeout=30) as http,
    ):
        app.state.services.registry.add(record)
        for path, status in (("decoded", 200), ("decoded?first=0", 200), ("reconstruction", 409)):
            answer = await http.get(f"/transmissions/{identifier}/{path}")
            assert answer.status_code == status
            assert answer.json().get("pieces", []) == []


async def test_token_ids_are_shown_as_numbers(console, cluster, client):
    ids = np.arange(3000, dtype="<u2") % 300
    posted = await console.post("/datasets?form=uint16&vocabulary_size=300&name=ids", content=ids.tobytes())
    assert posted.json()["vocabulary_size"] == 300
    begun = await console.post("/transmissions", json={"dataset": posted.json()["id"], "codes": ["frequency"]})
    page = begun.json()["location"]
    lines = [line async for line in follow(console, page)]
    assert '"settled"' in lines[-1]
    text = (await console.get(page)).text
    assert ">299 </span>" in text
    assert "9.28771" not in text  # log2 300 = 8.22882
    assert "8.22882" in text


async def follow(console, page):
    """The data of a page's events until their end."""
    async with console.stream("GET", f"{page}/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                yield line


async def test_the_last_thing_a_page_is_told_is_how_it_ended(cluster, client, console, monkeypatch):
    """What is asked for between two pictures takes its time: what has ended meanwhile must still be shown."""
    table, read = console_app._table, Watch._read

    async def slow_table(held, sha256, identifier):
        await asyncio.sleep(1.0 if held.watches._held[identifier].settled else 0)
        return await table(held, sha256, identifier)

    async def slow_read(watch):
        await asyncio.sleep(0.4)
        await read(watch)

    monkeypatch.setattr(console_app, "_table", slow_table)
    monkeypatch.setattr(Watch, "_read", slow_read)
    data = np.random.default_rng(77).integers(0, 90, 1_000_000, dtype=np.uint8).tobytes()
    asked = {"dataset": client.post_octets(data, "noise")["id"], "code": {"model": {"kind": "ngram"}, "block_tokens": 1 << 20}}
    async with httpx.AsyncClient(base_url=cluster.alice, trust_env=False) as alice:
        begun = (await alice.post("/transmissions", json=asked)).json()["id"]
        await alice.post(f"/transmissions/{begun}/pause")
        page = asyncio.create_task(console.get(f"/runs/{begun}/events"))
        await asyncio.sleep(1.5)
        await alice.post(f"/transmissions/{begun}/resume")
        events = (await page).text
    assert "event: end" in events
    texts = [found["text"] for found in map(json.loads, re.findall(r"^data: (\{.*)$", events, re.MULTILINE)) if "text" in found]
    provisional = [len(re.findall(r'class="[^"]* p"', one)) for one in texts]
    assert max(provisional) > 0
    assert provisional[-1] == 0
